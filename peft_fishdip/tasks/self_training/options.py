"""The choices of a self-training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SelfTrainingOptions:
    """How teacher and students are trained: AdamW, whose rate falls linearly to 0 over the steps of each.

    Attributes:
        steps: of the first teacher on the labelled examples, and of each student on the unlabelled texts.
        warmup_share: share of a student's steps that distil the teacher; the others learn from pseudo-labels.
        tuning_steps: further steps of a student, on the labelled examples that are not held out.
        batch_size: examples in a step, labelled, unlabelled or held out.
        learning_rate: at the start.
        reweight: weigh pseudo-labels by the meta-gradient; otherwise all count alike.
        held_out_share: of the labelled examples, for the meta-gradient and for the choice of the best teacher.
        min_confidence: pseudo-labels of a lower confidence are left out, see `Decoded.confidence`.
        max_source_length, max_target_length: tokens, as in `to_features`.
        bf16: run training under torch.autocast in bfloat16.
        seed: of every random choice.
    """

    steps: int = 200
    warmup_share: float = 0.25
    tuning_steps: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-3
    reweight: bool = True
    held_out_share: float = 0.25
    min_confidence: float = 0.0
    max_source_length: int = 512
    max_target_length: int = 512
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            *(("steps", 1), ("batch_size", 1), ("tuning_steps", 0), ("seed", 0)),
            *(("max_source_length", 1), ("max_target_length", 1)),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name}={value!r}: give a whole number from {least} on")
        for name in ("reweight", "bf16"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: give True or False")
        if not _is_number(self.learning_rate) or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r}: give a number above 0, such as 1e-3")
        for name in ("warmup_share", "min_confidence"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r}: give a number from 0 to 1")
        if not _is_number(self.held_out_share) or not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share={self.held_out_share!r}: give a share above 0 and below 1, such as 0.25")

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_share * self.steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
