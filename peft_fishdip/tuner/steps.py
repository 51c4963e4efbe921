"""Hooks of every optimizer's step, for those who choose masks between steps."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakValueDictionary

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..adapter.state import AdapterState
from ..optim.carry_over import new_entries_of
from ..optim.closure import HookResult, once_gradients_are_there
from ..optim.rates import check_rates


class Driver(Protocol):
    """Hears of the steps of the optimizers that train an adapter's vector."""

    state: AdapterState

    @property
    def model(self) -> nn.Module: ...

    def before_step(self, optimizer: Optimizer, group: dict[str, Any]) -> None: ...

    def after_step(self, optimizer: Optimizer, group: dict[str, Any]) -> None: ...


_drivers: WeakValueDictionary[int, Driver] = WeakValueDictionary()
"""By their ids, in the order they were added. That is the same on all ranks, as updates with collective calls need."""

_hooked: list[Any] = []


def hear_steps_of(driver: Driver) -> None:
    """Have `driver` hear the steps of all optimizers from now on, for as long as it lives."""
    _drivers[id(driver)] = driver
    if not _hooked:
        _hooked.append(register_optimizer_step_pre_hook(before_step))
        _hooked.append(register_optimizer_step_post_hook(after_step))


def leave(driver: Driver) -> None:
    """The driver hears of no more steps."""
    _drivers.pop(id(driver), None)


def concerned(optimizer: Optimizer) -> list[tuple[Driver, dict[str, Any]]]:
    """The drivers whose vectors an optimizer trains, each with its parameter group, in the order they were added."""
    drivers = [driver for reference in _drivers.valuerefs() if (driver := reference()) is not None]
    groups = [(driver, group_in(driver, optimizer)) for driver in drivers]
    return [(driver, group) for driver, group in groups if group is not None]


def group_in(driver: Driver, optimizer: Optimizer) -> dict[str, Any] | None:
    """The parameter group of an optimizer that holds the adapter's vector, if any."""
    vector = driver.state.flat
    for group in optimizer.param_groups:
        if any(parameter is vector for parameter in group["params"]):
            return group
    return None


def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HookResult:
    """A hook of every optimizer's step."""
    found = concerned(optimizer)
    for driver, _ in found:
        driver.state.begin()
        check_rates(optimizer, driver.model, driver.state)

    def update() -> None:
        for driver, group in found:
            driver.before_step(optimizer, group)

    if not found:
        return None
    new_entries_of(optimizer)  # looked at in this step too: with a closure, a mask may change within it
    return once_gradients_are_there(args, kwargs, update)


def after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A hook of every optimizer's step."""
    for driver, group in concerned(optimizer):
        driver.after_step(optimizer, group)
