"""Lottery-ticket sparse fine-tuning within the budget of all methods: half of the steps find the mask, half train it.

In the paper (Ansell et al., ACL 2022) both phases have equal numbers of steps in language modelling, and the same
learning rate. As there, weights and deltas count in the same unit (`delta_scale="none"`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from peft import PeftConfig

from peft_fishdip import FishDipConfig, lottery_mask

from .masks import shares
from .settings import SettingsError
from .trained_model import TrainedModel


def steps_of_mask(steps: int) -> int:
    """How many of a run's first steps are full fine-tuning, after which the model is put back."""
    return steps // 2


def with_ticket(trained: TrainedModel, config: PeftConfig, examples: Sequence[Any], steps: int) -> Any:
    """The model of `trained` with an adapter whose mask is what `steps` of full fine-tuning move most.

    Raises:
        SettingsError: there is no step for it, or the adapter is none of Fish-Dip.
    """
    if not isinstance(config, FishDipConfig) or steps < 1:
        raise SettingsError(
            f"mask='lottery' needs an adapter of type FISHDIP and at least 2 steps, half of which find the mask; it "
            f"has {config.peft_type} and {steps} for that"
        )
    trace = trained.outcome.trace

    def train(model: Any) -> None:
        plain = copy.copy(trained)
        plain.model = model
        plain.fit(list(examples), steps)

    model = lottery_mask(trained.model, train, config)
    trace.begins.clear()  # both phases are one fit
    update = model.base_model.last_update()
    trace.updates.append({"step": trace.step, **update.figures(), "shares": shares(model.base_model.mask())})
    trace.update_time += update.seconds
    return model
