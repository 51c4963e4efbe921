"""What a cell of the study came to: scores over its data sets, and their differences to those of another method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

import numpy as np

from ..problems import METRICS
from ..report.bootstrap import LEVEL, SEEDS, Draws, Interval, generator
from ..report.intervals import positions, with_intervals
from ..report.rows import Row, make_rows
from ..results import read_results
from .cells import Cell


@dataclass(frozen=True)
class Summary:
    """The rows of a cell, of those data sets on which each of its methods has a run of each seed."""

    cell: Cell
    rows: dict[tuple[str, str], Row]
    """By data set and method."""

    @property
    def data_sets(self) -> list[str]:
        return [name for name in self.cell.tasks if any(name == other for other, _ in self.rows)]

    @property
    def methods(self) -> list[str]:
        return [method for method in self.cell.methods if any(method == other for _, other in self.rows)]

    def of(self, method: str) -> list[Row]:
        """Its rows, one for each data set."""
        return [self.rows[name, method] for name in self.data_sets]

    def score(self, method: str) -> float:
        """The first metric of each data set, mean over seeds and then over data sets, in percent."""
        return mean(mean(row.scores(metric_of(row))) for row in self.of(method))

    def mean(self, method: str, figure: Callable[[Row], Sequence[float]]) -> float:
        """Mean over seeds and then over data sets of a figure of each run."""
        return mean(mean(figure(row)) for row in self.of(method))

    def difference(self, method: str, other: str) -> Interval:
        """Of the scores of two methods, on the same data sets, seeds and test examples.

        The interval is over seeds and test examples; the data sets are as they are.
        """
        return mean_over_data_sets(
            [difference_draws(self.rows[name, method], self.rows[name, other]) for name in self.data_sets],
            self.score(method) - self.score(other),
        )

    def interval(self, method: str) -> Interval:
        """Of the score."""
        draws = [row.draws[metric_of(row)] for row in self.of(method)]
        return mean_over_data_sets(draws, self.score(method))

    @cached_property
    def num_runs(self) -> int:
        return sum(len(row.successes) for row in self.rows.values())


def summarized(cell: Cell) -> Summary | None:
    """None if there is no data set yet on which all methods have all seeds."""
    results = read_results(cell.folder)
    rows = {(row.setting.dataset, row.method): row for row in with_intervals(make_rows(results))} if results else {}
    complete = [
        name
        for name in cell.tasks
        if all(len(rows[name, m].successes) == cell.seeds if (name, m) in rows else False for m in cell.methods)
    ]
    kept = {key: row for key, row in rows.items() if key[0] in complete and key[1] in cell.methods}
    return Summary(cell, kept) if kept else None


def metric_of(row: Row) -> str:
    return METRICS[row.setting.task][0]


def difference_draws(row: Row, other: Row) -> Draws:
    """Of each draw of test examples and each seed that both rows have."""
    own, others, metric = positions(row), positions(other), metric_of(row)
    common = [seed for seed in own if seed in others]
    here, there = [own[seed] for seed in common], [others[seed] for seed in common]
    return row.draws[metric][:, here] - other.draws[metric][:, there]


def mean_over_data_sets(draws: Sequence[Draws], value: float) -> Interval:
    """The percentile interval of the mean over data sets of the mean over seeds; all have the same seeds."""
    seeds = draws[0].shape[1]
    chosen = generator(SEEDS).integers(seeds, size=(len(draws[0]), seeds))
    means = np.mean([np.take_along_axis(own, chosen, axis=1).mean(axis=1) for own in draws], axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
