"""Metrics. All are micro-averages over exact matches, as in the reference."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass

from .base import check_lengths


@dataclass(frozen=True)
class F1Score:
    """Counts of a micro-averaged score and what follows from them (0 where undefined)."""

    num_correct: int
    num_predicted: int
    num_gold: int

    @property
    def precision(self) -> float:
        return self.num_correct / self.num_predicted if self.num_predicted else 0.0

    @property
    def recall(self) -> float:
        return self.num_correct / self.num_gold if self.num_gold else 0.0

    @property
    def f1(self) -> float:
        total = self.num_predicted + self.num_gold
        return 2 * self.num_correct / total if total else 0.0


def micro_f1(gold: Sequence[Set[Hashable]], predicted: Sequence[Set[Hashable]]) -> F1Score:
    """Score of one set of items per example against another, summed over the examples.

    Entities: `Span`s. Strict relations: `Relation`s, right only with label, boundaries and types of both
    spans and their direction.
    """
    check_lengths(gold, predicted)
    return F1Score(
        sum(len(g & p) for g, p in zip(gold, predicted, strict=True)),
        sum(map(len, predicted)),
        sum(map(len, gold)),
    )
