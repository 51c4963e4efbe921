"""The modules that hold an adapter's tensors within a layer, and how these enter and leave a state dict.

Positions and values change their shapes with the mask, so they are neither parameters nor buffers: hooks on the state
dict write them, and collect them again. PEFT and torch load through `load_state_dict`, transformers sets attributes by
name; either way all tensors of an adapter are collected first, then checked and installed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..private import FSDP_NAME, own_parameter
from .atomic import Write, apply_all
from .compact import Tensors, compacted
from .install import DIGEST, WORDS, digest, installing, missing, number_of_tensors, summary, summary_size
from .state import POSITIONS, SUMMARY, VALUES, AdapterState, SparseDelta

LOAD_HOOK = "_fishdip_load_hook"
"""Where a module keeps the handle of its hook, see [`watch_loads`]."""


FLAT = "flat"
"""The key of the trainable vector among the values of its carrier."""


def keys_of(names: Collection[str]) -> list[str]:
    """Under which key each parameter of a module stands in a state dict: its name without dots, but never [`FLAT`]."""
    keys = [name.replace(".", "_") for name in names]
    free = next(key for n in range(1, len(keys) + 2) if (key := FLAT + "_" * n) not in keys)
    return [free if key == FLAT else key for key in keys]


class Container(nn.Module):
    """The entry `fishdip_...[adapter]` of a layer: its tensors are computed when read, and collected when set."""

    kind: str  # of the tensors: POSITIONS, VALUES or SUMMARY

    def __init__(self, state: AdapterState, owned: Mapping[str, SparseDelta]) -> None:
        super().__init__()
        self.state = state
        self.__dict__["deltas"] = dict(zip(keys_of(owned), owned.values(), strict=True))
        self.register_state_dict_post_hook(write_tensors)
        self.register_load_state_dict_pre_hook(collect_tensors)

    def owned(self) -> Mapping[str, SparseDelta | None]:
        """The deltas that this layer saves and loads, by their key here; None stands for the summary."""
        return self.__dict__["deltas"]

    def stored(self, delta: SparseDelta | None) -> Tensor:
        """The tensor of one delta as it is saved; while a compact checkpoint is awaited, zeros in its shape."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if "deltas" in self.__dict__ and name in self.owned():
            return self.stored(self.owned()[name])
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "deltas" not in self.__dict__ or name not in self.owned():
            if name == FLAT and hasattr(value, "device_mesh"):  # a DTensor
                self.state.sharded = True
            super().__setattr__(name, value)
            return
        state = self.state
        state.set_by_name[self.kind, name_of(self.owned()[name])] = value
        if len(state.set_by_name) == number_of_tensors(state):
            tensors, state.set_by_name = state.set_by_name, {}
            try:
                apply_all(installing(state, tensors).writes)
            except BaseException:
                if state.waiting and state.take_out is not None:
                    state.take_out()
                raise


class Values(Container):
    """Deltas over the support, active entries first: float32. The carrier's also holds the trainable vector, `flat`."""

    kind = VALUES
    flat: nn.Parameter

    def stored(self, delta: SparseDelta | None) -> Tensor:
        assert delta is not None
        flat = self.state.flat
        if flat.is_meta:
            return torch.empty(len(delta), dtype=torch.float32, device="meta")
        if self.state.waiting and delta.name in self.state.awaited_storage:
            dtype = getattr(torch, self.state.awaited_storage[delta.name][1])
            return torch.zeros(len(delta), dtype=dtype, device="cpu")
        if self.state.sharded:
            self.state.refuse_sharded()
        return delta.values(self.state.view_of(delta, flat.detach())).clone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Values:
        is_carrier = self.state.carrier is self
        before = self.flat.dtype if is_carrier else None
        super()._apply(fn, recurse)
        if is_carrier and self.flat.dtype != before:
            self.state.dtype = self.flat.dtype
        self.state.drop_views()
        return self


class Indices(Container):
    """Flat positions of the support, active ones first, each run ascending: int32 wherever that is wide enough.

    They are not buffers, because DDP would broadcast them at every step.
    """

    kind = POSITIONS

    def stored(self, delta: SparseDelta | None) -> Tensor:
        assert delta is not None
        if self.state.waiting and delta.name in self.state.awaited_storage:
            return torch.zeros(self.state.awaited_storage[delta.name][0], dtype=torch.uint8, device="cpu")
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
        found = summary(self.state)  # transformers loads only what has this shape
        return found[:-1] if self.state.waiting and self.state.config.awaits_version_0_1 else found


def name_of(delta: SparseDelta | None) -> str:
    return "" if delta is None else delta.name


def write_tensors(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Add a container's tensors to a state dict, as a hook after torch has written its parameters."""
    module.state.refuse_partly_loaded()
    for key, delta in module.owned().items():
        state_dict[prefix + key] = module.stored(delta)
    if module.state.waiting:  # transformers would report the vector, which no checkpoint has, as missing from this one
        state_dict.pop(prefix + FLAT, None)


def collect_tensors(module: Any, state_dict: dict[str, Tensor], prefix: str, *load: Any) -> None:
    """Take a container's tensors out of a state dict, as a hook before torch reads it."""
    install_before_load(module, state_dict, prefix, *load)
    installed = module.state.last_load[1]
    for key in module.owned():
        if state_dict.pop(prefix + key, None) is None and not installed:
            load[2].append(prefix + key)  # the missing keys
    flat = prefix + FLAT
    expected = flat in state_dict or not module.state.last_load[2]
    if installed and expected and own_parameter(module, FLAT) is not None:
        state_dict[flat] = module.flat  # the vector itself: its values come with the deltas


def install_before_load(module: Any, state_dict: Mapping[str, Tensor], prefix: str, *load: Any) -> None:
    """Check and install all adapters that a state dict has, as a hook of every module with containers within.

    torch calls the hook of the outermost module first, before it reads anything, so a damaged adapter is refused while
    nothing has changed. The list of errors belongs to one call of `load_state_dict`: by it, the hooks of inner modules
    recognise that the work is done.

    Raises:
        RuntimeError: an adapter is damaged, of another model, or incomplete. Nothing has changed then.
    """
    error_msgs = load[-1]
    writes: list[Write] = []
    try:
        for state, tensors in tensors_in(places_in(module, prefix), state_dict, prefix).items():
            if state.last_load[0] is error_msgs:
                continue
            has_vector = any(key in state_dict for key in vector_keys(module, prefix, state))
            state.last_load = (error_msgs, bool(tensors), has_vector)
            was_installed, state.installed = state.is_installed(tensors), None
            if was_installed:
                continue  # PEFT has had them checked and installed before
            lacking = missing(state, tensors) if tensors or has_vector else None
            if lacking and not is_current(module, state, state_dict, prefix):
                raise ValueError(
                    f"the state dict has only a part of adapter {state.adapter_name!r}: {lacking}. Nothing was loaded; "
                    "load a state dict of the whole model, or all tensors of the adapter."
                )
            if tensors and not lacking:
                writes += installing(state, tensors).writes
    except ValueError as error:
        raise RuntimeError(f"Error in loading state_dict for {type(module).__name__}: {error}") from error
    apply_all(writes)


def is_current(module: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether all that a state dict has of an adapter within a module is what the adapter has now."""
    places = [place for place in places_in(module, prefix) if place.container.state is state]
    present = [(at.container.stored(at.delta), state_dict[at.key]) for at in places if at.key in state_dict]
    vectors = [(state.flat, state_dict[key]) for key in vector_keys(module, prefix, state) if key in state_dict]
    return all(is_same(a, b) for a, b in present + vectors)


def is_same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device)))


class Place(NamedTuple):
    """Where a state dict has a tensor of an adapter."""

    key: str
    container: Container
    delta: SparseDelta | None


def places_in(module: nn.Module, prefix: str = "") -> list[Place]:
    """The places of the tensors of all adapters within a module."""
    return [
        Place(path + key, container, delta)
        for path, container in containers_in(module, prefix)
        for key, delta in container.owned().items()
    ]


def tensors_in(
    places: Iterable[Place], state_dict: Mapping[str, Tensor], prefix: str = ""
) -> dict[AdapterState, dict[tuple[str, str], Tensor]]:
    """The tensors that a state dict has of each adapter.

    Raises:
        ValueError: a shared module has different tensors under two of its names.
    """
    found: dict[AdapterState, dict[tuple[str, str], Tensor]] = {}
    for key, container, delta in places:
        tensors = found.setdefault(container.state, {})
        # FSDP1 adds its name to the keys of an inner unit only when torch reaches that unit
        for name in (key, prefix + key.removeprefix(prefix).replace(FSDP_NAME, "")):
            tensor = state_dict.get(name)
            if isinstance(tensor, Tensor):
                if not is_same(tensors.setdefault((container.kind, name_of(delta)), tensor), tensor):
                    raise ValueError(f"{key!r} is of a shared module, and differs from its tensor under another name.")
                break
    return found


def vector_keys(module: nn.Module, prefix: str, state: AdapterState) -> list[str]:
    """The keys in a state dict of an adapter's trainable vector within a module."""
    return [path + FLAT for path, container in containers_in(module, prefix) if container is state.carrier]


def containers_in(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Container]]:
    """All containers within a module, each with its prefix in a state dict, once for each place where it is used."""
    for path, container in module.named_modules(prefix=prefix.removesuffix("."), remove_duplicate=False):
        if isinstance(container, Container):
            yield f"{path}." if path else "", container


def watch_loads(module: nn.Module) -> bool:
    """Have each module that has containers within check adapters before torch reads a state dict for it.

    Returns:
        Whether the module is or has a container.
    """
    within = [watch_loads(child) for child in module.children()]
    holds_some = any(within)
    if holds_some and LOAD_HOOK not in module.__dict__:
        module.__dict__[LOAD_HOOK] = module.register_load_state_dict_pre_hook(install_before_load)
    return holds_some or isinstance(module, Container)


def unwatch_loads(model: nn.Module) -> None:
    for module in model.modules():
        handle = module.__dict__.pop(LOAD_HOOK, None)
        if handle is not None:
            handle.remove()


def install_from(model: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check and install an adapter from a state dict with the keys of `model`; ValueError if it is no such adapter.

    Returns:
        the state dict, with positions and deltas in place of the tensors of a compact file.
    """
    places = places_in(model)
    known = {place.key for place in places}
    unknown = [key for key in state_dict if ".fishdip_" in key and key not in known]
    if unknown:
        raise ValueError(
            f"the adapter has the tensor {unknown[0]!r} ({len(unknown)} such), unknown to this model: it "
            "was made for another model, or with other target_modules."
        )
    tensors = tensors_in(places, state_dict)[state]
    installation = installing(state, tensors)
    apply_all(installation.writes)
    state.installed = (dict(installation.tensors), state.contents())
    return with_tensors(places, state, state_dict, installation.tensors)


def compact_state_dict(
    model: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor], exact: bool
) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """A state dict with the keys of `model` in which an adapter has the tensors of a compact file.

    Args:
        exact: see [`compact.compacted`].

    Returns:
        the state dict and its `FishDipConfig.compact_storage`; as it is and None if it does not have the whole adapter.
    """
    places = places_in(model)
    tensors = tensors_in(places, state_dict).get(state, {})
    if len(tensors) < number_of_tensors(state) or any(tensor.is_meta for tensor in tensors.values()):
        return dict(state_dict), None
    numbers = tensors[SUMMARY, ""][WORDS:]
    found = compacted(state, tensors, numbers[: len(state.deltas)].tolist(), exact)
    if found.deltas:
        names = [delta.name for delta in state.deltas]
        stored = [found.tensors[POSITIONS, name] for name in names]
        deltas = [found.deltas.get(name, tensors[VALUES, name]) for name in names]
        checksum = digest(state, list(zip(stored, deltas, strict=True)), numbers)
        found.tensors[SUMMARY, ""] = torch.cat([checksum, numbers])
    return with_tensors(places, state, state_dict, found.tensors), found.storage


def with_tensors(
    places: Iterable[Place], state: AdapterState, state_dict: Mapping[str, Tensor], tensors: Tensors
) -> dict[str, Tensor]:
    """A state dict in which an adapter has these tensors, where it has any."""
    result = dict(state_dict)
    for key, container, delta in places:
        if container.state is state and (container.kind, name_of(delta)) in tensors:
            for name in {key, key.replace(FSDP_NAME, "")} & result.keys():
                result[name] = tensors[container.kind, name_of(delta)]
    return result


def with_present_tensors(model: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the keys of `model` in which an adapter has the tensors that it has now, where it has any."""
    places = places_in(model)
    own = [place for place in places if place.container.state is state]
    tensors = {(container.kind, name_of(delta)): container.stored(delta) for _, container, delta in own}
    return with_tensors(places, state, state_dict, tensors)


def is_vector(key: str) -> bool:
    """Whether a key of a state dict names an adapter's trainable vector."""
    return ".fishdip_values." in key and key.endswith(f".{FLAT}")


def without_vectors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without trainable vectors, whose values are among the deltas."""
    return {key: tensor for key, tensor in state_dict.items() if not is_vector(key)}
