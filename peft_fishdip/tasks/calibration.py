"""Whether probabilities of answers say how often these are right."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, TypeVar

from .base import Decoded, Task, check_lengths
from .places import comparable

E = TypeVar("E")
NUM_BINS = 10


def calibration_error(scores: Sequence[float], right: Sequence[bool], num_bins: int = NUM_BINS) -> float:
    """Expected calibration error (Guo et al., 2017): in bins of equal width, how far the mean score lies from the
    share of right answers, on average over the answers.

    A score on the border of two bins is in the lower one. 0 without answers. Raises ValueError for a score that is no
    probability.
    """
    check_lengths(right, scores)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for score, is_right in zip(scores, right, strict=True):
        if not 0 <= score <= 1:
            raise ValueError(f"the score {score} is no probability; scores lie between 0 and 1")
        bins.setdefault(max(ceil(score * num_bins), 1), []).append((score, is_right))
    gaps = [abs(sum(score - is_right for score, is_right in some)) for some in bins.values()]
    return sum(gaps) / len(scores) if scores else 0.0


def of_predictions(task: Task[E], gold: Sequence[E], predicted: Sequence[Decoded[E]]) -> float | None:
    """Calibration error of all answers that have a score; None if the predictions have none."""
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
    return calibration_error(scores, right) if scored else None
