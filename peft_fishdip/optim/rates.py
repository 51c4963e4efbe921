"""Warnings of learning rates that are far from the size of the weights."""

from __future__ import annotations

import math
import warnings
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from ..adapter.initial import AUTO_UNIT
from ..adapter.state import AdapterState
from .adafactor import SparseAdafactor

TYPICAL_RMS = 0.04
"""Of the weights of a transformer, which is the unit that a delta without a scale is compared with."""

SMALLEST, LARGEST = 0.005, 0.5
"""What a step of Adam may change an entry by, as a share of its tensor's RMS; 0.02 to 0.1 have trained well."""

SMALLEST_ADAFACTOR, LARGEST_ADAFACTOR = 5e-4, 0.5
LARGEST_OF_MODULES = 2e-2
"""Rate of Adam at which a new module, such as a classifier, changes by more than its own size in few steps."""

BEGIN_WITH = {
    "auto": "1e-3 is a good rate to begin with",
    "rms": "5e-2 is a good rate to begin with; or delta_scale='auto' and 1e-3",
    "none": "3e-3 is a rate to begin with; delta_scale='auto' and 1e-3 train better",
}

_checked: WeakKeyDictionary[Optimizer, set[str]] = WeakKeyDictionary()


def check_rates(optimizer: Optimizer, state: AdapterState) -> None:
    """Warn, once for an optimizer and adapter, of a rate at which training learns nothing or diverges.

    The rate is the highest one that a schedule names; a warm-up that begins with 0 is fine.
    """
    done = _checked.setdefault(optimizer, set())
    if state.adapter_name in done:
        return
    done.add(state.adapter_name)
    group = next(group for group in optimizer.param_groups if any(p is state.flat for p in group["params"]))
    message = fault_of(optimizer, group, state)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=2)
    message = fault_of_modules(optimizer, state)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=2)


def fault_of(optimizer: Optimizer, group: dict[str, Any], state: AdapterState) -> str | None:
    """What is wrong with the rate of the adapter's vector, if anything."""
    rate, kind = peak(group), type(optimizer).__name__
    if isinstance(optimizer, SparseAdafactor):
        low, high, remedy = SMALLEST_ADAFACTOR, LARGEST_ADAFACTOR, "1e-2 is a good rate to begin with"
        relative = rate
    elif "adafactor" in kind.lower():
        return (
            f"{kind} trains the vector of deltas of adapter {state.adapter_name!r} as a tensor of its own, with steps "
            "hundreds of times too small; use peft_fishdip.SparseAdafactor(model), or AdamW with a rate of 1e-3."
        )
    elif is_adam(optimizer):
        low, high, remedy = SMALLEST, LARGEST, BEGIN_WITH[state.config.delta_scale]
        relative = rate * {"auto": AUTO_UNIT, "rms": 1.0, "none": 1 / TYPICAL_RMS}[state.config.delta_scale]
    else:
        return None  # the size of its steps depends on the gradients
    if low <= relative <= high or not 0 < rate < math.inf:
        return None
    size, effect = ("small", "hardly learns") if relative < low else ("large", "diverges")
    return (
        f"the learning rate {rate:g} of {kind} is far too {size} for adapter {state.adapter_name!r} with "
        f"delta_scale={state.config.delta_scale!r}, which {effect} with it: {remedy}."
    )


def fault_of_modules(optimizer: Optimizer, state: AdapterState) -> str | None:
    """What is wrong with the rate of modules that are trained whole, if there are any."""
    if not is_adam(optimizer) or not state.config.modules_to_save:
        return None
    rates = [peak(group) for group in optimizer.param_groups if any(p.dim() > 1 for p in group["params"])]
    if not rates or max(rates) <= LARGEST_OF_MODULES:
        return None
    return (
        f"modules that are trained whole ({', '.join(sorted(state.config.modules_to_save))}) have a learning rate of "
        f"{max(rates):g}, at which they change by more than their own size within a few steps; use "
        "delta_scale='auto', with which 1e-3 suits them and the adapter, or give them a group of their own."
    )


def is_adam(optimizer: Optimizer) -> bool:
    """Whether a step changes each entry by about the learning rate: Adam and what is made like it, and Lion."""
    kind = type(optimizer).__name__.lower()
    return "adam" in kind or "lion" in kind


def peak(group: dict[str, Any]) -> float:
    """The highest rate that a parameter group names: a schedule sets the present one below it."""
    return max(float(group.get(name) or 0.0) for name in ("lr", "initial_lr", "max_lr"))
