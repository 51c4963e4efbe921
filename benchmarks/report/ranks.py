"""Which settings stand for the whole comparison, and how the methods rank in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from .intervals import tied
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


def ranks(scores: Mapping[str, float], tied: Callable[[str, str], bool | None]) -> dict[str, float]:
    """1 for the highest: 1 for each that is better, and 1/2 for each that is tied, are added to it.

    Args:
        tied: of two names, whether neither is better than the other; None to compare their scores.
    """
    found = dict.fromkeys(scores, 1.0)
    for one, other in itertools.combinations(scores, 2):
        equal = tied(one, other)
        if scores[one] == scores[other] if equal is None else equal:
            found[one] += 0.5
            found[other] += 0.5
        else:
            found[min(one, other, key=scores.__getitem__)] += 1
    return found


def mean_ranks(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
    """Of each method with a score of every seed: its mean rank, each data set counting once, and over how many.

    Methods whose difference has an interval with 0 in it are tied. What has one seed and no interval is not ranked.
    """
    by_group: dict[str, dict[tuple[str, str], list[float]]] = {}
    for setting in settings_of(rows):
        for metric in setting.metrics:
            own = [row for row in rows if row.setting == setting and row.is_complete and row.scores(metric)]
            for method, rank in ranks_of(own, metric).items():
                by_group.setdefault(method, {}).setdefault(setting.group, []).append(rank)
    return {method: (mean(map(mean, groups.values())), len(groups)) for method, groups in by_group.items()}


def ranks_of(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Of rows of one setting. One seed without an interval has no rank: there is nothing to judge a difference by."""
    here = {row.method: row for row in rows if row.num_seeds > 1 or metric in row.draws}
    if len(here) < min(2, len(rows)):
        return {}
    means = {method: mean(row.scores(metric)) for method, row in here.items()}
    return ranks(means, lambda one, other: tied(here[one], here[other], metric))


def ordered_methods(rows: Sequence[Row]) -> list[str]:
    """Best mean rank first; those that did not run on all data sets after those that did."""
    known = mean_ranks(rows)
    methods = {row.method for row in rows}
    return sorted(methods, key=lambda name: (-known[name][1], known[name][0], name) if name in known else (1, 0, name))
