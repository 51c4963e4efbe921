"""Warnings of learning rates that are far from the size of the weights."""

from __future__ import annotations

import math
import warnings
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer

from ..adapter.initial import auto_unit, rms
from ..adapter.state import AdapterState
from ..layers.layer import tuned_parameters
from ..quantization import has_quantized_storage
from .adafactor import SparseAdafactor

SMALLEST, LARGEST = 6e-4, 0.5
"""What a step of Adam may change an entry by, as a share of its tensor's RMS; 0.004 to 0.1 have trained well."""

SMALLEST_ADAFACTOR, LARGEST_ADAFACTOR = 5e-4, 0.5
MATRICES = 8
"""Of a model, by whose size the rate is judged if deltas have no scale."""

LARGEST_OF_MODULES = 2e-2
"""Rate of Adam at which a new module, such as a classifier, changes by more than its own size in few steps."""

BEGIN_WITH = {
    "auto": "1e-3 is a good rate to begin with",
    "rms": "1e-2 is a good rate to begin with; or delta_scale='auto' and 1e-3",
    "none": "1e-3 is a rate to begin with, as with delta_scale='auto'",
}

_checked: WeakKeyDictionary[Optimizer, set[str]] = WeakKeyDictionary()


def check_rates(optimizer: Optimizer, model: nn.Module, state: AdapterState) -> None:
    """Warn, once for an optimizer and adapter, of a rate at which training learns nothing or diverges.

    The rate is the highest one that a schedule names; a warm-up that begins with 0 is fine.
    """
    done = _checked.setdefault(optimizer, set())
    if state.adapter_name in done:
        return
    done.add(state.adapter_name)
    group = next(group for group in optimizer.param_groups if any(p is state.flat for p in group["params"]))
    message = fault_of(optimizer, group, model, state)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=2)
    message = fault_of_modules(optimizer, state)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=2)


def fault_of(optimizer: Optimizer, group: dict[str, Any], model: nn.Module, state: AdapterState) -> str | None:
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
        scale = state.config.delta_scale
        relative = (
            rate / typical_rms(model, state) if scale == "none" else rate * (auto_unit(model) if scale == "auto" else 1)
        )
    else:
        return None  # the size of its steps depends on the gradients
    if low <= relative <= high or not 0 < rate < math.inf:
        return None
    size, effect = ("small", "will hardly learn") if relative < low else ("large", "is likely to diverge")
    return (
        f"the learning rate {rate:g} of {kind} is far too {size} for adapter {state.adapter_name!r} with "
        f"delta_scale={state.config.delta_scale!r}: it {effect}; {remedy}."
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


def typical_rms(model: nn.Module, state: AdapterState) -> float:
    """The median RMS of some of the matrices that an adapter changes; 1 if none can be read."""
    found = [tensor for _, tensor in tuned_parameters(model, state.adapter_name).values()]
    plain = [tensor for tensor in found if tensor.dim() > 1 and not has_quantized_storage(tensor)]
    sizes = [rms(tensor.detach()) for tensor in plain[:: max(1, len(plain) // MATRICES)]]
    return median(sizes) if sizes else 1.0


def is_adam(optimizer: Optimizer) -> bool:
    """Whether a step changes each entry by about the learning rate: Adam and what is made like it, and Lion.

    Not so in D-Adaptation and Prodigy, which multiply the rate, 1 as a rule, by one that they find.
    """
    kind = type(optimizer).__name__.lower()
    finds_rate = "dadapt" in kind or "prodigy" in kind or any("d0" in group for group in optimizer.param_groups)
    return ("adam" in kind or "lion" in kind) and not finds_rate


def peak(group: dict[str, Any]) -> float:
    """The highest rate that a parameter group names: a schedule sets the present one below it."""
    return max(float(group.get(name) or 0.0) for name in ("lr", "initial_lr", "max_lr"))
