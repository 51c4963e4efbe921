"""What a method costs, and what a user has of it beside the score."""

from __future__ import annotations

from collections.abc import Callable
from statistics import stdev

from ..report.content import Cell as Field
from ..report.content import Table, table
from ..report.rows import Row
from ..report.score_cells import NOTHING
from .answer import LORA
from .cells import NAMES
from .summary import Summary, changed_share, metric_of

COSTS = (
    "Losses are in nats per word (MiniLM) or target token. The calibration error says how far the scores of answers "
    "lie from the share of right ones, in ten bins (0: they agree). Forgetting is the rise of the loss on plain text. "
    "The spread is the standard deviation of the score over seeds, in points. Entries are in percent of the base "
    "model's parameters: those that a mask has changed in the end, and of methods without a mask those that are "
    "trained; LoRA's, once merged, change all weights of its matrices. Files hold float32 values and the classifier. "
    "The peak of memory in training, mask updates included, is relative to that of LoRA r8 in the same cell. Times are "
    "left out, since other processes shared the machine: the report on speed has them."
)


def cost_table(summary: Summary, title: str) -> Table:
    """All figures are means over seeds and then over data sets."""
    reference = summary.named(LORA) or summary.methods[0]
    memory = summary.mean(reference, peak)
    rows = []
    for method in summary.methods:
        row = [
            NAMES[method],
            number(summary.mean(method, lambda row: row.losses), 3),
            number(summary.mean(method, training_losses), 3),
            number_of_all(summary, method, lambda row: row.calibration_errors, 2),
            number_of_all(summary, method, lambda row: row.forgetting, 2),
            NOTHING if summary.num_seeds == 1 else number(summary.mean(method, spread), 1),
            number(summary.mean(method, changed_share), 1),
            number(summary.saved(method), 1),
            number(summary.mean(method, peak) / memory, 2),
            ", ".join(f"{rate:g}" for rate in sorted({rate for own in summary.of(method) for rate in rates(own)})),
        ]
        rows.append(row)
    header = (
        *("method", "test loss", "training loss", "calibration error", "forgetting", "spread", "entries, %"),
        *("MiB on disk", "peak memory", "learning rate"),
    )
    return table(title, header, rows)


def number_of_all(summary: Summary, method: str, figures: Callable[[Row], list[float]], digits: int) -> Field:
    """Of runs that measured it; nothing if a data set has none."""
    if not all(figures(row) for row in summary.of(method)):
        return NOTHING
    return number(summary.mean(method, figures), digits)


def training_losses(row: Row) -> list[float]:
    """Of the last steps."""
    return [run["train_info"]["metrics"][-1]["train loss"] for run in row.successes]


def spread(row: Row) -> list[float]:
    return [stdev(row.scores(metric_of(row)))]


def peak(row: Row) -> list[float]:
    return row.figures("memory_after_fit")


def rates(row: Row) -> list[float]:
    return [run["run_info"]["train_config"]["learning_rate"] for run in row.successes]


def number(value: float, digits: int) -> Field:
    return Field(f"{value:.{digits}f}", value)
