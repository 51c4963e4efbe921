"""The optimizers of the comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import Adafactor

from peft_fishdip import SparseAdafactor

from .settings import TrainingParams


def make_optimizer(model: Any, params: TrainingParams) -> torch.optim.Optimizer:
    """The optimizer of a run, over the trainable parameters of a model.

    Adafactor and SparseAdafactor as in the paper's code: rates scaled by each tensor's RMS, no relative step.
    """
    if params.optimizer == "sparse_adafactor":
        return SparseAdafactor(model, lr=params.learning_rate, weight_decay=params.weight_decay)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if params.optimizer == "adafactor":
        options: Any = {"scale_parameter": True, "relative_step": False, "warmup_init": False}
        return Adafactor(trainable, lr=params.learning_rate, weight_decay=params.weight_decay, **options)
    return torch.optim.AdamW(trainable, lr=params.learning_rate, weight_decay=params.weight_decay)


def make_scheduler(optimizer: torch.optim.Optimizer, params: TrainingParams, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: warmup_and_decay(step, steps, params.warmup_share))


def warmup_and_decay(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate: up linearly, then down linearly to zero."""
    warmup = round(warmup_share * steps)
    return min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup))
