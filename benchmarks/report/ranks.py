"""Which settings stand for the whole comparison, and how the methods rank in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from .rows import Row, Setting, settings_of

MOST_SETTINGS = 8
"""So many settings can be shown side by side."""


def main_settings(rows: Sequence[Row]) -> list[Setting]:
    """All settings of a model; if these are too many, of each data set the one that most methods ran.

    Among equals it is the one with the most training examples.
    """
    chosen: list[Setting] = []
    for model in dict.fromkeys(row.setting.model for row in rows):
        settings = [setting for setting in settings_of(rows) if setting.model == model]
        if len(settings) > MOST_SETTINGS:
            methods = {setting: sum(row.setting == setting for row in rows) for setting in settings}
            best: dict[tuple[str, str], Setting] = {}
            for setting in settings:  # from few examples to many
                if setting.group not in best or methods[setting] >= methods[best[setting.group]]:
                    best[setting.group] = setting
            settings = list(best.values())
        chosen += settings
    return chosen


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """1 for the highest; equal scores share the mean of their ranks."""
    values = list(scores.values())
    return {
        name: 1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for name, value in scores.items()
    }


def mean_ranks(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
    """Of each method with a score of every seed: its mean rank, each data set counting once, and over how many."""
    by_group: dict[str, dict[tuple[str, str], list[float]]] = {}
    for setting in settings_of(rows):
        for metric in setting.metrics:
            here = {row.method: row.scores(metric) for row in rows if row.setting == setting and row.is_complete}
            for method, rank in ranks({method: mean(values) for method, values in here.items() if values}).items():
                by_group.setdefault(method, {}).setdefault(setting.group, []).append(rank)
    return {method: (mean(map(mean, groups.values())), len(groups)) for method, groups in by_group.items()}


def ordered_methods(rows: Sequence[Row]) -> list[str]:
    """Best mean rank first; those that did not run on all data sets after those that did."""
    known = mean_ranks(rows)
    methods = {row.method for row in rows}
    return sorted(methods, key=lambda name: (-known[name][1], known[name][0], name) if name in known else (1, 0, name))
