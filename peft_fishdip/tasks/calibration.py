"""Whether probabilities of answers say how often these are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

from .base import Decoded, Task, check_lengths
from .checks import check_positive
from .places import comparable

E = TypeVar("E")
NUM_BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose scores lie between two numbers.

    Attributes:
        low: the scores are greater than this; in the first bin, 0 is allowed.
        high: the highest score.
        confidence: mean score of the answers; 0 if there are none.
        accuracy: share of right answers; 0 if there are none.
        count: number of answers.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """What a reliability plot shows: all bins, of equal width, from low to high scores."""

    bins: tuple[CalibrationBin, ...]

    @classmethod
    def of(cls, scores: Sequence[float], right: Sequence[bool], num_bins: int = NUM_BINS) -> Calibration:
        """Of answers with a score each, and whether each is right.

        A score on the border of two bins is in the lower one. Raises ValueError for a score that is no probability.
        """
        check_lengths(right, scores)
        check_positive(num_bins=num_bins)
        found: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
        for score, is_right in zip(scores, right, strict=True):
            if not 0 <= score <= 1:
                raise ValueError(f"the score {score} is no probability; scores lie between 0 and 1")
            found[max(ceil(score * num_bins), 1) - 1].append((score, is_right))
        return cls(tuple(_bin(number, num_bins, some) for number, some in enumerate(found)))

    @property
    def count(self) -> int:
        """Number of answers."""
        return sum(each.count for each in self.bins)

    @property
    def error(self) -> float:
        """Expected calibration error, see `calibration_error`."""
        gaps = (each.count * abs(each.confidence - each.accuracy) for each in self.bins)
        return sum(gaps) / self.count if self.count else 0.0


def _bin(number: int, num_bins: int, answers: Sequence[tuple[float, bool]]) -> CalibrationBin:
    count = len(answers)
    confidence, accuracy = (sum(values) / count for values in zip(*answers, strict=True)) if answers else (0.0, 0.0)
    return CalibrationBin(number / num_bins, (number + 1) / num_bins, confidence, accuracy, count)


def calibration_error(scores: Sequence[float], right: Sequence[bool], num_bins: int = NUM_BINS) -> float:
    """Expected calibration error (Guo et al., 2017): in bins of equal width, how far the mean score lies from the
    share of right answers, on average over the answers.

    A score on the border of two bins is in the lower one. 0 without answers. Raises ValueError for a score that is no
    probability.
    """
    return Calibration.of(scores, right, num_bins).error


def calibration_of(task: Task[E], gold: Sequence[E], predicted: Sequence[Decoded[E]]) -> Calibration | None:
    """Calibration of all answers that have a score; None if the predictions have none.

    Args:
        task: whose examples these are.
        gold: labelled examples.
        predicted: what `predict` returns for them, in the same order.
    """
    check_lengths(gold, predicted)
    scores: list[float] = []
    right: list[bool] = []
    scored = False
    for truth, decoded in zip(gold, predicted, strict=True):
        truth, prediction = comparable(truth, decoded.prediction)
        answers: Sequence[Any] = task.answers(prediction)
        if len(decoded.scores) != len(answers):
            continue  # a text that was cut has no scores
        scored |= bool(answers)
        true = set(task.answers(truth))
        scores += decoded.scores
        right += [answer in true for answer in answers]
    return Calibration.of(scores, right) if scored else None
