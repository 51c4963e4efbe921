"""Looks for values that were copied into adapters without their positions, see adapter/lineage.py."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..adapter.state import AdapterState
from ..layers.layer import FishDipLayer

ADAPTERS = "_fishdip_adapters"
"""Attribute of a model: its adapters, each with one of its layers."""

_watched: WeakSet[AdapterState] = WeakSet()
_hooked: list[Any] = []


def watch(model: nn.Module, state: AdapterState, layer: FishDipLayer) -> None:
    """Look at the values of an adapter from now on."""
    model.__dict__.setdefault(ADAPTERS, []).append((state, layer))


def adapters_of(model: nn.Module) -> list[AdapterState]:
    """The adapters that a model has now."""
    return [state for state, _ in model.__dict__.get(ADAPTERS, []) if state.driver is not None]


def check_values(model: nn.Module, *_: Any) -> None:
    """A forward pre-hook: warn of values of active adapters that do not belong to their masks."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    adapters = model.__dict__.get(ADAPTERS, [])
    if any(state.driver is None for state, _ in adapters):  # deleted since
        adapters[:] = [(state, layer) for state, layer in adapters if state.driver is not None]
    for state, layer in adapters:
        if not layer.disable_adapters and state.adapter_name in layer.active_adapters:
            _watched.add(state)
            state.lineage.check(state, (other for other, _ in adapters if other is not state), model.training)
    if not _hooked:
        _hooked.append(register_optimizer_step_post_hook(after_step))


def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """A hook of every optimizer's step."""
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for state in list(_watched):
        if state.driver is not None and id(state.flat) in trained:
            state.lineage.stepped(state)
