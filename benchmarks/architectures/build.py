"""Builds the tiny model of an architecture, and finds inputs that it takes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedConfig, set_seed

from .catalogue import Architecture
from .inputs import Inputs, possible_inputs
from .outputs import is_same, outputs_of
from .overrides import CONFIGS
from .shrink import tiny_config

MOST_PARAMETERS = 6_000_000
NO_PACKAGE = "They need a package that is not installed"
NO_CONFIG = "No tiny config is known"
NO_INPUTS = "No inputs are known"
NOT_REPEATABLE = "Two calls with one seed give different outputs"
TOO_SLOW = "They take too long"


class NotBuilt(Exception):
    """An architecture that could not be built, or run without an adapter; the message tells why.

    Attributes:
        heading: one of the reasons above.
    """

    def __init__(self, heading: str, message: str = "") -> None:
        super().__init__(message)
        self.heading = heading


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
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(NO_PACKAGE if isinstance(error, ImportError) else NO_CONFIG, in_short(error)) from error
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
            raise NotBuilt(NO_CONFIG, f"more than {most:,} parameters")

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
            raise NotBuilt(NOT_REPEATABLE)
        return inputs
    raise NotBuilt(NO_INPUTS, failures[0] if failures else "")


def in_short(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = " ".join(str(error).split())
    text = re.sub(r"Class validation error for validator '\w+': ", "", text)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
