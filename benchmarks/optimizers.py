"""The optimizers of the comparison."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import Adafactor

from peft_fishdip import SparseAdafactor
from peft_fishdip.tasks import task_type
from peft_fishdip.tasks.families import SEQUENCES, TOKENS

from .adaptation import HEADS
from .settings import TrainingParams

HEAD_RATE = 1e-3
"""With which AdamW trains a new classifier beside an adapter, whose parameters may be of other sizes and units."""


def make_optimizer(model: Any, params: TrainingParams) -> torch.optim.Optimizer:
    """The optimizer of a run, over the trainable parameters of a model.

    Adafactor and SparseAdafactor as in the paper's code: rates scaled by each tensor's RMS, no relative step. AdamW has
    a group of its own for the new classifier of an encoder, if that has a rate of its own: `head_rate`, or beside an
    adapter `HEAD_RATE`.
    """
    if params.optimizer == "sparse_adafactor":
        return SparseAdafactor(model, lr=params.learning_rate, weight_decay=params.weight_decay)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if params.optimizer == "adafactor":
        options: Any = {"scale_parameter": True, "relative_step": False, "warmup_init": False}
        return Adafactor(trainable, lr=params.learning_rate, weight_decay=params.weight_decay, **options)
    rate = params.head_rate or (HEAD_RATE if isinstance(model, PeftModel) else None)
    head = classifier(model) if rate else {}
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in trainable if id(parameter) not in head]}]
    if head:
        groups.append({"params": [*head.values()], "lr": rate})
    return torch.optim.AdamW(groups, lr=params.learning_rate, weight_decay=params.weight_decay)


def classifier(model: Any) -> dict[int, nn.Parameter]:
    """Trainable parameters of an encoder's new classifier, which PEFT has a copy of beside an adapter, by identity."""
    if task_type(model) not in (TOKENS, SEQUENCES):
        return {}
    adapted = isinstance(model, PeftModel)
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (".modules_to_save." in name if adapted else name.split(".")[0] in HEADS):
            found[id(parameter)] = parameter
    return found


def make_scheduler(optimizer: torch.optim.Optimizer, params: TrainingParams, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: warmup_and_decay(step, steps, params.warmup_share))


def warmup_and_decay(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate: up linearly, then down linearly to zero."""
    warmup = round(warmup_share * steps)
    return min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup))
