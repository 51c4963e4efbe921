"""An optimizer's state follows the entries of the trainable vector when the mask changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..adapter.atomic import Write, copy_into, put
from ..adapter.positions import gathered
from .closure import HookResult, once_gradients_are_there
from .nested import refuse_joint_state, refuse_tensors_outside, trainers_of, trains

# State tensors that hold a running mean (or sum, in Adagrad) of squared gradients.
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "variance", "state2")

# State tensors that are a second copy of the values, as of ScheduleFree, Prodigy, D-Adaptation, ASGD, SWA and SAM.
COPIES = ("z", "x", "y", "x0", "p0", "z0", "ax", "swa_buffer", "old_p", "backup_params", "cached_params")


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


def check_optimizer(optimizer: Any, vector: nn.Parameter, stays: bool = False) -> Optimizer:
    """The torch optimizer, once it is clear that its state can follow a new mask of `vector`.

    So can that of optimizers within it. With `stays`, this is the only mask, and a vector of zeros has no state yet.

    Raises a TypeError if there is none, and a ValueError if it does not train `vector` or has a state of another form.
    """
    optimizer = unwrapped(optimizer)
    if not trains(optimizer, vector):
        frozen = "" if vector.requires_grad else "; it needs no gradient: activate it, set_adapter(...), before that"
        raise ValueError(
            f"{type(optimizer).__name__} does not train the adapter's vector of {vector.numel()} values; pass the "
            f"optimizer that was made from this model's parameters, after the adapter was added{frozen}."
        )
    for each in trainers_of(optimizer, vector):
        refuse_other_forms(each, vector)
        refuse_joint_state(each)
        if not stays or bool(vector.any()):
            refuse_tensors_outside(each, vector)
    return optimizer


def refuse_other_forms(optimizer: Optimizer, vector: nn.Parameter) -> None:
    """Raise ValueError if the state of `vector` is not one number for all entries, or one float for each."""
    for name, value in optimizer.state.get(vector, {}).items():
        if name not in state_of_any_mask(optimizer) and not follows(value, vector):
            form = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "a collection"
            raise ValueError(
                f"{type(optimizer).__name__} keeps its state {name!r} in a form that cannot follow a new mask: {form}; "
                "use an optimizer with one float per entry, such as AdamW, or update_interval=None."
            )


def state_of_any_mask(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of state that does not belong to entries, as an optimizer may declare; a new mask leaves it as it is."""
    return getattr(optimizer, "state_of_any_mask", ())


def follows(value: Any, vector: nn.Parameter) -> bool:
    """Whether a view of the state is one number for all entries of `vector`, or one float for each."""
    if not isinstance(value, Tensor):
        items = value.values() if isinstance(value, dict) else value
        return not (isinstance(value, (list, tuple, dict)) and any(isinstance(item, Tensor) for item in items))
    if value.numel() == 1:
        return True
    plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    return plain and value.shape == vector.shape and value.is_floating_point()


@torch.no_grad()
def carry_over(
    optimizer: Optimizer, vector: nn.Parameter, source: Tensor, values: Tensor, expected_sq_grad: Tensor | None
) -> list[Write]:
    """The writes that re-index the state of `vector` in place, in an optimizer and those within it.

    Entries that stay keep their moments. New ones start with a zero first moment and a second moment on the scale of
    those that stay: under an old step count, a zero second moment would make Adam's first step 3.2 learning rates
    long. Just before the first step, the second moment of new entries is also raised to their squared gradient (to
    what it would be had all gradients been this one), so that this step is at most one learning rate long whatever
    the gradient is. In a second copy of the values, new entries have their value.

    `source`, int64 (K,), is the old index of each entry, -1 for new ones; `values`, (K,), the vector from now on;
    `expected_sq_grad`, float32 (K,), is proportional to the squared gradients to expect.
    """
    found = [carried_over(each, vector, source, values, expected_sq_grad) for each in trainers_of(optimizer, vector)]
    return [write for writes in found for write in writes]


def carried_over(
    optimizer: Optimizer, vector: nn.Parameter, source: Tensor, values: Tensor, expected_sq_grad: Tensor | None
) -> list[Write]:
    """See [`carry_over`]: the writes for one optimizer."""
    state = optimizer.state.get(vector)
    if not state:
        return []
    new = source < 0
    writes = []
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != vector.shape or name in state_of_any_mask(optimizer):
            continue
        carried = gathered(value, source.to(value.device))
        if name == "step_size":  # Rprop's, which no gradient has adapted yet
            carried = torch.where(new, float(group_of(optimizer, vector)["lr"]), carried).to(carried.dtype)
        elif is_copy(name):
            carried = torch.where(new, values, carried).to(carried.dtype)
        elif name in SECOND_MOMENTS:
            carried = torch.where(new, expected_squares(carried, new, expected_sq_grad).to(carried.dtype), carried)
        writes.append(copy_into(value, carried))
    return [*writes, cap_first_step(optimizer, vector, source)] if state.keys() & set(SECOND_MOMENTS) else writes


def is_copy(name: str) -> bool:
    """Whether a state tensor of that name is a second copy of the values, such as the slow weights of Lookahead."""
    return name in COPIES or "slow" in name or "lookahead" in name


def expected_squares(carried: Tensor, new: Tensor, expected_sq_grad: Tensor | None) -> Tensor:
    """Second moments for new entries: expected squared gradients, scaled to the median moment of those that stay."""
    staying = carried[~new]
    if not staying.numel():
        return torch.zeros_like(carried)
    scale = staying.median()
    if expected_sq_grad is None:
        return scale.expand_as(carried)
    typical = expected_sq_grad[~new].median()
    return expected_sq_grad * (scale / typical) if bool(typical > 0) else scale.expand_as(carried)


def cap_first_step(optimizer: Optimizer, vector: nn.Parameter, source: Tensor) -> Write:
    """The write after which the next step first raises second moments of new entries to their squared gradients."""
    waiting = new_entries_of(optimizer)
    new = source < 0
    if vector in waiting:  # no step since the last update, whose new entries have not moved yet
        new = new | gathered(waiting[vector], source).bool()
    return put(waiting, vector, new)


def new_entries_of(optimizer: Optimizer) -> dict[nn.Parameter, Tensor]:
    """Per vector which entries have been new since the last step: bool (K,). From now on each step looks at it."""
    waiting: dict[nn.Parameter, Tensor] | None = optimizer.__dict__.get("_fishdip_new_entries")
    if waiting is None:
        waiting = optimizer.__dict__["_fishdip_new_entries"] = {}
        optimizer.register_step_pre_hook(raise_second_moments_in)  # for good: hooks must not be removed by hooks
    return waiting


def raise_second_moments_in(optimizer: Optimizer, args: Any, kwargs: Any) -> HookResult:
    """The hook of [`cap_first_step`]."""
    return once_gradients_are_there(args, kwargs, lambda: raise_second_moments(optimizer))


@torch.no_grad()
def raise_second_moments(optimizer: Optimizer) -> None:
    """Raise second moments of new entries to their squared gradient."""
    # to fused optimizers, a GradScaler leaves unscaling, and not stepping at all after an overflow
    scale, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if overflow is not None and bool(overflow):
        return
    waiting = optimizer.__dict__.get("_fishdip_new_entries", {})
    for vector in [vector for vector in waiting if vector.grad is not None]:
        entries = waiting.pop(vector)
        gradient = vector.grad.float() if scale is None else vector.grad.float() / scale
        squares = gradient * gradient * bias_correction(optimizer, vector)
        for name in SECOND_MOMENTS:
            moment = optimizer.state[vector].get(name)
            if isinstance(moment, Tensor) and moment.shape == vector.shape:
                moment.copy_(torch.where(entries, torch.maximum(moment, squares.to(moment.dtype)), moment))


def group_of(optimizer: Optimizer, vector: nn.Parameter) -> dict[str, Any]:
    """The optimizer's parameter group that holds the vector."""
    return next(group for group in optimizer.param_groups if any(p is vector for p in group["params"]))


def bias_correction(optimizer: Optimizer, vector: nn.Parameter) -> float:
    """What the optimizer's next step will divide its second moments by: 1 - beta2^t in the family of Adam."""
    group = group_of(optimizer, vector)
    betas, step = group.get("betas", ()), optimizer.state[vector].get("step")
    return 1.0 if len(betas) != 2 or step is None else 1.0 - betas[1] ** (float(step) + 1.0)
