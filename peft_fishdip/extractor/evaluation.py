"""Scores of predictions for labelled examples, by label and with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from ..tasks.base import Decoded
from ..tasks.calibration import Calibration, calibration_of
from ..tasks.joint import JointTask
from ..tasks.metrics import mean_std
from ..tasks.ner import NerTask
from ..tasks.places import comparable
from ..tasks.report import Report, score_report
from .data import Example

DRAWS = 2000


class Interval(NamedTuple):
    """Where 95 % of the scores lie if the examples are drawn anew, with replacement (percentiles of the bootstrap)."""

    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """How well predictions agree with labelled examples; `print` shows it.

    Attributes:
        of: which examples these are.
        num_examples: how many.
        scores: precision, recall and F1 of exact matches by name, and "calibration_error" where answers have scores.
        intervals: of the F1 scores.
        spans: scores of each label of spans.
        relations: the same of relations, if the task has any.
        folds: the F1 scores of each fold of a cross-validation.
        calibration: how often answers are right, in bins by their score; None where no answer has one.
    """

    of: str
    num_examples: int
    scores: dict[str, float]
    intervals: dict[str, Interval]
    spans: Report
    relations: Report | None = None
    folds: dict[str, tuple[float, ...]] | None = None
    calibration: Calibration | None = None

    @classmethod
    def compare(
        cls,
        task: NerTask | JointTask,
        gold: Sequence[Example],
        predicted: Sequence[Decoded[Any]],
        of: str,
        folds: Sequence[Sequence[int]] = (),
    ) -> Evaluation:
        """
        Args:
            gold: labelled examples of the task.
            predicted: one prediction for each.
            of: which examples these are.
            folds: of a cross-validation, the positions of the examples of each.
        """
        some: Any = task
        counts = _counts(some, gold, predicted)
        scores = dict(some.score(gold, predicted))
        calibration = calibration_of(some, gold, predicted)
        if calibration is not None:
            scores["calibration_error"] = calibration.error
        by_fold = {name: tuple(_f1(c[list(fold)].sum(0)).item() for fold in folds) for name, c in counts.items()}
        return cls(
            of,
            len(gold),
            scores,
            {name: interval(c) for name, c in counts.items()},
            score_report(gold, predicted),
            score_report(gold, predicted, of="relations") if isinstance(task, JointTask) else None,
            by_fold if folds else None,
            calibration,
        )

    def __str__(self) -> str:
        parts = [f"{self.of}: {self.num_examples} text{'s' * (self.num_examples != 1)}", "", str(self.spans), ""]
        if self.relations is not None:
            parts += ["relations", "", str(self.relations), ""]
        for name, (low, high) in self.intervals.items():
            parts.append(f"{name.replace('_', ' ')} {self.scores[name]:.2f}, 95 % interval {low:.2f} to {high:.2f}")
        for name, values in (self.folds or {}).items():
            mean, deviation = mean_std(values)
            each = " ".join(f"{value:.2f}" for value in values)
            parts.append(f"{name.replace('_', ' ')} of the folds: {each}; mean {mean:.2f}, deviation {deviation:.2f}")
        if "calibration_error" in self.scores:
            parts.append(f"calibration error of the scores {self.scores['calibration_error']:.2f}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The same in texts, numbers, lists and dicts."""
        found: dict[str, Any] = {"of": self.of, "num_examples": self.num_examples, "scores": self.scores}
        found["intervals"] = {name: list(pair) for name, pair in self.intervals.items()}
        for name, report in (("labels", self.spans), ("relation_labels", self.relations)):
            if report is not None:
                found[name] = {label: {**score.as_dict(), **asdict(score)} for label, score in report.labels.items()}
        if self.folds is not None:
            found["folds"] = {name: list(values) for name, values in self.folds.items()}
        if self.calibration is not None:
            found["calibration_bins"] = [asdict(each) for each in self.calibration.bins]
        return found


def _counts(task: Any, gold: Sequence[Example], predicted: Sequence[Decoded[Any]]) -> dict[str, torch.Tensor]:
    """By score, of each example twice the number of right items, and the number of predicted and gold ones."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for example, found in zip(gold, predicted, strict=True):
        one, other = (task.items(record) for record in comparable(example, found.prediction))
        for name in one:
            rows.setdefault(name, []).append((2 * len(one[name] & other[name]), len(one[name]) + len(other[name])))
    return {name: torch.tensor(some, dtype=torch.float64) for name, some in rows.items()}


def _f1(sums: torch.Tensor) -> torch.Tensor:
    return torch.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1].clamp(min=1), 0.0)


def interval(counts: torch.Tensor) -> Interval:
    """Of the F1 score of examples, whose numerator and denominator are sums over these."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(counts), (DRAWS, len(counts)), generator=generator)
    scores = _f1(torch.stack([counts.double()[row].sum(0) for row in drawn]))
    low, high = torch.quantile(scores, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(low, high)
