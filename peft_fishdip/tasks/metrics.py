"""Metrics over typed predictions.

F1 scores are micro-averages over exact matches, as in the reference.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from .base import Decoded, Task, check_lengths
from .places import comparable
from .records import DstExample, Span


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

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Precision, recall and F1, with a prefix to their names."""
        return {
            f"{prefix}precision": self.precision,
            f"{prefix}recall": self.recall,
            f"{prefix}f1": self.f1,
        }


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


def items_f1(task: Task[Any], name: str, gold: Sequence[Any], predicted: Sequence[Decoded[Any]]) -> F1Score:
    """Score of the sets that `Task.items` has under a name."""
    check_lengths(gold, predicted)
    pairs = [comparable(x, found.prediction) for x, found in zip(gold, predicted, strict=True)]
    return micro_f1([task.items(x)[name] for x, _ in pairs], [task.items(x)[name] for _, x in pairs])


Argument = tuple[str, tuple[tuple[int, int], ...]]


def joined_arguments(arguments: Iterable[Span]) -> set[Argument]:
    """Arguments as CoNLL-2005 counts them: (role, pieces), each piece (start, end).

    As the shared task's srl-eval.pl: a C-X continues the last X before it and the pieces make one argument; a
    C-X without an X before it is an X; the verb (V, C-V) does not count.
    """
    pieces: list[tuple[str, list[tuple[int, int]]]] = []
    latest: dict[str, list[tuple[int, int]]] = {}
    for span in sorted(arguments, key=lambda a: (a.start, -a.end)):
        role = span.label.removeprefix("C-")
        if role == span.label or role not in latest:
            latest[role] = []
            pieces.append((role, latest[role]))
        latest[role].append((span.start, span.end))
    return {(role, tuple(parts)) for role, parts in pieces if role != "V"}


def srl_f1(gold: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]], *, reference: bool = False) -> F1Score:
    """Micro F1 over the arguments of each proposition, one proposition per entry.

    The definition is that of CoNLL-2005 (see `joined_arguments`). The reference instead counts each C-X as
    an argument of its own; `reference=True` does so.
    """
    if reference:
        return micro_f1([set(g) for g in gold], [set(p) for p in predicted])
    return micro_f1([joined_arguments(g) for g in gold], [joined_arguments(p) for p in predicted])


MARKER_PATTERN = re.compile(r"\[\s*belief\s*\]")
"""The mark around a state; tokenizers that know brackets as pieces of their own put spaces into it."""


def joint_accuracy(gold: Sequence[Set[Hashable]], predicted: Sequence[Set[Hashable]]) -> float:
    """Share of turns whose whole belief state is right, empty states included."""
    check_lengths(gold, predicted)
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold) if gold else 0.0


def reference_joint_accuracy(gold: Sequence[DstExample], texts: Sequence[str]) -> float:
    """Joint accuracy of generated texts as the reference computes it.

    It compares strings cut at commas between the first and the last `[belief]`. An empty state is read as
    one empty string and never equals the empty gold state; values with a comma fall apart; hyphens count as
    spaces. Kept to compare with numbers that were computed this way.
    """
    check_lengths(gold, texts)
    marker = "[belief]"
    texts = [MARKER_PATTERN.sub(marker, text) for text in texts]
    right = 0
    for example, text in zip(gold, texts, strict=True):
        body = text[text.find(marker) + len(marker) : text.rfind(marker)]
        found = {entry.strip() for entry in body.split(",") if "not given" not in entry}
        state = {f"{entry.domain} {entry.slot} {entry.value}" for entry in example.state}
        right += {entry.replace("-", " ") for entry in found} == {entry.replace("-", " ") for entry in state}
    return right / len(gold) if gold else 0.0


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation over episodes, as the reference reports them."""
    return statistics.fmean(values), statistics.pstdev(values)
