"""Optimizers around other ones, and what optimizers keep of a vector outside of its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

DEPTH = 4  # of lists and dicts within an optimizer that are looked through
OF_TORCH = ("state", "param_groups", "defaults")


def trains(optimizer: Optimizer, vector: nn.Parameter) -> bool:
    return any(parameter is vector for group in optimizer.param_groups for parameter in group["params"])


def trainers_of(optimizer: Optimizer, vector: nn.Parameter) -> list[Optimizer]:
    """An optimizer and those within it that train a vector; of several with one and the same state, the first."""
    found: dict[int, Optimizer] = {}
    for each in [optimizer, *inner_ones(optimizer)]:
        if trains(each, vector):
            found.setdefault(id(each.state.get(vector, each)), each)
    return list(found.values())


def inner_ones(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers within an optimizer, those within them included."""
    found: list[Optimizer] = []
    left = [optimizer]
    while left:
        for value in kept_by(left.pop()):
            if isinstance(value, Optimizer) and value is not optimizer and value not in found:
                found.append(value)
                left.append(value)
    return found


def kept_by(optimizer: Optimizer) -> Iterator[Any]:
    """What an optimizer keeps in attributes of its own, also within lists and dicts."""
    for name, value in vars(optimizer).items():
        if name not in OF_TORCH and not name.startswith("_fishdip"):
            yield from leaves(value, DEPTH)


def leaves(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            if depth:
                yield from leaves(item, depth - 1)
    else:
        yield value


def refuse_tensors_outside(optimizer: Optimizer, vector: nn.Parameter) -> None:
    """Raise ValueError if an optimizer keeps a float for each entry of a vector where no mask update finds it."""
    known = {id(vector), id(vector.grad), *map(id, optimizer.state.get(vector, {}).values())}
    for value in kept_by(optimizer):
        if not isinstance(value, Tensor) or id(value) in known or value.numel() == 1:
            continue
        if value.shape == vector.shape and value.is_floating_point():
            raise ValueError(
                f"{type(optimizer).__name__} keeps a tensor of the adapter's {vector.numel()} values outside of its "
                "state, which cannot follow a new mask, as slow weights in a list; keep it in "
                "optimizer.state[parameter], as 'slow', or use update_interval=None, or another optimizer."
            )


def refuse_joint_state(optimizer: Optimizer) -> None:
    """Raise ValueError if an optimizer keeps the state of all of its parameters together at one of them, as LBFGS."""
    size = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    for parameter, state in optimizer.state.items():
        for name, value in state.items() if isinstance(state, Mapping) else ():
            joint = (tensor for tensor in leaves(value, DEPTH) if isinstance(tensor, Tensor) and tensor.numel() == size)
            if size != parameter.numel() and any(True for _ in joint):
                raise ValueError(
                    f"{type(optimizer).__name__} keeps its state {name!r} in a form that cannot follow a new mask: one "
                    f"tensor for all {size} values that it trains; use an optimizer with one float per entry, such as "
                    "AdamW, or update_interval=None."
                )
