"""What a model with an adapter refuses, because its library would silently do something else, or only half of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..adapter.base_parameter import TunedParameter
from ..adapter.state import AdapterState
from ..layers.layer import FishDipLayer, layers_of
from .calls import CALLS
from .copies import ADAPTERS, check_values
from .reentrant import STATES, after_forward, before_forward
from .unfrozen import SEEN, warn_of_unfrozen

RESIZE = "resize_token_embeddings"
HOOKS = "_fishdip_guards"
"""Attribute of a model that keeps the handles of its hooks."""


def put_guards(model: nn.Module) -> None:
    """Make the model refuse `adapter_names` and, if its embeddings are tuned, another vocabulary size."""
    if HOOKS not in model.__dict__:
        handles = model.__dict__[HOOKS] = []
        handles.append(model.register_forward_pre_hook(refuse_in_call, with_kwargs=True))
        handles.append(model.register_forward_pre_hook(check_values))
        handles.append(model.register_forward_pre_hook(warn_of_unfrozen))
        handles.append(model.register_forward_pre_hook(before_forward))
        handles.append(model.register_forward_hook(after_forward))
        handles.append(model.register_load_state_dict_post_hook(share_again))
    if isinstance(model, PreTrainedModel) and RESIZE not in model.__dict__:
        with suppress(NotImplementedError, AttributeError):  # a model without token embeddings
            embeddings = model.get_input_embeddings()
            if isinstance(embeddings, FishDipLayer) or isinstance(model.get_output_embeddings(), FishDipLayer):
                model.__dict__[RESIZE] = Resize(embeddings)


def remove_guards(model: nn.Module) -> None:
    for handle in model.__dict__.pop(HOOKS, []):
        handle.remove()
    model.__dict__.pop(STATES, None)
    model.__dict__.pop(ADAPTERS, None)
    model.__dict__.pop(SEEN, None)
    model.__dict__.pop(RESIZE, None)
    model.__dict__.pop(CALLS, None)


def refuse_adapter_names(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for PEFT's argument that names an adapter for each example of a batch."""
    if arguments.get("adapter_names") is not None:
        raise ValueError(
            "adapter_names: Fish-Dip cannot use different adapters within one batch; call the model once for each, "
            "with set_adapter."
        )


def refuse_unfit(layers: Iterable[FishDipLayer], state: AdapterState) -> None:
    """Raise ValueError if losses would not be those of the model that is trained, or not finite."""
    layers = list(layers)
    if any(layer.merged for layer in layers):
        raise ValueError("an adapter is merged; call unmerge_adapter() before the mask is updated.")
    if any(layer.disable_adapters for layer in layers):
        raise ValueError("the adapters are disabled; enable them before the mask is updated.")
    if not bool(state.flat.isfinite().all()):
        raise ValueError(
            f"the deltas of adapter {state.adapter_name!r} are not finite: training has diverged; lower the learning "
            "rate, and begin again from the last checkpoint."
        )


def refuse_in_call(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """A forward pre-hook that refuses `adapter_names`, which models of transformers would ignore."""
    refuse_adapter_names(kwargs)


def share_again(model: nn.Module, incompatible_keys: Any) -> None:
    """A hook after `load_state_dict`: with assign=True, each use of a tied parameter has got a Parameter of its own.

    The last one counts, as without assign.
    """
    last: dict[TunedParameter, nn.Parameter] = {}
    uses = [(layer, name, parameter) for layer in layers_of(model) for name, parameter in layer.tuned.items()]
    for layer, name, parameter in uses:
        last[parameter] = layer.base_parameter(name)  # type: ignore[assignment]
    for layer, name, parameter in uses:
        layer.share(name, last[parameter])


class Resize:
    """Replaces a model's `resize_token_embeddings`, which would fail halfway."""

    def __init__(self, embeddings: nn.Module) -> None:
        self.embeddings = embeddings

    def __call__(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, **kwargs: Any) -> Any:
        """Return the input embeddings if their size stays, or raise ValueError."""
        weight: Any = self.embeddings.weight
        size = weight.shape[0]
        if (new_num_tokens is None or new_num_tokens == size) and size % (pad_to_multiple_of or 1) == 0:
            return self.embeddings
        raise ValueError(
            f"resize_token_embeddings({new_num_tokens}): the embeddings of {size} tokens are tuned by a Fish-Dip "
            "adapter, whose positions belong to this size. Resize the base model before the adapter is added, or after "
            "merge_and_unload() or unload(); or leave the embeddings out with exclude_modules."
        )
