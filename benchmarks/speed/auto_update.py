"""Masks that update themselves: what it costs to hear the losses of training, and the updates without a scan."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from peft_fishdip import FishDipConfig
from peft_fishdip.tuner.auto_update import LOOK_BACK

from .measure import seconds
from .models import TrainingStep, Workbench, adapted, make_optimizer


def measure_auto(bench: Workbench, step_batch: int) -> dict[str, Any]:
    """Rounds of as many steps as an update listens to, with an update in the first, beside steps of a mask that stays.

    Returns:
        per round the seconds of the update, of the steps that are heard, and of those with a mask that stays; and the
        share of `interval` of these that the update and the hearing of losses before it take.
    """
    own = bench.settings
    heard = max(2, math.ceil(LOOK_BACK / step_batch))
    driven = adapted(bench.shared(), FishDipConfig(density=own.density, update_interval=heard))
    still = adapted(bench.shared(), FishDipConfig(density=own.density, auto_update=False))
    still.base_model.set_mask({name: bench.base.get_parameter(name) for name in still.base_model.mask()})
    steps = [TrainingStep(model.train(), {}, make_optimizer(model)) for model in (driven, still)]
    figures: dict[str, list[Any]] = {name: [] for name in ("update_seconds", "heard_seconds", "step_seconds", "share")}
    for number in range(1 + own.rounds):
        spent: tuple[list[float], list[float]] = ([], [])
        for index in range(heard):
            for step, times in zip(steps, spent, strict=True):
                step.batch = bench.batch(bench.examples(step_batch, seed=number * heard + index))
                times.append(seconds(step.step))
        update = driven.base_model.last_update()
        assert update is not None
        assert update.step == number * heard
        if not number:
            continue  # the first mask is chosen by one batch alone
        hearing = sum(spent[0][1:]) - sum(spent[1][1:])
        share = (update.seconds + max(0.0, hearing)) / (own.interval * median(spent[1]))
        for name, value in zip(figures, (update.seconds, spent[0][1:], spent[1], share), strict=True):
            figures[name].append(value)
    return {"heard": heard, "examples": len(update.example_ids), "step_batch": step_batch, **figures}
