"""A model that updates its own mask, a plain training loop, and the mask that the paper's formulas give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_fishdip import MaskUpdate

from ...support.models import flat_of, padded, scales_of, tuned
from ...support.reference import example_loss, global_top_k

Mask = dict[str, list[int]]


def driven(base: nn.Module, **settings: Any) -> Any:
    """`base` with an adapter that updates its mask every 4 steps."""
    settings = {"auto_update": True, "delta_scale": "auto", "update_interval": 4, "num_samples": 2, **settings}
    return tuned(base, **settings)


def mask_of(model: Any) -> Mask:
    return {name: positions.tolist() for name, positions in model.base_model.mask().items()}


def adamw(model: Any, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def batches(examples: list[dict[str, Any]], size: int, count: int) -> list[dict[str, Tensor]]:
    return [padded([examples[(size * i + j) % len(examples)] for j in range(size)]) for i in range(count)]


def labelled_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def unlabelled_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The same loss of a classifier, from a call that is given no labels."""
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    return nn.functional.cross_entropy(logits, batch["labels"])


def past_the_hooks(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The same loss, from a call of the model's `forward` itself."""
    return model.base_model.model.forward(**batch).loss


def in_evaluation(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The same loss of a model in evaluation mode, in which `from_pretrained` leaves it."""
    return model.eval()(**batch).loss


class Course:
    """What a loop went through: the mask and the trained values after each step, and all updates."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.masks: list[Mask] = []
        self.values: list[Tensor] = []
        self.updates: list[MaskUpdate] = []

    def note(self) -> None:
        self.masks.append(mask_of(self.model))
        self.values.append(flat_of(self.model).detach().clone())
        last = self.model.base_model.last_update()
        if last is not None and (not self.updates or self.updates[-1] is not last):
            self.updates.append(last)

    @property
    def steps(self) -> list[int]:
        return [update.step for update in self.updates]


def loop(
    model: Any,
    data: list[dict[str, Tensor]],
    optimizer: Any = None,
    loss: Callable[[Any, dict[str, Tensor]], Tensor] = labelled_loss,
    accumulate: int = 1,
) -> Course:
    """The loop that everybody writes; it knows nothing of Fish-Dip."""
    optimizer = adamw(model) if optimizer is None else optimizer
    course = Course(model)
    model.train()
    for number, batch in enumerate(data, start=1):
        (loss(model, batch) / accumulate).backward()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            course.note()
    return course


def fisher_mask(model: Any, base: nn.Module, family: str, examples: list[dict[str, Any]]) -> Mask:
    """The K entries with the highest mean squared gradient of these examples on the bare base, in trained units."""
    parameters = dict(base.named_parameters())
    total = {name: torch.zeros_like(parameters[name]) for name in model.base_model.mask()}
    for example in examples:
        base.zero_grad()
        example_loss(base, family, padded([example])).sum().backward()
        for name, score in total.items():
            score += parameters[name].grad.square()
    scale = scales_of(model)
    chosen = global_top_k({name: score * scale[name] ** 2 for name, score in total.items()}, flat_of(model).numel())
    return {name: mask.flatten().nonzero().squeeze(1).tolist() for name, mask in chosen.items()}


def overlap(a: Mask, b: Mask) -> float:
    """Share of the entries of `a` that `b` has too; rounding may swap some at the threshold."""
    return sum(len(set(a[name]) & set(b[name])) for name in a) / sum(map(len, a.values()))
