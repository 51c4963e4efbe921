"""How an adapter is trained if nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import is_count, is_number
from ..schedule import AUTO, Interval
from ..tasks.families import TOKENS

ENTRIES = 1_000_000
"""Trainable entries of a small model, by default."""
LEAST, MOST = 0.01, 0.05
"""Densities, by default."""
RATES = {"adamw": 1e-3, "sparse_adafactor": 1e-2}
"""Of the optimizers, by default."""


@dataclass(frozen=True)
class Recipe:
    """The choices of a training with a rate that falls linearly to 0.

    Attributes:
        steps: of the optimizer. None: 10 for each example, at least 200 and at most 1000.
        batch_size: examples in a step.
        optimizer: "adamw", or "sparse_adafactor", see `SparseAdafactor`. None: the latter for an encoder, and AdamW for
            others and for self-training, which has no other.
        learning_rate: at the start. None: 1e-3 with AdamW, 1e-2 with SparseAdafactor.
        density: share of the parameters that is trained at any time. None: 1 %; of a model with less than 100 million
            parameters 1 million entries, but at most 5 %.
        update_interval: steps between two masks. None: as the model is trained by default, see `FishDipConfig`.
        seed: of every random choice.
    """

    steps: int | None = None
    batch_size: int = 8
    optimizer: str | None = None
    learning_rate: float | None = None
    density: float | None = None
    update_interval: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "update_interval"):
            value = getattr(self, name)
            if not is_count(value) and not (value is None and name != "batch_size"):
                raise ValueError(f"{name}={value!r}: give a whole number above 0")
        if self.optimizer not in (None, *RATES):
            raise ValueError(f"optimizer={self.optimizer!r}: choose one of {', '.join(RATES)}")
        rate = self.learning_rate
        if rate is not None and not (is_number(rate) and rate > 0):
            raise ValueError(f"learning_rate={rate!r}: give a number above 0, such as 1e-3")
        if self.density is not None and not (is_number(self.density) and 0 < self.density <= 1):
            raise ValueError(f"density={self.density!r}: give a share above 0 and up to 1, such as 0.01")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed!r}: give a whole number from 0 to {2**32 - 1}")

    def steps_for(self, num_examples: int) -> int:
        return self.steps or min(max(10 * num_examples, 200), 1000)

    def density_for(self, num_parameters: int) -> float:
        return self.density or min(max(ENTRIES / num_parameters, LEAST), MOST)

    def optimizer_for(self, task_type: str, self_training: bool = False) -> str:
        """The optimizer for a kind of model, as PEFT names it."""
        return self.optimizer or ("sparse_adafactor" if task_type == TOKENS and not self_training else "adamw")

    def rate_for(self, task_type: str, self_training: bool = False) -> float:
        return self.learning_rate or RATES[self.optimizer_for(task_type, self_training)]

    @property
    def interval(self) -> Interval:
        return self.update_interval or AUTO
