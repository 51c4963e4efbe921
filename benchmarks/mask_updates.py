"""When the mask of a Fish-Dip adapter is updated, and from which examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig, PeftModel

from peft_fishdip import FishDipConfig, FishDipModel, schedule

from .features import Collate, Features, collate
from .masks import shares
from .outcome import Trace
from .problems import Problem
from .settings import TrainingParams


def is_fish_dip(model: Any) -> bool:
    return isinstance(model, PeftModel) and isinstance(model.base_model, FishDipModel)


def with_enough_examples(config: PeftConfig, problem: Problem) -> PeftConfig:
    """The config to make the adapter with: its count of `num_samples` is limited to the examples that there are.

    A fixed mask is chosen before the first fit of a run. A mask that moves is updated in every fit, so the fit with the
    fewest examples counts.
    """
    if not isinstance(config, FishDipConfig) or isinstance(config.num_samples, float):
        return config
    fits = [len(problem.train), *(len(episode.support) for episode in problem.episodes)]
    if config.update_interval is None:
        fits = fits[:1]
    return replace(config, num_samples=min(config.num_samples, *fits))


def update_is_due(model: Any, params: TrainingParams, step: int, trace: Trace) -> bool:
    """Whether the mask is updated before this step of a fit; a fixed mask is chosen once in a run."""
    if not is_fish_dip(model) or params.mask != "fisher":
        return False
    interval = model.base_model.peft_config["default"].update_interval
    return not trace.updates if interval is None else schedule.update_is_due(interval, step)


def update_mask(
    model: Any,
    features: Features,
    params: TrainingParams,
    optimizer: torch.optim.Optimizer,
    trace: Trace,
    collator: Collate = collate,
) -> None:
    """Update the mask by the training examples, and record the update in the trace."""
    update = model.base_model.update_mask(
        features, data_collator=collator, optimizer=optimizer, batch_size=params.batch_size, step=trace.step
    )
    trace.updates.append({"step": trace.step, **update.figures(), "shares": shares(model.base_model.mask())})
    trace.update_time += update.seconds
