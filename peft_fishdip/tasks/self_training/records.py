"""What is known of each round of a self-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class RoundRecord:
    """A round, whose student becomes the next teacher; round 0 is the first teacher, on the labelled examples alone.

    Attributes:
        round: its number.
        held_out: the task's scores of the new teacher on the held-out examples, by name.
        score: by which the best teacher is chosen: the mean of the F1 scores and accuracies among these.
        num_texts: unlabelled texts that the teacher has labelled; 0 in round 0, as all that follows.
        num_kept: pseudo-labelled texts that the student learnt from.
        dropped: why others were left out, with their number.
        num_answers: spans and the like in the texts that were kept.
        weights: of each row of these texts, its mean weight in a batch times the size of the batch, so that 1 is the
            weight without reweighting; None if no step has drawn it. A text that is read in windows has several rows.
        num_skipped: steps that changed nothing, since all weights of the batch were 0.
        agreement: share of the unlabelled texts in which student and teacher find the same.
    """

    round: int
    held_out: Mapping[str, float]
    score: float
    num_texts: int = 0
    num_kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_answers: int = 0
    weights: tuple[float | None, ...] = ()
    num_skipped: int = 0
    agreement: float | None = None

    @property
    def share_without_weight(self) -> float:
        """Of the rows that were drawn, those that had a weight of 0 each time."""
        drawn = [weight for weight in self.weights if weight is not None]
        return sum(weight == 0 for weight in drawn) / len(drawn) if drawn else 0.0

    def __str__(self) -> str:
        scores = f"held-out score {self.score:.3f}"
        if not self.round:
            return f"round 0, the first teacher: {scores}"
        return (
            f"round {self.round}: {self.num_kept} of {self.num_texts} texts kept, with {self.num_answers} answers; "
            f"{100 * self.share_without_weight:.0f} % without weight, {self.num_skipped} steps skipped; agreement "
            f"{self.agreement:.3f}; {scores}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same in numbers, lists and dicts."""
        return {**asdict(self), "weights": list(self.weights)}


def record_from(content: Any, where: str) -> RoundRecord:
    """A record from what `to_dict` gave.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(RoundRecord)}:
        raise ValueError(f"{where} is no record of a round of self-training; delete this folder and the later ones")
    for name, fits in _CHECKS.items():
        if not fits(content[name]):
            raise ValueError(f"{where}: {name} is {content[name]!r}; delete this folder and the later ones")
    return RoundRecord(**{**content, "weights": tuple(content["weights"])})


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _is_mapping(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(isinstance(k, str) and fits(v) for k, v in value.items())


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("round", "num_texts", "num_kept", "num_answers", "num_skipped"), _is_count),
    "held_out": _is_mapping(_is_finite),
    "dropped": _is_mapping(_is_count),
    "score": _is_finite,
    "weights": lambda value: isinstance(value, list) and all(x is None or (_is_finite(x) and x >= 0) for x in value),
    "agreement": lambda value: value is None or (_is_finite(value) and 0 <= value <= 1),
}
