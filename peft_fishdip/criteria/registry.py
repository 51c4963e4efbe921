"""The names of importance functions, and the checks of what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import functions
from .gradients import FROM_ONE, ExampleGradients

ImportanceFunction = Callable[[Tensor, ExampleGradients], Tensor]
"""From the effective values of a parameter and the examples' gradients there to a score for each entry."""


@dataclass(frozen=True)
class Criterion:
    """What scores the parameters.

    Attributes:
        name: by which it is registered, or an unregistered function is called in messages and saved configs.
        function: None if the only average that it needs is itself the score.
        needs: the averages that it needs, see ExampleGradients; none for a function that needs no examples.
        expected_power: the power of a score that is a squared gradient; None if no power of it is.
    """

    name: str
    function: ImportanceFunction | None
    needs: tuple[str, ...] = ("mean",)
    expected_power: int | None = None

    @torch.no_grad()
    def scores(self, name: str, values: Tensor, gradients: ExampleGradients) -> Tensor:
        """The scores of the parameter `name`, float32.

        Raises:
            ValueError: the function failed, or returned something else than a finite score of at least 0 per entry.
        """
        assert self.function is not None
        shape, device = values.shape, values.device
        try:
            found: Any = self.function(values, gradients)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # of a function of the user's
            raise ValueError(f"importance {self.name!r} failed at {name!r}: {type(error).__name__}: {error}") from error
        if not isinstance(found, Tensor) or found.shape != shape or found.is_complex():
            what = type(found).__name__
            if isinstance(found, Tensor):
                what = f"tensor of {found.dtype} and shape {tuple(found.shape)}"
            raise ValueError(
                f"importance {self.name!r} must return a real tensor of shape {tuple(shape)} for {name!r}, one score "
                f"per entry, not a {what}."
            )
        found = found.detach().to(device, torch.float32)
        valid = found.isfinite() & (found >= 0)
        if not bool(valid.all()):
            bad = int((~valid).flatten().nonzero()[0])
            raise ValueError(
                f"importance {self.name!r} returned {float(found.flatten()[bad])} for {name!r} at flat position {bad}; "
                "scores must be finite in float32, and at least 0."
            )
        return found


BUILT_IN = {
    criterion.name: criterion
    for criterion in (
        Criterion("fisher", None, ("mean_square",), expected_power=1),
        Criterion("absolute", None, ("mean_absolute",), expected_power=2),
        Criterion("gradient", functions.gradient),
        Criterion("magnitude", functions.magnitude, ()),
        Criterion("gallop", functions.gallop),
        Criterion("lift", functions.lift, ()),
    )
}
_registered: dict[str, Criterion] = {}


def register_importance(name: str, function: ImportanceFunction, needs: Iterable[str] = ("mean",)) -> None:
    """Give an importance function a name that `FishDipConfig(importance=name)` and saved adapters know it by.

    A saved adapter has only this name, so a process that loads it and updates its mask registers the function first.

    Args:
        name: any that is not taken; to register the same function anew, as a notebook does, is fine.
        function: from the effective values of a parameter (float32, a copy) and an ExampleGradients to the scores of
            its entries, a tensor of the same shape. It may change what it is given.
        needs: the averages of the examples' gradients that it reads: "mean", "mean_square", "mean_absolute". With
            none, no example is looked at.

    Raises:
        ValueError: the name is taken or empty, or there is no such average.
        TypeError: the function cannot be called.
    """
    needs = (needs,) if isinstance(needs, str) else tuple(dict.fromkeys(needs))
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r} must be a text, such as 'snip'.")
    if not callable(function):
        raise TypeError(f"the importance {name!r} must be a function, not a {type(function).__name__}.")
    if unknown := [need for need in needs if need not in FROM_ONE]:
        raise ValueError(f"needs={unknown[0]!r} is unknown; choose from {', '.join(FROM_ONE)}.")
    known = _registered.get(name)
    if name in BUILT_IN or (known is not None and full_name(known.function) != full_name(function)):
        owner = "built in" if known is None else f"that of {full_name(known.function)}"
        raise ValueError(f"the importance {name!r} is {owner}; choose another name.")
    _registered[name] = Criterion(name, function, needs)


def is_known(name: Any) -> bool:
    return isinstance(name, str) and (name in BUILT_IN or name in _registered)


def registered_name(function: ImportanceFunction) -> str | None:
    """The first name that a function is registered by."""
    known = (*BUILT_IN.values(), *_registered.values())
    return next((criterion.name for criterion in known if criterion.function is function), None)


def known_names() -> list[str]:
    return [*BUILT_IN, *_registered]


def criterion_of(importance: str | ImportanceFunction) -> Criterion:
    """What scores the parameters, by the value of `FishDipConfig.importance`.

    Raises:
        ValueError: no function is registered under this name in this process.
    """
    if callable(importance):
        name = registered_name(importance)
        if name is None:
            return Criterion(full_name(importance), importance)
        importance = name
    if not is_known(importance):
        raise ValueError(
            f"importance={importance!r} is not registered in this process: call "
            f"register_importance({importance!r}, function) before the mask is updated, with the function that the "
            "adapter was trained with. Without updates none is needed."
        )
    return BUILT_IN.get(importance) or _registered[importance]


def name_of(importance: str | ImportanceFunction) -> str:
    """The name that stands in a saved config."""
    return criterion_of(importance).name if callable(importance) else importance


def full_name(function: Any) -> str:
    """The name of a function with its module; of a callable object, that of its class."""
    if isinstance(function, partial):
        return full_name(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
