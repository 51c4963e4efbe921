"""The modules that hold an adapter's tensors within a layer, and how these enter and leave a state dict.

Positions and values change their shapes with the mask, so they are neither parameters nor buffers: hooks on the state
dict write them, and collect them again. PEFT and torch load through `load_state_dict`, transformers sets attributes by
name; either way all tensors of an adapter are collected first, then checked and installed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..private import own_parameter
from .install import DIGEST, check, install, missing, summary, summary_size
from .state import POSITIONS, SUMMARY, VALUES, AdapterState, Incoming, SparseDelta

BY_NAME = object()
"""Identifies the load that sets attributes by name, see [`Incoming.load`]."""


class Container(nn.Module):
    """What `fishdip_...[adapter]` of a layer is: tensors that are made when asked for, and collected when set.

    Attributes:
        state: the adapter.
        kind: of the tensors, "fishdip_indices", "fishdip_values" or "fishdip_summary".
        owned: by their key here, the deltas that this layer saves and loads; None for the summary.
    """

    kind: str

    def __init__(self, state: AdapterState, owned: Mapping[str, SparseDelta]) -> None:
        super().__init__()
        self.state = state
        self.__dict__["deltas"] = {key.replace(".", "_"): delta for key, delta in owned.items()}
        self.register_state_dict_post_hook(write_tensors)
        self.register_load_state_dict_pre_hook(collect_tensors)

    def owned(self) -> Mapping[str, SparseDelta | None]:
        return self.__dict__["deltas"]

    def stored(self, delta: SparseDelta | None) -> Tensor:
        """The tensor of one delta as it is saved."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if "deltas" in self.__dict__ and name in self.owned():
            return self.stored(self.owned()[name])
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "deltas" not in self.__dict__ or name not in self.owned():
            if name == "flat" and hasattr(value, "device_mesh"):  # a DTensor
                self.state.sharded = True
            super().__setattr__(name, value)
            return
        state = self.state
        if state.incoming.load is not BY_NAME or state.incoming.finished:
            state.incoming = Incoming(BY_NAME)
        state.incoming.tensors[self.kind, name_of(self.owned()[name])] = value
        if missing(state, state.incoming.tensors) is None:
            tensors, state.incoming = state.incoming.tensors, Incoming()
            install(state, check(state, tensors))


class Values(Container):
    """Deltas over the support, active entries first: float32. The carrier's also holds the trainable vector, `flat`."""

    kind = VALUES
    flat: nn.Parameter

    def stored(self, delta: SparseDelta | None) -> Tensor:
        assert delta is not None
        flat = self.state.flat
        if flat.is_meta:
            return torch.empty(len(delta), device="meta")
        if self.state.sharded:
            self.state.refuse_sharded()
        return delta.values(flat.detach().split(self.state.sizes)[delta.index]).clone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Values:
        super()._apply(fn, recurse)
        self.state.drop_views()
        return self


class Indices(Container):
    """Flat positions of the support, active ones first, each run ascending: int32 wherever that is wide enough.

    They are not buffers, because DDP would broadcast them at every step.
    """

    kind = POSITIONS

    def stored(self, delta: SparseDelta | None) -> Tensor:
        assert delta is not None
        positions = delta.support.to(torch.int32 if delta.numel <= 2**31 else torch.int64)
        return positions.to("meta") if self.state.flat.is_meta else positions

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Indices:
        super()._apply(fn, recurse)
        for delta in self.__dict__["deltas"].values():
            # fn is asked for the device alone: what it makes of the entries (`to_empty`) must not reach positions
            delta.to(fn(torch.empty(0, dtype=torch.int64, device=delta.active.device)).device)
        return self


class Summary(Container):
    """The summary of the adapter, see [`install.summary`], in the layer whose values are the adapter's carrier."""

    kind = SUMMARY

    def __init__(self, values: Values) -> None:
        self.__dict__["values"] = values  # not as a child: its tensors have their own place
        super().__init__(values.state, {})

    def owned(self) -> Mapping[str, SparseDelta | None]:
        return {DIGEST: None} if self.__dict__["values"] is self.state.carrier else {}

    def stored(self, delta: SparseDelta | None) -> Tensor:
        if self.state.flat.is_meta:
            return torch.empty(summary_size(self.state), dtype=torch.int64, device="meta")
        if self.state.sharded:
            self.state.refuse_sharded()
        return summary(self.state)


def name_of(delta: SparseDelta | None) -> str:
    return "" if delta is None else delta.name


def write_tensors(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Add a container's tensors to a state dict, as a hook after torch has written its parameters."""
    for key, delta in module.owned().items():
        state_dict[prefix + key] = module.stored(delta)
    if module.state.waiting:  # transformers would report the vector, which no checkpoint has, as missing from this one
        state_dict.pop(prefix + "flat", None)


def collect_tensors(
    module: Any,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: Mapping[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Take a container's tensors out of a state dict, as a hook before torch reads it.

    `error_msgs` belongs to one call of `load_state_dict`. While tensors of the adapter are missing, it holds a message
    that says so; torch raises it if the others do not come.
    """
    state: AdapterState = module.state
    if state.incoming.load is not error_msgs:
        state.incoming = Incoming(error_msgs)
    incoming = state.incoming
    found = [key for key in module.owned() if prefix + key in state_dict]
    missing_keys.extend(prefix + key for key in module.owned() if prefix + key not in state_dict)
    for key in found:
        incoming.tensors[module.kind, name_of(module.owned()[key])] = state_dict.pop(prefix + key)
    if found and own_parameter(module, "flat") is not None:
        state_dict[prefix + "flat"] = module.flat.detach()  # the vector itself: its values come with the deltas
    if incoming.finished or not incoming.tensors:
        return
    if incoming.complaint is not None:
        error_msgs.remove(incoming.complaint)
        incoming.complaint = None
    lacking = missing(state, incoming.tensors)
    if lacking is not None:
        incoming.complaint = (
            f"the state dict has only a part of adapter {state.adapter_name!r}: {lacking}. Nothing of it was loaded; "
            "load a state dict of the whole model, or all tensors of the adapter."
        )
        error_msgs.append(incoming.complaint)
        return
    incoming.finished = True
    tensors, incoming.tensors = incoming.tensors, {}
    installed, state.installed = state.installed, {}
    if installed and all(tensors[key] is tensor for key, tensor in installed.items()):
        return  # PEFT has had them checked and installed before
    try:
        install(state, check(state, tensors))
    except ValueError as error:
        error_msgs.append(str(error))


def containers_of(model: nn.Module, state: AdapterState) -> Iterator[tuple[str, Container]]:
    """The containers of an adapter within a model, each with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Container) and module.state is state:
            yield path, module


def install_from(model: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor]) -> None:
    """Check and install an adapter from a state dict with the keys of `model`.

    Raises:
        ValueError: a tensor is missing, unknown to the model, damaged or of another model. Nothing has changed then.
    """
    known = {
        f"{path}.{key}": (container.kind, name_of(delta))
        for path, container in containers_of(model, state)
        for key, delta in container.owned().items()
    }
    unknown = [key for key in state_dict if ".fishdip_" in key and key not in known]
    if unknown:
        raise ValueError(
            f"the adapter has the tensor {unknown[0]!r} ({len(unknown)} such), unknown to this model: it "
            "was made for another model, or with other target_modules."
        )
    tensors = {place: state_dict[key] for key, place in known.items() if key in state_dict}
    install(state, check(state, tensors))
    state.installed = tensors


def is_vector(key: str) -> bool:
    """Whether a key of a state dict names an adapter's trainable vector."""
    return ".fishdip_values." in key and key.endswith(".flat")
