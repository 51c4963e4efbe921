"""The study's one page: a table, two pictures, and what the variants of the recipe came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..report import write_files
from ..report.content import Cell as Field
from ..report.content import Gallery, Section, Table, table
from ..report.intervals import difference
from ..report.rows import DATASETS, Row
from ..report.score_cells import NOTHING, bounds, score_cell
from ..settings import SettingsError
from .answer import answer
from .cells import CELLS, NAMES, STUDY
from .conditions import condition_table
from .costs import COSTS, cost_table, number, training_losses
from .pairs import LORA, difference_field, pair_table
from .pictures import score_by_examples, score_by_size
from .summary import Summary, changed_share, summarized

TITLE = "What Fish-Dip is good for"
DEFAULT = "fishdip/default"
QUESTION = (
    "Entities are to be found by a pretrained model with few labelled sentences. How does Fish-Dip, as it is by "
    "default, compare with full fine-tuning, LoRA and masks that stay, in the score, in what it keeps and in what it "
    "costs?"
)
SCORES = (
    "F1 in percent, mean over seeds and then over the data sets of a cell. In brackets the difference to LoRA r8 with"
    " its 95 % interval, a bootstrap over the seeds and test sentences of each data set; the data sets are taken as "
    "they are. With two or three seeds such intervals are too narrow, and nothing is corrected for the number of "
    "comparisons: one that nearly reaches 0 shows little."
)
PAIRS = "The same optimizer, or as many changed entries"
DATA_SETS = (
    "Scores in percent, mean over seeds, with the 95 % interval of a bootstrap over seeds and test examples. The last"
    " line is the difference of Fish-Dip as it is by default to LoRA r8."
)
VARIANTS = (
    "Each row changes one thing of the default recipe; that of another optimizer its rate and the unit of deltas, "
    "too. Scores are of validation sentences, by some of which the rate of the default was chosen; differences are to"
    " it."
)


def write_study(folder: Path = STUDY) -> Path:
    """Write report.md, whose path is returned, and its pictures.

    Raises:
        SettingsError: no cell has runs of all methods and seeds on a data set yet.
    """
    beside = [cell for cell in CELLS.values() if cell.shown_with]
    shown = [cell for cell in CELLS.values() if not cell.shown_with]
    found = [
        x for cell in shown if (x := summarized(cell, *(other for other in beside if other.shown_with == cell.name)))
    ]
    tested = [summary for summary in found if summary.cell.part == "test" and len(summary.methods) > 1]
    entities = [summary for summary in tested if summary.cell.finds_entities]
    if not entities:
        raise SettingsError(
            "no cell has runs of all methods on a data set yet; run `python -m benchmarks.study measure`"
        )
    blocks = (
        score_table(entities),
        pair_table(entities, PAIRS, ("pair", *map(title, entities))),
        difference_table(entities),
        Gallery("Pictures", "", (score_by_examples(entities), score_by_size(entities))),
    )
    parts = [
        Section("answer", "Answer", answer(entities), ()),
        Section("scores", "Scores", SCORES, blocks),
        Section("data-sets", "Each data set", DATA_SETS, tuple(map(data_set_table, tested))),
        Section("costs", "Losses and costs", COSTS, tuple(cost_table(summary, title(summary)) for summary in tested)),
        *(
            Section("variants", "Variants of the recipe", VARIANTS, (variant_table(summary),))
            for summary in found
            if summary.cell.part == "validation"
        ),
        Section("conditions", "Conditions", "", (condition_table(found, [*CELLS.values()]),)),
    ]
    write_files(folder, TITLE, QUESTION, parts)
    return folder / "report.md"


def names_of(found: Sequence[Summary]) -> list[str]:
    """Of all methods, in words, in the order of the cells."""
    return list(dict.fromkeys(NAMES[method] for summary in found for method in summary.methods))


def score_table(found: Sequence[Summary]) -> Table:
    rows = []
    for name in names_of(found):
        row: list[object] = [name]
        for summary in found:
            method = summary.named(name)
            row.append(NOTHING if method is None else score_field(summary, method))
        rows.append(row)
    header = ("method", *(title(summary) for summary in found))
    return table("Entity F1 on test sentences", header, rows)


def difference_table(found: Sequence[Summary]) -> Table:
    """Of Fish-Dip as it is by default minus the others."""
    rows = []
    for name in names_of(found):
        row: list[object] = [name]
        for summary in found:
            method = summary.named(name)
            row.append(NOTHING if method in (None, DEFAULT) else difference_field(summary, DEFAULT, method or ""))
        rows.append(row)
    shown = [row for row in rows if row[0] != NAMES[DEFAULT]]
    return table(f"{NAMES[DEFAULT]} minus the others", ("method", *(title(summary) for summary in found)), shown)


def title(summary: Summary) -> str:
    cell = summary.cell
    count = len(summary.data_sets)
    return f"{cell.model}, {cell.num_train} sentences ({count} data set{'s' * (count > 1)})"


def score_field(summary: Summary, method: str) -> Field:
    """The score and its difference to LoRA; the best, and what is not told apart from it, are marked."""
    value, reference = summary.score(method), summary.named(LORA)
    best = max(summary.methods, key=summary.score)
    leads = method == best or summary.difference(method, best).contains_zero
    if reference is None or method == reference:
        return Field(f"{value:.1f}", value, leads)
    found = summary.difference(method, reference)
    return Field(f"{value:.1f} ({found.value:+.1f} {bounds(found, '+')})", value, leads)


def data_set_table(summary: Summary) -> Table:
    """Of all metrics."""
    columns = [(name, metric) for name in summary.data_sets for metric in summary.rows[name, DEFAULT].setting.metrics]
    rows: list[list[object]] = []
    for method in summary.methods:
        own = [summary.rows[name, method] for name, _ in columns]
        every = list(summary.rows.values())
        fields = [score_cell(every, method, row.setting, metric) for row, (_, metric) in zip(own, columns, strict=True)]
        rows.append([NAMES[method], *fields])
    if reference := summary.named(LORA):
        ours = [(summary.rows[name, DEFAULT], summary.rows[name, reference], metric) for name, metric in columns]
        rows.append([f"{NAMES[DEFAULT]} minus {LORA}", *(difference_cell(*pair) for pair in ours)])
    header = ("method", *(f"{DATASETS.get(name, name)}, {metric.replace('_', ' ')}" for name, metric in columns))
    return table(title(summary), header, rows)


def difference_cell(row: Row, other: Row, metric: str) -> Field:
    found = difference(row, other, metric)
    if found is None:
        return NOTHING
    return Field(f"{found.value:+.1f} {bounds(found, '+')}", found.value)


def variant_table(summary: Summary) -> Table:
    rows = []
    for method in summary.methods:
        loss = summary.mean(method, lambda row: row.losses)
        name = "the default" if method == DEFAULT else NAMES[method]
        row: list[object] = [name, number(summary.score(method), 1)]
        row += [
            NOTHING if method == DEFAULT else difference_field(summary, method, DEFAULT),
            number(loss, 3),
            number(summary.mean(method, training_losses), 3),
            number(summary.mean(method, changed_share), 1),
            number(summary.saved(method), 1),
        ]
        rows.append(row)
    header = ("variant", "F1", "difference", "loss", "training loss", "entries, %", "MiB on disk")
    return table(f"{title(summary)}, {summary.num_seeds} seeds", header, rows)
