"""Finds the forward passes of training under DistributedDataParallel, see adapter/inner_gradients.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..adapter.inner_gradients import InnerGradients
from ..adapter.state import AdapterState
from ..layers.layer import layers_of
from ..private import active_ddp

STATES = "_fishdip_under_ddp"
"""Attribute of a model: the adapters whose inner gradients are gathered since its last forward pass."""


def before_forward(model: nn.Module, *_: Any) -> None:
    """A forward pre-hook: gather the inner gradients of this pass, if there may be some."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    drop(model)
    ddp = active_ddp()
    if ddp is None or ddp.static_graph:
        return
    states = dict.fromkeys(values.state for layer in layers_of(model) for values in layer.fishdip_values.values())
    trained: list[AdapterState] = [state for state in states if state.flat.requires_grad]  # type: ignore[union-attr, misc]
    model.__dict__[STATES] = trained
    for state in trained:
        state.inner = InnerGradients(state.flat)


def after_forward(model: nn.Module, args: Any, output: Any) -> Any:
    """A forward hook."""
    if torch.compiler.is_compiling():
        return output
    for state in model.__dict__.get(STATES, ()):
        if state.inner is not None and state.inner.in_forward:
            output = state.inner.end_forward(output)
    return output


def drop(model: nn.Module) -> None:
    """End the last forward pass.

    Raises:
        ValueError: gradients of it have not reached the adapter.
    """
    for state in model.__dict__.pop(STATES, ()):
        inner, state.inner = state.inner, None
        if inner is not None:
            inner.refuse_left_over()
