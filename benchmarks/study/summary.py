"""What a cell of the study came to: scores over its data sets, and their differences to those of another method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Any

import numpy as np

from ..problems import METRICS
from ..report.bootstrap import LEVEL, SEEDS, Draws, Floats, Interval, generator
from ..report.intervals import positions, with_intervals
from ..report.rows import Row, make_rows
from ..results import read_results
from .cells import NAMES, Cell


@dataclass(frozen=True)
class Summary:
    """The rows of a cell, of those data sets and seeds for which each of its methods has a run."""

    cell: Cell
    rows: dict[tuple[str, str], Row]
    """By data set and method."""
    others: tuple[Cell, ...] = ()
    """Whose methods stand in its tables, too."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self.cell, *self.others)

    @property
    def num_seeds(self) -> int:
        return next(iter(self.rows.values())).num_seeds

    @property
    def data_sets(self) -> list[str]:
        return [name for name in self.cell.tasks if any(name == other for other, _ in self.rows)]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for _, method in self.rows))

    def named(self, name: str) -> str | None:
        """The method that has this name in words, if there is one."""
        return next((method for method in self.methods if NAMES[method] == name), None)

    def of(self, method: str) -> list[Row]:
        """Its rows, one for each data set."""
        return [self.rows[name, method] for name in self.data_sets]

    def score(self, method: str) -> float:
        """The first metric of each data set, mean over seeds and then over data sets, in percent."""
        return mean(mean(row.scores(metric_of(row))) for row in self.of(method))

    def mean(self, method: str, figure: Callable[[Row], Sequence[float]]) -> float:
        """Mean over seeds and then over data sets of a figure of each run."""
        return mean(mean(figure(row)) for row in self.of(method))

    def saved(self, method: str) -> float:
        """MiB of what is saved."""
        return self.mean(method, lambda row: row.figures("file_size")) / 2**20

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


def summarized(cell: Cell, *others: Cell) -> Summary | None:
    """None if there is no data set yet on which all methods of the cell have a run of the same seed.

    A method without any run is left out. Of the data sets those count that have most seeds with runs of all others, and
    of these seeds those which all of these data sets have. Methods of other cells are added if they have all of these.
    """
    cells = [cell, *others]
    runs = {place_of(run): run for each in cells for run in read_results(each.folder) if is_success(run)}
    methods = [method for method in cell.methods if any(method == other for _, other, _ in runs)]
    if not methods:
        return None
    common = {
        name: set.intersection(*({seed for *place, seed in runs if place == [name, method]} for method in methods))
        for name in cell.tasks
    }
    names = [name for name in cell.tasks if len(common[name]) == max(map(len, common.values()))]
    seeds = set.intersection(*(common[name] for name in names))
    if not seeds:
        return None
    planned = [method for each in others for method in each.methods]
    methods += [method for method in planned if all((name, method, seed) in runs for name in names for seed in seeds)]
    kept = [run for (name, method, seed), run in runs.items() if name in names and method in methods and seed in seeds]
    rows = {(row.setting.dataset, row.method): row for row in with_intervals(make_rows(kept))}
    return Summary(cell, {(name, method): rows[name, method] for name in names for method in methods}, others)


def is_success(result: Mapping[str, Any]) -> bool:
    return bool(result["train_info"]["status"] == "success")


def place_of(result: Mapping[str, Any]) -> tuple[str, str, int]:
    """Data set, method and seed of a run."""
    config = result["run_info"]["train_config"]
    return config["dataset"], result["run_info"]["experiment_name"], config["seed"]


def metric_of(row: Row) -> str:
    return METRICS[row.setting.task][0]


def changed_share(row: Row) -> list[float]:
    """Entries that training changed, in percent of the base model's parameters."""
    of = row.figures("num_base_params")
    infos = [run["train_info"] for run in row.successes]
    last = [(info["mask_updates"] or [{}])[-1] for info in infos]
    entries = [
        update.get("mask_support", info["num_trainable_params"]) for update, info in zip(last, infos, strict=True)
    ]
    return [100 * count / total for count, total in zip(entries, of, strict=True)]


def difference_draws(row: Row, other: Row) -> Draws:
    """Of each draw of test examples and each seed that both rows have."""
    own, others, metric = positions(row), positions(other), metric_of(row)
    common = [seed for seed in own if seed in others]
    here, there = [own[seed] for seed in common], [others[seed] for seed in common]
    return row.draws[metric][:, here] - other.draws[metric][:, there]


def mean_over_data_sets(draws: Sequence[Draws], value: float) -> Interval:
    """The percentile interval of the mean over data sets of the mean over seeds.

    Each data set has seeds and test examples of its own: that its seed 0 has the number of another's tells nothing.
    """
    means = np.mean([means_over_seeds(own, generator(SEEDS, i)) for i, own in enumerate(draws)], axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def means_over_seeds(draws: Draws, random: np.random.Generator) -> Floats:
    """Of seeds drawn with replacement, for each draw of examples, in a random order: (draws,)."""
    chosen = random.integers(draws.shape[1], size=draws.shape)
    means: Floats = np.take_along_axis(draws, chosen, axis=1).mean(axis=1)
    return random.permutation(means)
