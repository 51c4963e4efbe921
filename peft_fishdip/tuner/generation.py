"""Decoding with temporarily merged deltas: written into the weights once, not for each token and layer."""

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
def generating_merged(model: nn.Module) -> Iterator[None]:
    """Within, the model's `generate` merges the active adapters temporarily.

    PEFT's models look `generate` up on the base model during their own call, so it is replaced there.
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
    """Give the model its own `generate` again. Copies that were made during the call keep the other one."""
    if isinstance(model.__dict__.get(GENERATE), Generate):
        model.__dict__.pop(GENERATE, None)  # another thread may come first


class Generate:
    """A model's `generate` with temporarily merged adapters. Refers to the model weakly, so that it can be freed."""

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
        with temporarily_merged(model):
            return bound(*args, **kwargs)


@contextmanager
def temporarily_merged(model: nn.Module) -> Iterator[None]:
    """Within, the active adapters are merged temporarily; on exit the base parameters are restored bitwise.

    Calls with gradients, calls from other threads and changes of the adapters remain possible within, see
    [`base_parameter.TunedParameter`]. Code that reads base parameters without calling the layers, such as
    `state_dict()` of the whole model, sees effective values.
    """
    temporary_merge = TemporaryMerge()
    with ExitStack() as stack:
        for layer in layers_of(model):
            layer.merge_temporarily(temporary_merge, stack)
        yield
