"""When the mask of a Fish-Dip adapter is chosen anew, and by which examples."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel

from peft_fishdip import FishDipModel

from .features import Features, collate
from .masks import shares
from .outcome import Trace
from .settings import TrainingParams


def is_fish_dip(model: Any) -> bool:
    return isinstance(model, PeftModel) and isinstance(model.base_model, FishDipModel)


def update_is_due(model: Any, params: TrainingParams, step: int, trace: Trace) -> bool:
    """Whether the mask of a model is to be chosen anew before this step of a fit; a fixed one is chosen once a run."""
    if not is_fish_dip(model) or params.mask == "random":
        return False
    interval = model.base_model.peft_config["default"].update_interval
    return not trace.updates if interval is None else step % interval == 0


def update_mask(
    model: Any, features: Features, params: TrainingParams, optimizer: torch.optim.Optimizer, trace: Trace
) -> None:
    """Choose anew what is trained, and note what was chosen. Where there are too few examples, all of them count."""
    config = model.base_model.peft_config["default"]
    wanted = config.num_samples
    config.num_samples = wanted if isinstance(wanted, float) else min(wanted, len(features))
    try:
        update = model.base_model.update_mask(
            features, data_collator=collate, optimizer=optimizer, batch_size=params.batch_size, step=trace.step
        )
    finally:
        config.num_samples = wanted
    trace.updates.append({"step": trace.step, **update.figures(), "shares": shares(model.base_model.mask())})
    trace.update_time += update.seconds
