"""Decoding at the price of the base model: effective values stand in its weights while it generates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from .layer import layers_of

GENERATE = "generate"


@contextmanager
def generating_in_place(model: nn.Module) -> Iterator[None]:
    """Within, the `generate` of the model holds effective values in place.

    All of PEFT's models look it up on the model itself, and it calls each layer for each token. It does not stay
    there: it refers to the model, which would never be freed without the garbage collector then.
    """
    if GENERATE in model.__dict__ or not hasattr(type(model), GENERATE):
        yield
        return
    model.__dict__[GENERATE] = Generate(model)
    try:
        yield
    finally:
        model.__dict__.pop(GENERATE, None)  # another thread's may have ended first


class Generate:
    """A model's own `generate`, with effective values in place."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with effective_in_place(self.model):
            return getattr(type(self.model), GENERATE)(self.model, *args, **kwargs)


@contextmanager
def effective_in_place(model: nn.Module) -> Iterator[None]:
    """Within, the base parameters hold the effective values of the active adapters; bitwise the base ones afterwards.

    Calls with gradients, calls of other threads and changes of the adapters are possible meanwhile, as at any time:
    see [`parameter.TunedParameter`].
    """
    with ExitStack() as stack:
        for layer in layers_of(model):
            for release in layer.hold():
                stack.callback(release)
        yield
