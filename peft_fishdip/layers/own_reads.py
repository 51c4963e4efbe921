"""Modules that read parameters of their own at other times than in a call of the layer around them.

A layer puts effective values in the place of parameters for the time of a call. Methods other than forward read the
parameters without one, and a module that checkpoints itself reads them again when it is recomputed. So the class of
such a module is replaced by a subclass that computes these parameters at every read of its own, as
torch.nn.utils.parametrize does, under the same names in state dicts and in `parameters()`. Whoever else reads them from
the module itself, such as FSDP, which flattens parameters, or an initialisation, gets the base parameters.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import nn

from ..private import own_parameter
from ..stand_in import STANDING

LAYER = "_fishdip_layer"
"""Name under which such a module knows the layer around it; no child, since the layer is around it."""
_made: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def read_through(module: nn.Module, layer: Any, names: tuple[str, ...]) -> None:
    """Let a module find under the names of its parameters what the layer around it says is current."""
    if type(module) in _made.values():
        unread(module)
    module.__dict__[LAYER], module.__dict__[STANDING] = layer, {}
    module.__class__ = reading_class(type(module), names)


def unread(module: nn.Module) -> None:
    """Undo `read_through`, if it was done."""
    if module.__dict__.pop(LAYER, None) is not None:
        del module.__dict__[STANDING]
        module.__class__ = type(module).__bases__[0]


def reading_class(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A subclass whose attributes of these names are current values; it has the name of its base."""
    if (kind, names) not in _made:
        of_kind = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        reads = {name: property(reader(name), setter(name), deleter(name)) for name in names}
        _made[kind, names] = type(kind.__name__, (kind,), {**of_kind, **reads, "__reduce_ex__": reduced(kind, names)})
    return _made[kind, names]


def reader(name: str) -> Any:
    def read(module: nn.Module) -> Any:
        standing_in = module.__dict__[STANDING].get(name)
        if standing_in is not None:
            return standing_in
        parameter = own_parameter(module, name)
        if parameter is None:
            return put_there(module, name)
        by_itself = torch.compiler.is_compiling() or is_of(sys._getframe(1), module)
        return module.__dict__[LAYER].current(name) if by_itself else parameter

    return read


def is_of(frame: FrameType, module: nn.Module) -> bool:
    """Whether a method of a module runs in a frame, or a function that is defined within one."""
    code, found = frame.f_code, frame.f_locals
    first = code.co_varnames[:1] if code.co_argcount else ()
    return any(found.get(name) is module for name in (*first, *code.co_freevars))


def put_there(module: nn.Module, name: str) -> Any:
    """The tensor that somebody else, such as FSDP, has put in the place of a parameter; an AttributeError for none."""
    if name not in module.__dict__:
        raise AttributeError(f"{type(module).__name__} has no attribute {name!r}")
    return module.__dict__[name]


def setter(name: str) -> Any:
    def write(module: nn.Module, value: Any) -> None:
        module.__dict__[name] = value

    return write


def deleter(name: str) -> Any:
    def delete(module: nn.Module) -> None:
        put_there(module, name)
        del module.__dict__[name]

    return delete


def reduced(kind: type[nn.Module], names: tuple[str, ...]) -> Any:
    """The `__reduce_ex__` of a class that pickle and copy cannot find by its name."""

    def reduce(module: nn.Module, protocol: Any) -> Any:
        return remade, (kind, names), module.__dict__

    return reduce


def remade(kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    made = reading_class(kind, names)
    return made.__new__(made)
