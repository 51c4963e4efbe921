"""Which scores have an interval, and which methods are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

import numpy as np

from ..example_counts import Ratio, ratio
from ..settings import SettingsError
from .bootstrap import Draws, Interval, draws_of_episodes, draws_of_test_set, interval, scores
from .rows import Result, Row, settings_of, train_config

FEWEST = 10
"""Test examples of a seed that it takes for an interval."""

Examples = dict[str, dict[int, list[Ratio]]]
"""By method and seed, the test examples of each episode, or of the one test set."""


def with_intervals(rows: Sequence[Row]) -> list[Row]:
    """The same rows, with draws where their results have counts of test examples.

    Raises:
        SettingsError: counts are damaged, or methods were tested on different examples.
    """
    return [row for setting in settings_of(rows) for row in of_setting([x for x in rows if x.setting == setting])]


def of_setting(rows: Sequence[Row]) -> list[Row]:
    """The same of the rows of one setting.

    Raises:
        SettingsError: counts are damaged, or methods were tested on different examples.
    """
    setting = rows[0].setting
    draws: dict[str, dict[str, Draws]] = {row.method: {} for row in rows}
    for metric in setting.metrics:
        examples = {row.method: found for row in rows if (found := examples_of(row, metric))}
        of_episodes = setting.task == "relation"
        check_same([row for row in rows if row.method in examples], metric, of_episodes)
        if of_episodes:
            by_method = draws_of_episodes(examples) if examples else {}
        else:
            sets = {method: {seed: parts[0] for seed, parts in x.items()} for method, x in examples.items()}
            by_method = draws_of_test_set(sets) if sets else {}
        for method, own in by_method.items():
            draws[method][metric] = own
    return [replace(row, draws=draws[row.method]) for row in rows]


def examples_of(row: Row, metric: str) -> dict[int, list[Ratio]]:
    """What the test examples add to a score, by seed; nothing if a run has no such counts, or too few examples."""
    found = {}
    for run in row.successes:
        try:
            counts = (run["train_info"].get("test_counts") or {}).get(metric)
            parts = [ratio(own) for own in counts or ()]
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingsError(f"{named(run)}: test_counts of {metric} are damaged: {error}; run it anew") from error
        if not parts:
            return {}
        check_score(run, metric, parts)
        if sum(map(len, parts)) < FEWEST:
            return {}
        found[seed_of(run)] = parts
    return found


def check_score(run: Result, metric: str, parts: Sequence[Ratio]) -> None:
    """
    Raises:
        SettingsError: the score that a run recorded is not the one of its counts.
    """
    told = run["train_info"]["metrics"][-1].get(f"test {metric}")
    own = mean(float(scores(part.sum(axis=0))) for part in parts)
    if told is None or abs(100 * told - own) > 1e-6:
        raise SettingsError(f"{named(run)}: {metric} is {told}, but {own / 100} by its test_counts; run it anew")


def check_same(rows: Sequence[Row], metric: str, of_episodes: bool) -> None:
    """
    Raises:
        SettingsError: runs that are paired have other test examples: another number of them, or other gold items.
    """
    test_sets: dict[int, tuple[Row, list[object]]] = {}
    for row in rows:
        for run in row.successes:
            counts = run["train_info"]["test_counts"][metric]
            own = [part.get("gold", len(part["correct"].split())) for part in counts]
            other, expected = test_sets.setdefault(seed_of(run) if of_episodes else 0, (row, own))
            if own != expected:
                raise SettingsError(
                    f"{row.method} and {other.method} on {row.setting.title} were tested on different examples: these "
                    "do not compare; report their folders one at a time"
                )


def named(run: Result) -> str:
    return f"result of {run['run_info']['experiment_name']}, seed {seed_of(run)}"


def seed_of(run: Result) -> int:
    return int(train_config(run)["seed"])


def score_interval(row: Row, metric: str) -> Interval | None:
    """Of the mean over seeds; None if the results have no counts."""
    draws = row.draws.get(metric)
    return None if draws is None else interval(draws, mean(row.scores(metric)))


def difference(row: Row, other: Row, metric: str) -> Interval | None:
    """Of a row's score minus another's, over the seeds that both have; None if one has no counts, or there is none."""
    if metric not in row.draws or metric not in other.draws:
        return None
    own, others = positions(row), positions(other)
    common = [seed for seed in own if seed in others]
    if not common:
        return None
    here, there = [own[seed] for seed in common], [others[seed] for seed in common]
    measured = np.array(row.scores(metric))[here] - np.array(other.scores(metric))[there]
    return interval(row.draws[metric][:, here] - other.draws[metric][:, there], float(measured.mean()))


def positions(row: Row) -> dict[int, int]:
    return {seed_of(run): i for i, run in enumerate(row.successes)}


def tied(row: Row, other: Row, metric: str) -> bool | None:
    """Whether the interval of the difference contains 0; None if there is no interval."""
    found = difference(row, other, metric)
    return None if found is None else found.contains_zero


def reference_of(methods: Sequence[str], asked: str | None) -> str:
    """The method that others are compared with: the one that was asked for, or LoRA, full fine-tuning or the first.

    Raises:
        SettingsError: there is no such method, or several.
    """
    names = sorted(set(methods))
    if asked is None:
        families = [name for family in ("lora", "full") for name in names if name.split("/")[0] == family]
        return (families or names)[0]
    found = [name for name in names if asked in (name, name.split("/")[0])]
    if len(found) != 1:
        what = "is none of the methods" if not found else "stands for several"
        raise SettingsError(f"--reference {asked} {what}; give one of {', '.join(found or names)}")
    return found[0]


def notes_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader must know of the intervals of a table; nothing if there are none."""
    if not any(row.draws for row in rows):
        return ()
    notes = []
    if lacking := missing(rows):
        notes.append(
            f"Mean ± standard deviation and no interval: {', '.join(lacking)}, of whose results some have no counts of "
            f"test examples, or less than {FEWEST} of them. By their means they are ranked, too, if there are several "
            "seeds."
        )
    single = dict.fromkeys(row.setting.title for row in rows if row.draws and row.num_seeds == 1)
    if single:
        notes.append(f"One seed, so that the intervals are over test examples alone: {'; '.join(single)}.")
    return tuple(notes)


def missing(rows: Sequence[Row]) -> Mapping[str, None]:
    return dict.fromkeys(
        row.method for row in rows if any(row.scores(m) and m not in row.draws for m in row.setting.metrics)
    )
