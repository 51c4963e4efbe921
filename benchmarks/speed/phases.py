"""How long the parts of a mask update take: the functions that do them are wrapped while an update is measured."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..settings import SettingsError
from .clock import synchronise

PHASES: dict[str, tuple[str, ...]] = {
    "scan": ("peft_fishdip.importance.scoring:Scoring.choose",),
    "fisher": ("peft_fishdip.importance.fisher:accumulate_importance",),
    "selection": ("peft_fishdip.selection:top_k",),
    "carry_over": ("peft_fishdip.adapter.state:AdapterState.remask", "peft_fishdip.optim.carry_over:carry_over"),
}
"""The functions of each part, as module:name."""


class Phases:
    """Within, what an update spends in each part is added up.

    Attributes:
        seconds: per phase; time in a phase that another one calls belongs to the inner one.
        scores: what the last selection chose from, as it was given.
    """

    def __init__(self, device: torch.device, functions: Mapping[str, tuple[str, ...]] = PHASES) -> None:
        self.device = device
        self.seconds = dict.fromkeys(functions, 0.0)
        self.scores: dict[str, Tensor] = {}
        self.found = [(phase, *find(path)) for phase, paths in functions.items() for path in paths]
        self.changed: list[tuple[Any, str, Any]] = []
        self.inner: list[float] = []
        """Per phase that runs now: seconds spent in phases that it called."""

    def __enter__(self) -> Phases:
        for phase, holder, name, function in self.found:
            wrapped = self.timed(phase, function)
            for place in [holder, *importers(function, name)]:
                if place.__dict__.get(name) is function:
                    self.changed.append((place, name, function))
                    setattr(place, name, wrapped)
        return self

    def __exit__(self, *_: object) -> None:
        for place, name, function in reversed(self.changed):
            setattr(place, name, function)
        self.changed = []

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if phase == "selection":
                self.scores = dict(args[0] if args else kwargs["scores"])
            synchronise(self.device)
            started = time.perf_counter()
            self.inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                synchronise(self.device)
                spent = time.perf_counter() - started
                self.seconds[phase] += spent - self.inner.pop()
                if self.inner:
                    self.inner[-1] += spent

        return call


def find(path: str) -> tuple[Any, str, Callable[..., Any]]:
    """What holds a function, its name there, and the function.

    Raises:
        SettingsError: it has gone elsewhere.
    """
    module_name, _, qualified = path.partition(":")
    try:
        holder: Any = importlib.import_module(module_name)
        *outer, name = qualified.split(".")
        for part in outer:
            holder = getattr(holder, part)
        return holder, name, holder.__dict__[name]
    except (ImportError, AttributeError, KeyError):
        raise SettingsError(
            f"there is no function {path}, which a mask update was split by; name the one that does its work now in "
            "PHASES of benchmarks/speed/phases.py"
        ) from None


def importers(function: Callable[..., Any], name: str) -> list[Any]:
    """Modules of the package that imported a function by its name."""
    modules = [module for title, module in sys.modules.items() if title.split(".")[0] == "peft_fishdip"]
    return [module for module in modules if module.__dict__.get(name) is function]
