"""Tensors that stand in the place of a module's parameters during a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .private import has_hooks, own_parameter, rnn_weights


def owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds the parameter `name` of `module`, and its name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


STANDING = "_fishdip_standing_in"
"""Where the tensors are that stand in for parameters of a module whose class looks there, see own_reads.py."""


def place_of(module: nn.Module) -> dict[str, Any]:
    """Where a module finds a tensor under the name of its parameter before the parameter itself."""
    place: dict[str, Any] = module.__dict__.get(STANDING, module.__dict__)
    return place


@contextmanager
def standing_in(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """Within, `module` finds `tensor` under the name of its parameter."""
    inner, leaf = owner(module, name)
    place = place_of(inner)
    place[leaf] = tensor
    weights, names = rnn_weights(inner)
    index = names.index(leaf) if weights else 0
    if weights:
        weights[index] = tensor
    try:
        yield
    finally:
        del place[leaf]
        if weights:
            weights[index] = own_parameter(inner, leaf)


def calls_only_itself(module: nn.Module) -> bool:
    """Whether a call of the module runs only the forward of its class: no hooks, no forward of its own."""
    return not has_hooks(module) and "forward" not in module.__dict__
