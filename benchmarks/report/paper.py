"""What survives of the paper's own figures (Das et al., EMNLP 2023), beside ours.

The text at hand has lost most cells of the paper's tables: where the column of a figure is not known, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .content import Cell, Section, Table
from .ranks import ordered_methods
from .rows import Row, settings_of
from .score_cells import score_cell
from .tables import metric_title


@dataclass(frozen=True)
class Published:
    """A row of a table of the paper; percent, mean ± standard deviation as printed there."""

    system: str
    trained: str
    metric: str
    figures: str
    columns: str


UNKNOWN = "one cell of six survives; its column is unknown"
JOINT = (
    Published("TANL", "100 %", "entity F1", "81.35 ± 0.6", UNKNOWN),
    Published("ASP (T5-large)", "100 %", "entity F1", "75.02 ± 0.5", UNKNOWN),
    Published("Fixed FISH", "5 %", "entity F1", "73.30 ± 2.0", UNKNOWN),
    Published(
        *("Fish-Dip", "1 %", "entity F1", "56.88 ± 2.8; 81.50 ± 0.9; 84.64 ± 0.8"),
        "three cells of six survive, in this order; their columns are unknown",
    ),
    Published("ASP (T5-large)", "100 %", "relation F1", "40.93 ± 1.9", UNKNOWN),
)
ALL_FOUR = "all four columns"
FEWREL = (
    Published("BERT-EM", "100 %", "accuracy", "88.9; –; 82.8; –", ALL_FOUR),
    Published("BERT-EM+MTB", "100 %", "accuracy", "90.1; –; 83.4; –", ALL_FOUR),
    Published("BERT Pair", "100 %", "accuracy", "85.7; 89.5; 76.8; 81.8", ALL_FOUR),
    Published("Fixed FISH", "1 %", "accuracy", "87.6 ± 5.0", "one cell of four survives; its column is unknown"),
    Published(
        *("Fixed FISH", "5 %", "accuracy", "94.8 ± 5.0; 98.3 ± 2.6; 94.2 ± 2.5"),
        "three cells of four survive, in this order; their columns are unknown",
    ),
)
JOINT_CAPTION = (
    "Theirs, joint entities and relations: T5-large, full test sets. "
    "The columns are CoNLL04 at 1, 5 and 10 % of the training set, then ACE05 at 1, 5 and 10 %"
)
FEWREL_CAPTION = (
    "Theirs, FewRel: T5-large (the BERT rows: BERT). The table's header is lost; the order of the columns is likely "
    "that of the paper's text: 5-way 1-shot, 5-way 5-shot, 10-way 1-shot, 10-way 5-shot"
)
TEXT = (
    "No comparison of like with like: their model is T5-large and their figures are of full test sets, with their own "
    "runs of each system; ours are those of the tables above. The paper's code divides standard deviations by n, "
    "ours are divided by n - 1. Figures of the paper that are not here did not survive in the text at hand."
)


def paper_section(rows: Sequence[Row]) -> Section | None:
    """Left out if none of our results has a counterpart."""
    blocks: list[Table] = []
    for dataset, caption, published in (("conll04", JOINT_CAPTION, JOINT), ("fewrel", FEWREL_CAPTION, FEWREL)):
        for model in dict.fromkeys(row.setting.model for row in rows):
            own = [row for row in rows if (row.setting.dataset, row.setting.model) == (dataset, model)]
            if own:
                blocks += [theirs(caption, published), ours(own)]
    return Section("paper", "The paper's figures", TEXT, tuple(dict.fromkeys(blocks))) if blocks else None


def theirs(caption: str, published: Sequence[Published]) -> Table:
    header = ("system (theirs)", "trained", "metric", "figures that survive, %", "which columns")
    lines = (tuple(map(Cell, (row.system, row.trained, row.metric, row.figures, row.columns))) for row in published)
    return Table(caption, header, tuple(lines))


def ours(rows: Sequence[Row]) -> Table:
    """All settings of one data set side by side."""
    columns = [(setting, metric) for setting in settings_of(rows) for metric in setting.metrics]
    header = (f"{setting.protocol}, {metric_title(metric)}" for setting, metric in columns)
    lines = (
        (Cell(method), *(score_cell(rows, method, setting, metric) for setting, metric in columns))
        for method in ordered_methods(rows)
    )
    setting = rows[0].setting
    return Table(f"Ours, {setting.data_title}: {setting.model}", ("method (ours)", *header), tuple(lines))
