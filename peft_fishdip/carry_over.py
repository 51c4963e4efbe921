"""An optimizer's state follows the entries of the trainable vector when the mask changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .state import gathered

# State tensors that hold a running mean (or sum, in Adagrad) of squared gradients.
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "variance")


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer inside of accelerate's wrappers."""
    while not isinstance(optimizer, Optimizer) or hasattr(optimizer, "scaler"):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or inner is optimizer:
            break
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; pass the torch.optim.Optimizer that trains.")
    return optimizer


def check_optimizer(optimizer: Any, vector: nn.Parameter) -> Optimizer:
    """Make sure, before anything changes, that the state of `vector` can follow a new mask.

    Raises:
        TypeError: this is no optimizer.
        ValueError: it does not train `vector`, or keeps a state that has no entry for each of its entries.
    """
    optimizer = unwrapped(optimizer)
    if not any(parameter is vector for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            f"{type(optimizer).__name__} does not train the adapter's vector of {vector.numel()} values; pass the "
            "optimizer that was made from this model's parameters, after the adapter was added."
        )
    for name, value in optimizer.state.get(vector, {}).items():
        history = isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value)
        quantised = isinstance(value, Tensor) and value.shape == vector.shape and not value.is_floating_point()
        if history or quantised:
            raise ValueError(
                f"{type(optimizer).__name__} keeps its state {name!r} in a form that cannot follow a new mask "
                f"({'a history' if history else value.dtype}); use an optimizer with one float per entry, such as "
                "AdamW, or update_interval=None."
            )
    return optimizer


@torch.no_grad()
def carry_over(optimizer: Optimizer, vector: nn.Parameter, source: Tensor, hint: Tensor | None) -> None:
    """Re-index the state of `vector`, in place.

    Entries that stay keep their moments. New ones start with a zero first moment and a second moment on the scale of
    those that stay: under an old step count, a zero second moment would make Adam's first move 3.2 learning rates.
    One more thing keeps that move below one learning rate whatever the gradient turns out to be: just before the
    first step, the second moment of new entries is raised to their squared gradient.

    Args:
        optimizer: checked by [`check_optimizer`].
        vector: the trainable vector, (K,).
        source: int64 (K,): the old index of each entry, -1 for new ones.
        hint: float32 (K,), proportional to the squared gradients to expect, or None.
    """
    state = optimizer.state.get(vector)
    if not state:
        return
    new = source < 0
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != vector.shape:
            continue
        carried = gathered(value, source.to(value.device))
        if name in SECOND_MOMENTS:
            carried = torch.where(new, expected_squares(carried, new, hint).to(carried.dtype), carried)
        value.copy_(carried)
    cap_first_step(optimizer, vector, source)


def expected_squares(carried: Tensor, new: Tensor, hint: Tensor | None) -> Tensor:
    """Second moments for new entries: the hint, scaled so that its median over the entries that stay is theirs."""
    staying = carried[~new]
    if not staying.numel():
        return torch.zeros_like(carried)
    scale = staying.median()
    if hint is None:
        return scale.expand_as(carried)
    typical = hint[~new].median()
    return hint * (scale / typical) if bool(typical > 0) else scale.expand_as(carried)


def cap_first_step(optimizer: Optimizer, vector: nn.Parameter, source: Tensor) -> None:
    """Before the next step, raise the second moments of new entries to their squared gradients."""
    waiting: dict[int, Tensor] = optimizer.__dict__.setdefault("_fishdip_new_entries", {})
    new = source < 0
    if id(vector) in waiting:  # no step since the last update: its new entries still have theirs to come
        new = new | gathered(waiting[id(vector)], source).bool()
    waiting[id(vector)] = new

    def raise_second_moments(stepping: Optimizer, args: Any, kwargs: Any) -> None:
        if vector.grad is None:
            return
        handle.remove()
        entries = waiting.pop(id(vector), None)
        if entries is None:
            return
        scale = getattr(stepping, "grad_scale", None)  # a GradScaler leaves unscaling to fused optimizers
        gradient = vector.grad.float() if scale is None else vector.grad.float() / scale
        for name in SECOND_MOMENTS:
            moment = stepping.state[vector].get(name)
            if isinstance(moment, Tensor) and moment.shape == vector.shape:
                squares = (gradient * gradient).to(moment.dtype)
                moment.copy_(torch.where(entries, torch.maximum(moment, squares), moment))

    handle = optimizer.register_step_pre_hook(raise_second_moments)
