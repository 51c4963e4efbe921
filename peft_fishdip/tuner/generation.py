"""Decoding with effective values in place: written into the weights once, not for each token and layer."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..adapter.base_parameter import TemporaryMerge
from ..layers.layer import layers_of

GENERATE = "generate"


@contextmanager
def generating_in_place(model: nn.Module) -> Iterator[None]:
    """Within, the `generate` of the model, which calls each layer for each token, holds effective values in place.

    All models of PEFT look it up on the model itself, within calls of theirs.
    """
    if GENERATE in model.__dict__ or not hasattr(type(model), GENERATE):
        yield
        return
    model.__dict__[GENERATE] = Generate(model)
    try:
        yield
    finally:
        remove_generate(model)


def remove_generate(model: nn.Module) -> None:
    """Leave the model its own `generate`; copies that were made meanwhile still have ours."""
    if isinstance(model.__dict__.get(GENERATE), Generate):
        model.__dict__.pop(GENERATE, None)  # another thread may come first


class Generate:
    """A model's own `generate`, with effective values in place. Refers to the model weakly, so that it can be freed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = weakref.ref(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Generate:
        model: Any = self.model()
        return Generate(memo.get(id(model), model))

    def __reduce__(self) -> tuple[Any, ...]:
        return Generate, (self.model(),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = self.model()
        own = inspect.getattr_static(type(model), GENERATE)
        bound = own.__get__(model, type(model)) if hasattr(own, "__get__") else own
        with effective_in_place(model):
            return bound(*args, **kwargs)


@contextmanager
def effective_in_place(model: nn.Module) -> Iterator[None]:
    """Within, the base parameters hold the effective values of the active adapters; bitwise their own ones afterwards.

    Calls with gradients, calls of other threads and changes of the adapters are possible meanwhile, as at any time:
    see [`parameter.TunedParameter`]. Who reads base parameters past the layers, as `state_dict()` of the whole model
    does, sees effective values.
    """
    temporary_merge = TemporaryMerge()
    with ExitStack() as stack:
        for layer in layers_of(model):
            layer.merge_temporarily(temporary_merge, stack)
        yield
