"""How the cells were measured, and what of them is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.content import Table, table
from ..results import read_results, short_revision
from .cells import NAMES, Cell
from .summary import Summary, is_success


def condition_table(found: Sequence[Summary], cells: Sequence[Cell]) -> Table:
    """A row for each cell that has runs, of which there may be more than the tables show."""
    rows = []
    for cell in cells:
        runs = [run for run in read_results(cell.folder) if is_success(run)]
        if not runs:
            continue
        datasets = {run["run_info"]["train_config"]["dataset"] for run in runs}
        row = [cell.name, cell.model, ", ".join(name for name in cell.tasks if name in datasets), cell.num_train]
        row += [f"{cell.steps} of {cell.batch_size}", cell.seeds, cell.max_test, rates(cell), len(runs)]
        rows.append([*row, ", ".join(revisions(runs))])
    header = (
        *("cell", "model", "data sets", "sentences", "steps", "seeds", "scored", "learning rates", "runs"),
        "revision",
    )
    notes = [
        "Each cell has a report of its own in its folder, with all seeds, intervals and pictures.",
        "AdamW trains a new classifier at 1e-3 beside every adapter, and in full fine-tuning at the rate of the rest, "
        "unless the name of the method says so.",
        *filter(None, [missing_cells(cells), *map(missing, found)]),
    ]
    return table("The cells", header, rows, *notes)


def rates(cell: Cell) -> str:
    """What was chosen from, and by what."""
    if cell.rates == ("own",):
        return "as given"
    where = f" (in {cell.rates_from})" if cell.rates_from else ""
    return f"of {', '.join(cell.rates)}, by validation sentences of {cell.tasks[0]}, one seed{where}"


def missing_cells(cells: Sequence[Cell]) -> str:
    """Cells without any run, in a sentence; empty if each has one."""
    names = [cell.name for cell in cells if not any(is_success(run) for run in read_results(cell.folder))]
    return f"Not measured yet: {', '.join(names)}." if names else ""


def missing(summary: Summary) -> str:
    """What of the cells of a table was not measured, or failed, in a sentence; empty if nothing."""
    planned = [method for cell in summary.cells for method in cell.methods]
    parts = [NAMES[method] for method in planned if method not in summary.methods]
    parts += [name for name in summary.cell.tasks if name not in summary.data_sets]
    parts += [f"seed {seed}" for seed in range(summary.num_seeds, summary.cell.seeds)]
    return f"{summary.cell.name} has no complete runs yet of {', '.join(parts)}." if parts else ""


def revisions(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({short_revision(run["run_info"]["git_revision"]) for run in runs})
