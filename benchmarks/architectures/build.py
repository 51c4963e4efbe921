"""Builds the tiny model of an architecture, and finds inputs that it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedConfig, set_seed

from .catalogue import Architecture
from .inputs import Inputs, possible_inputs
from .outputs import floating, is_same, outputs_of
from .overrides import CONFIGS
from .shrink import tiny_config

MOST_PARAMETERS = 3_000_000


class NotBuilt(Exception):
    """An architecture that could not be built, or run without an adapter; the message tells why."""


def built(architecture: Architecture) -> tuple[Any, Inputs]:
    """The tiny model in eval mode and inputs for it.

    Raises:
        NotBuilt: there is no such model.
    """
    try:
        config = tiny_config(architecture.config_class, CONFIGS.get(architecture.model_type, {}))
        set_seed(0)
        with limited_parameters(MOST_PARAMETERS):
            model = architecture.model_class(config)
    except Exception as error:
        raise NotBuilt(f"its tiny model cannot be made: {in_short(error)}") from error
    model = model.float().eval()
    no_cache(config)
    return model, accepted_inputs(model, config)


def no_cache(config: PreTrainedConfig) -> None:
    """Do without caches of keys and values, which are no outputs to compare."""
    for name in ("use_cache", *config.sub_configs):
        part = getattr(config, name, None)
        if name == "use_cache" and part:
            config.use_cache = False
        elif isinstance(part, PreTrainedConfig):
            no_cache(part)


@contextlib.contextmanager
def limited_parameters(most: int) -> Iterator[None]:
    """Within, modules that register more parameters than this in all raise NotBuilt, before memory is filled."""
    number = 0

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal number
        number += 0 if parameter is None else parameter.numel()
        if number > most:
            raise NotBuilt(f"it has more than {most:,} parameters")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def accepted_inputs(model: Any, config: PreTrainedConfig) -> Inputs:
    """The first inputs that the model takes, with outputs that are finite and the same each time.

    Raises:
        NotBuilt: there are none.
    """
    failures = []
    for inputs in possible_inputs(model, config):
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        try:
            with torch.no_grad():
                first = outputs_of(model, inputs)
        except Exception as error:
            failures.append(f"{shapes}: {in_short(error)}")
            continue
        if not any(tensor.numel() for tensor in first):
            failures.append(f"{shapes}: no floating outputs")
            continue
        with torch.no_grad():
            second = outputs_of(model, inputs)
        if not is_same(first, second):
            raise NotBuilt("two calls with one seed give different outputs")
        return inputs
    raise NotBuilt(failures[0] if failures else "no input is known for it", failures)


def in_short(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__


__all__ = ["NotBuilt", "Tensor", "built", "floating", "in_short"]
