"""Compares a model with an adapter of all its parameters to a copy whose parameters hold the same values."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from peft_fishdip import FishDipConfig

from .build import NO_INPUTS, NotBuilt, in_short
from .inputs import Inputs
from .internals import gradients_of
from .outputs import difference, outputs_of, scalar
from .overrides import NEVER_REENTRANT

TOLERANCE = 1e-3
"""Largest difference of a gradient, as a share of its norm."""
ROUNDING = 1e-6
"""Differences below this share of the largest gradient of a model are rounding."""
OUTPUT_TOLERANCE = 1e-4


class Refused(Exception):
    """The adapter was refused when it was to be added; the message is the reason."""


@dataclass
class Comparison:
    """What differs, one line each, and the parameters that a warning says stay frozen."""

    faults: list[str]
    frozen: list[str]
    checkpointed: bool


def compared(model: Any, inputs: Inputs) -> Comparison:
    """Compare gradients, unmerged and merged outputs, and gradients with checkpointing.

    Raises:
        Refused: the adapter cannot be added.
        NotBuilt: the model cannot be trained in eval mode, with or without an adapter.
    """
    oracle = copy.deepcopy(model)
    adapted, told = with_adapter(model)
    add_deltas(oracle, adapted.base_model.delta())
    for parameter in oracle.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    faults = []
    try:
        expected, dense = run(oracle, inputs)
    except Exception as error:
        raise NotBuilt(NO_INPUTS, f"no backward pass in eval mode, {in_short(error)}") from error
    try:
        found, gradients = run_adapted(adapted, inputs)
    except Exception as error:
        return Comparison([f"training fails, {in_short(error)}"], [], False)
    faults += list(output_faults("unmerged outputs", found, expected))
    different, frozen = gradient_faults(gradients, dense, told)
    faults += different
    adapted.merge_adapter()
    with torch.no_grad():  # both: kernels may round otherwise than with gradients
        faults += list(output_faults("merged outputs", outputs_of(adapted, inputs), outputs_of(oracle, inputs)))
    adapted.unmerge_adapter()
    checkpointed = bool(getattr(oracle, "supports_gradient_checkpointing", False))
    if checkpointed:
        faults += checkpointing_faults(adapted, oracle, inputs)
    return Comparison(faults, frozen, checkpointed)


def with_adapter(model: Any) -> tuple[Any, str]:
    """The model with an adapter of random deltas to all parameters, and the warnings that this gave."""
    config = FishDipConfig(density=1.0, init_weights=False, delta_scale="none", auto_update=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            adapted = get_peft_model(model, config).eval()
        except ValueError as error:
            raise Refused(str(error)) from error
    return adapted, " ".join(str(warning.message) for warning in told)


@torch.no_grad()
def add_deltas(oracle: nn.Module, deltas: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add the deltas to the parameters of these names."""
    parameters = dict(oracle.named_parameters())
    for name, (positions, values) in deltas.items():
        flat = parameters[name].detach().flatten()
        parameters[name].copy_(flat.index_add(0, positions, values.to(flat.dtype)).view_as(parameters[name]))


def run(oracle: Any, inputs: Inputs) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradient of each parameter that has one."""
    oracle.zero_grad(set_to_none=True)
    outputs = outputs_of(oracle, inputs)
    scalar(outputs).backward()
    parameters = oracle.named_parameters()
    return outputs, {name: p.grad.flatten().clone() for name, p in parameters if p.grad is not None}


def run_adapted(adapted: Any, inputs: Inputs) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradient of each delta."""
    adapted.zero_grad(set_to_none=True)
    outputs = outputs_of(adapted, inputs)
    scalar(outputs).backward()
    return outputs, gradients_of(adapted)


def output_faults(name: str, found: list[Tensor], expected: list[Tensor]) -> Iterator[str]:
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=True)):
        yield f"{name} have other shapes"
        return
    largest = max(difference(a, b) for a, b in zip(found, expected, strict=True))
    if largest > OUTPUT_TOLERANCE:
        yield f"{name} differ by {largest:.1g} of their size"


def gradient_faults(found: Mapping[str, Tensor], dense: Mapping[str, Tensor], told: str) -> tuple[list[str], list[str]]:
    """What differs between the gradients, and the parameters without delta that a warning has named."""
    floor = ROUNDING * max((float(gradient.norm()) for gradient in dense.values()), default=0.0)
    wrong: list[str] = []
    missing: list[str] = []
    frozen: list[str] = []
    left: list[str] = []
    for name, gradient in dense.items():
        if not gradient.numel():
            continue  # there is nothing to tune
        size = float(gradient.norm())
        if name not in found:
            (frozen if name in told else left).append(name)
        elif size > floor and not bool(found[name].any()):
            missing.append(name)
        elif float((found[name] - gradient).norm()) > TOLERANCE * size + floor:
            wrong.append(name)
    wrong += [name for name, gradient in found.items() if name not in dense and float(gradient.norm()) > floor]
    faults = [
        f"{what}: {few(names)}"
        for what, names in (("no gradient", missing), ("another gradient", wrong), ("no delta, no warning", left))
        if names
    ]
    return faults, frozen


def few(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def checkpointing_faults(adapted: Any, oracle: Any, inputs: Inputs) -> list[str]:
    """What gradient checkpointing changes in train mode, where it changes nothing without the adapter."""
    base = adapted.base_model.model
    adapted.train()
    try:
        _, plain = run_adapted(adapted, inputs)
    except Exception as error:
        return [f"training in train mode, {in_short(error)}"] if trains(oracle, inputs) else []
    faults = []
    for reentrant in (False,) if base.config.model_type in NEVER_REENTRANT else (False, True):
        try:
            checkpoint(base, reentrant)
            _, again = run_adapted(adapted, inputs)
            different, _ = gradient_faults(again, plain, "")
        except Exception as error:
            different = [in_short(error)]
        if different and works_without(oracle, inputs, reentrant):
            faults.append(f"checkpointing with use_reentrant={reentrant}, {'; '.join(different)}")
    return faults


def checkpoint(model: Any, reentrant: bool) -> None:
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})


def trains(oracle: Any, inputs: Inputs) -> bool:
    """Whether a step in train mode works without an adapter."""
    try:
        run(oracle.train(), inputs)
    except Exception:
        return False
    return True


def works_without(oracle: Any, inputs: Inputs, reentrant: bool) -> bool:
    """Whether checkpointing changes no gradient of the model without an adapter."""
    oracle.train()
    try:
        oracle.activation_checkpointing_disable()
        _, plain = run(oracle, inputs)
        checkpoint(oracle, reentrant)
        _, again = run(oracle, inputs)
    except Exception:
        return False
    return not gradient_faults(again, plain, "")[0]
