"""What a teacher says of unlabelled texts."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..base import Decoded, Task
from ..generation import predict
from ..places import comparable

E = TypeVar("E")
LOST = ("source_cut", "output_cut", "format_error", "wrong_reconstruction")
"""Problems of a prediction that may be due to what the teacher has not read, or not written."""


@dataclass(frozen=True)
class PseudoLabels(Generic[E]):
    """Predictions, those that are learnt from, and why the others are left out."""

    kept: list[E]
    num_answers: int
    dropped: dict[str, int]


def label_texts(model: Any, tokenizer: Any, task: Task[E], texts: Sequence[E], **options: Any) -> list[Decoded[E]]:
    """Predictions; what is cut is not warned of, since it is counted later."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*\((source|output)_cut\)")
        return predict(model, tokenizer, task, texts, **options)


def pseudo_labels(task: Task[E], predictions: Sequence[Decoded[E]], min_confidence: float) -> PseudoLabels[E]:
    """Those that were read and written to the end, and of at least this confidence."""
    kept: list[E] = []
    dropped: Counter[str] = Counter()
    for found in predictions:
        lost = next((problem.kind for problem in found.problems if problem.kind in LOST), "")
        if lost or confidence_of(found) < min_confidence:
            dropped[lost or "low_confidence"] += 1
        else:
            kept.append(found.prediction)
    return PseudoLabels(kept, sum(len(task.answers(example)) for example in kept), dict(sorted(dropped.items())))


def confidence_of(found: Decoded[Any]) -> float:
    """The probability per word, or of a single answer; 0 if there is none."""
    if found.confidence is not None:
        return found.confidence
    return min(found.scores, default=0.0)


def agreement(task: Task[E], one: Sequence[Decoded[E]], other: Sequence[Decoded[E]]) -> float:
    """Share of texts of which two lists of predictions say the same."""
    pairs = [comparable(a.prediction, b.prediction) for a, b in zip(one, other, strict=True)]
    same = [{*task.answers(a)} == {*task.answers(b)} for a, b in pairs]
    return sum(same) / len(same)


def main_score(scores: dict[str, float]) -> float:
    """The mean of the F1 scores and accuracies, or of all scores where there are none."""
    main = [value for name, value in scores.items() if name.endswith(("f1", "accuracy"))] or [*scores.values()]
    return sum(main) / len(main)
