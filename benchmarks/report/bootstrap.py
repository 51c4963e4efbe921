"""Scores as they might have come out with other seeds and other test examples: the bootstrap.

Test examples are drawn with replacement, the same ones for all methods, and scores are computed anew from the sums over
them. Seeds are drawn with replacement, too, and percentiles of the mean over seeds are the interval. All seeds share a
test set, so a draw of examples is the same for all of them; episodes are a seed's own, so of each seed both its
episodes and their examples are drawn. The same results give the same intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..example_counts import Ratio

DRAWS = 2000
LEVEL = 0.95
SEEDS, EXAMPLES, EPISODES = range(3)
"""What is drawn, each by random numbers of its own."""
CHUNK = 2**21
"""So many numbers are drawn at once."""

Floats: TypeAlias = NDArray[np.float64]
Draws: TypeAlias = Floats
"""A score in percent, of each draw of test examples (rows) and each seed (columns)."""


class Interval(NamedTuple):
    """Of a mean over seeds."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        return self.low <= 0 <= self.high


def scores(sums: Floats) -> Floats:
    """Percent, from numerators and denominators on the last axis; 0 where there is nothing to count."""
    numerators, denominators = sums[..., 0], sums[..., 1]
    return 100 * np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def draws_of_test_set(ratios: Mapping[str, Mapping[int, Ratio]]) -> dict[str, Draws]:
    """The scores of each method (by seed: its examples) on examples drawn from one test set."""
    columns = [ratio for by_seed in ratios.values() for ratio in by_seed.values()]
    found = drawn(columns, generator(EXAMPLES))
    position = iter(range(len(columns)))
    return {method: found[:, [next(position) for _ in by_seed]] for method, by_seed in ratios.items()}


def draws_of_episodes(ratios: Mapping[str, Mapping[int, Sequence[Ratio]]]) -> dict[str, Draws]:
    """The same of each method (by seed: the examples of each episode); a score is the mean over episodes."""
    by_method: dict[str, list[Floats]] = {method: [] for method in ratios}
    for seed in sorted({seed for by_seed in ratios.values() for seed in by_seed}):
        methods = [method for method, by_seed in ratios.items() if seed in by_seed]
        count = len(ratios[methods[0]][seed])
        episodes = [
            drawn([ratios[method][seed][i] for method in methods], generator(EXAMPLES, seed, i)) for i in range(count)
        ]
        chosen = generator(EPISODES, seed).integers(count, size=(DRAWS, count, 1))
        means = np.take_along_axis(np.stack(episodes, axis=1), chosen, axis=1).mean(axis=1)
        for number, method in enumerate(methods):
            by_method[method].append(means[:, number])
    return {method: np.stack(columns, axis=1) for method, columns in by_method.items()}


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(0, spawn_key=key))


def drawn(columns: Sequence[Ratio], random: np.random.Generator) -> Floats:
    """The score of each column on the same examples, for each draw of these."""
    every = np.concatenate(columns, axis=1)
    sums = np.concatenate([weights @ every for weights in multiplicities(len(every), random)])
    return scores(sums.reshape(DRAWS, len(columns), 2))


def multiplicities(count: int, random: np.random.Generator) -> Iterator[Floats]:
    """How often each of `count` examples is drawn, in blocks of draws."""
    rows = max(1, CHUNK // count)
    for start in range(0, DRAWS, rows):
        size = min(rows, DRAWS - start)
        chosen = random.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def interval(draws: Draws, value: float) -> Interval:
    """The percentile interval of the mean over seeds.

    Args:
        draws: of a score, or of the difference of two.
        value: what was measured.
    """
    seeds = draws.shape[1]
    chosen = generator(SEEDS).integers(seeds, size=(len(draws), seeds))
    means = np.take_along_axis(draws, chosen, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
