"""How an adapter stands in a state dict, and how one is read back: checked as a whole before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .selection import top_k
from .state import AdapterState, Incoming, SparseDelta
from .summary import SUMMARY, WORDS, check, counts_of, summary


class Loaded(NamedTuple):
    """The tensors of one delta, checked."""

    active: Tensor
    frozen: Tensor
    values: Tensor


def install_if_complete(state: AdapterState) -> None:
    """Install the adapter that `state.incoming` has collected, once each delta has its positions and its values.

    Loading paths differ: PEFT and torch go through `load_state_dict`, transformers sets attributes by name. All meet
    here, and none of them can leave half an adapter behind.

    Raises:
        ValueError: something is wrong with the tensors; nothing has been changed then.
    """
    entries = [state.incoming.get(delta.name) for delta in state.deltas]
    if any(entry is None or entry.positions is None or entry.values is None for entry in entries):
        return
    found, state.incoming, state.incoming_summary = state.incoming_summary, {}, None
    install_checked(state, entries, found)  # type: ignore[arg-type]


def install_checked(state: AdapterState, entries: Sequence[Incoming], found: Tensor | None) -> None:
    """Check the tensors of all deltas, in their order, and make them the adapter's; `found` is their summary, if any.

    Raises:
        ValueError: something is wrong with them.
    """
    counts = active_counts(state, entries, found)
    loaded = [checked(delta, entry, count) for delta, entry, count in zip(state.deltas, entries, counts, strict=True)]
    if found is not None:
        check(state, entries, counts, found)
    install(state, loaded)


class Stored(nn.Module):
    """What `fishdip_values[adapter]` and `fishdip_indices[adapter]` of a layer are: one tensor per parameter, which
    is put together when asked for, and taken apart when set."""

    def __init__(self, state: AdapterState, owned: Mapping[str, SparseDelta]) -> None:
        super().__init__()
        self.state = state
        self.owned = {key.replace(".", "_"): delta for key, delta in owned.items()}

    def stored(self, delta: SparseDelta) -> Tensor:
        raise NotImplementedError

    def store(self, entry: Incoming, tensor: Tensor) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        owned = self.__dict__.get("owned", {})
        return self.stored(owned[name]) if name in owned else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        owned = self.__dict__.get("owned", {})
        if name not in owned:
            if name == "flat" and hasattr(value, "device_mesh"):  # a DTensor
                self.state.sharded = True
            super().__setattr__(name, value)
            return
        self.store(self.state.incoming.setdefault(owned[name].name, Incoming()), value.detach())
        install_if_complete(self.state)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # FSDP insists on finding the vector
        for key, delta in self.owned.items():
            destination[prefix + key] = self.stored(delta)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = {prefix + key for key in (*self.owned, *self._parameters)}
        if self is self.state.carrier:  # the first of the adapter's modules in every state dict
            self.state.incoming = {}
            self.state.incoming_summary = state_dict.get(summary_key(prefix))
        for key, delta in self.owned.items():
            if prefix + key not in state_dict:
                missing_keys.append(prefix + key)
                continue
            entry = self.state.incoming.setdefault(delta.name, Incoming())
            self.store(entry, state_dict[prefix + key].detach())
            entry.num_active = local_metadata.get("num_active", {}).get(key, entry.num_active)
        unexpected_keys.extend(key for key in state_dict if strict and key.startswith(prefix) and key not in known)
        try:
            install_if_complete(self.state)
        except ValueError as error:
            error_msgs.append(str(error))


class Values(Stored):
    """Deltas over the union, active ones first: float32. The carrier's also holds the trainable vector, `flat`."""

    flat: nn.Parameter

    def stored(self, delta: SparseDelta) -> Tensor:
        flat = self.state.flat
        if flat.is_meta:
            return torch.empty(len(delta), device="meta")
        if self.state.sharded:
            self.state.refuse_sharded()
        return delta.values(flat.detach().split(self.state.sizes)[delta.index]).clone()

    def store(self, entry: Incoming, tensor: Tensor) -> None:
        entry.values = tensor

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.state.waiting:  # what no checkpoint has, transformers would report as missing from this one
            destination.pop(prefix + "flat", None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Values:
        super()._apply(fn, recurse)
        self.state.forget_pieces()
        return self


class Indices(Stored):
    """Flat positions of the union, active ones first, each run ascending: int32 wherever that is wide enough.

    They are no buffers: DDP would send them around at every step.
    """

    def stored(self, delta: SparseDelta) -> Tensor:
        positions = delta.union.to(torch.int32 if delta.numel <= 2**31 else torch.int64)
        return positions.to("meta") if self.state.flat.is_meta else positions

    def store(self, entry: Incoming, tensor: Tensor) -> None:
        entry.positions = tensor

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["num_active"] = {
                key: delta.active.numel() for key, delta in self.owned.items()
            }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Indices:
        super()._apply(fn, recurse)
        for delta in self.owned.values():
            # fn is asked for the device alone: what it makes of the entries (`to_empty`) must not reach positions
            delta.to(fn(torch.empty(0, dtype=torch.int64, device=delta.active.device)).device)
        return self


class Summary(nn.Module):
    """What `fishdip_summary[adapter]` of a layer is: the summary of the adapter, if the layer's values are its carrier.

    See [`summary`]; it is made when asked for, and compared when set.
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.__dict__["values"] = values  # not as a child: its tensors have their own place

    @property
    def state(self) -> AdapterState:
        values: Values = self.__dict__["values"]
        return values.state

    @property
    def is_carried(self) -> bool:
        return self.__dict__["values"] is self.state.carrier

    def __getattr__(self, name: str) -> Any:
        return self.now() if name == SUMMARY and self.is_carried else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != SUMMARY:
            super().__setattr__(name, value)
            return
        self.state.incoming_summary = value.detach()
        install_if_complete(self.state)

    def now(self) -> Tensor:
        state = self.state
        if state.flat.is_meta:
            return torch.empty(WORDS + len(state.deltas), dtype=torch.int64, device="meta")
        pieces = state.flat.detach().split(state.sizes)
        entries = [Incoming(d.union, d.values(piece)) for d, piece in zip(state.deltas, pieces, strict=True)]
        return summary(state, entries, state.sizes)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_carried:
            destination[prefix + SUMMARY] = self.now()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """The carrier has read it, before the tensors that it is about."""


def summary_key(prefix: str) -> str:
    """Where in a state dict the summary stands, from the prefix of the carrier's tensors."""
    head, _, tail = prefix.rpartition("fishdip_values.")
    return f"{head}fishdip_summary.{tail}{SUMMARY}"


def is_vector(key: str) -> bool:
    """Whether a key of a state dict names an adapter's trainable vector."""
    return ".fishdip_values." in key and key.endswith(".flat")


def checked(delta: SparseDelta, entry: Incoming, num_active: int) -> Loaded:
    """The tensors of one delta, split and checked.

    Raises:
        ValueError: they cannot be a delta to this parameter; the message names it and what is wrong.
    """
    positions, values = entry.tensors()
    where = f"the adapter's tensors for {delta.name!r}"
    remedy = "The file is damaged or belongs to another base model; get a fresh copy of it, or the right base."
    if positions.dtype not in (torch.int32, torch.int64) or positions.dim() != 1:
        raise ValueError(
            f"{where}: positions must be a vector of int32, not {positions.dtype} of shape {tuple(positions.shape)}. "
            + remedy
        )
    if not values.is_floating_point() or values.shape != positions.shape:
        raise ValueError(
            f"{where}: values must be floating point, one for each of the {positions.numel()} positions, not "
            f"{values.dtype} of shape {tuple(values.shape)}. " + remedy
        )
    positions = positions.to(torch.int64)
    ordered = positions.sort().values
    if positions.numel() and not 0 <= int(ordered[0]) <= int(ordered[-1]) < delta.numel:
        bad = int(ordered[0]) if int(ordered[0]) < 0 else int(ordered[-1])
        raise ValueError(
            f"{where}: position {bad} is outside of the parameter's {delta.numel} entries (shape "
            f"{tuple(delta.shape)}). " + remedy
        )
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise ValueError(f"{where}: position {int(ordered[1:][twice][0])} occurs twice. " + remedy)
    if not values.isfinite().all():
        bad = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"{where}: the value at position {int(positions[bad])} is {float(values[bad])}. " + remedy)
    active, frozen = positions[:num_active], positions[num_active:]
    for run in (active, frozen):
        if (run[1:] < run[:-1]).any():
            raise ValueError(
                f"{where}: its {num_active} active and {frozen.numel()} frozen positions are not ascending. " + remedy
            )
    return Loaded(active, frozen, values)


def active_counts(state: AdapterState, entries: Sequence[Incoming], found: Tensor | None) -> list[int]:
    """How many of each delta's positions are active.

    The summary says it, `found`. Adapters saved without one say it in their config, or the metadata of a state dict.
    Where such a one is loaded over one of the same name, PEFT does not read the config: then a position lower than
    the one before it starts the frozen ones, and the total K settles most of the rest.

    Raises:
        ValueError: no split adds up to K active entries.
    """
    k = state.flat.numel()
    state.guessed = False
    sizes = [entry.tensors()[0].numel() for entry in entries]
    expected = [(state.expected_counts or {}).get(delta.name, [0, 0]) for delta in state.deltas]
    said = [entry.num_active for entry in entries if entry.num_active is not None]
    if found is not None:
        counts = counts_of(state, found)
    elif len(said) == len(entries):
        counts = said
    elif [sum(count) for count in expected] == sizes:
        counts = [count[0] for count in expected]
    else:
        counts = guessed_counts(state, [entry.tensors()[0] for entry in entries])
    if any(not 0 <= count <= size for count, size in zip(counts, sizes, strict=True)):
        raise ValueError(
            "the adapter's tensors have fewer entries than its counts of active ones say: the file is damaged; get a "
            "fresh copy of it."
        )
    if sum(counts) != k:
        raise ValueError(
            f"the adapter has {sum(counts)} active entries where density={state.config.density} of "
            f"{state.num_parameters} parameters makes {k}. It was made with another density or for another model; "
            "load it under a new adapter name."
        )
    return counts


def guessed_counts(state: AdapterState, positions: Sequence[Tensor]) -> list[int]:
    """Active counts from the order of the positions and their total K alone; notes where that leaves a choice."""
    descents = [(vector[1:] < vector[:-1]).nonzero().flatten() for vector in positions]
    known = [int(descent[0]) + 1 if descent.numel() else None for descent in descents]
    k = state.flat.numel()
    present = [size if count is None else count for size, count in zip(state.sizes, known, strict=True)]
    if [len(delta) for delta in state.deltas] == [vector.numel() for vector in positions] and sum(present) == k:
        return present  # the shapes are those of the adapter that was there: so are, then, its counts
    left = k - sum(count for count in known if count is not None)
    undecided = sum(vector.numel() for vector, count in zip(positions, known, strict=True) if count is None)
    state.guessed = 0 < left < undecided
    counts = []
    for vector, count in zip(positions, known, strict=True):
        if count is None:
            count = max(0, min(vector.numel(), left))
            left -= count
        counts.append(count)
    return counts


def adapter_tensors(
    model: nn.Module, state: AdapterState, state_dict: Mapping[str, Tensor]
) -> tuple[list[Incoming], Tensor | None]:
    """The tensors of an adapter, in the order of its deltas, from a state dict with the keys of `model`; and their
    summary, if there is one.

    Raises:
        ValueError: a tensor is missing, alone, or unknown to the model.
    """
    found: dict[str, Incoming] = {}
    known = set()
    told = None
    for path, module in model.named_modules():
        if isinstance(module, Summary) and module.state is state and module.is_carried:
            known.add(f"{path}.{SUMMARY}")
            told = state_dict.get(f"{path}.{SUMMARY}")
        if isinstance(module, Stored) and module.state is state:
            for key, delta in module.owned.items():
                name = f"{path}.{key}"
                known.add(name)
                if name in state_dict:
                    module.store(found.setdefault(delta.name, Incoming()), state_dict[name].detach())
    strangers = [key for key in state_dict if ".fishdip_" in key and key not in known]
    if strangers:
        raise ValueError(
            f"the adapter has the tensor {strangers[0]!r} ({len(strangers)} such), unknown to this model: it "
            "was made for another model, or with other target_modules."
        )
    for delta in state.deltas:
        entry = found.get(delta.name, Incoming())
        if entry.positions is None or entry.values is None:
            lacking = [
                kind
                for kind, tensor in (("fishdip_indices", entry.positions), ("fishdip_values", entry.values))
                if tensor is None
            ]
            raise ValueError(
                f"the adapter has no {' and no '.join(lacking)} for {delta.name!r}: the file is incomplete or was made "
                "for another model."
            )
    return [found[delta.name] for delta in state.deltas], told


@torch.no_grad()
def install_sum(state: AdapterState, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Make positions and deltas per parameter the adapter's; the K largest deltas become active."""
    k = state.flat.numel()
    magnitudes = {name: values.abs() for name, (_, values) in sums.items()}
    chosen = top_k(magnitudes, k).positions
    loaded = []
    for delta in state.deltas:
        positions, values = sums[delta.name]
        active = torch.zeros(positions.numel(), dtype=torch.bool)
        active[chosen[delta.name]] = True
        loaded.append(Loaded(positions[active], positions[~active], torch.cat([values[active], values[~active]])))
    install(state, loaded)


@torch.no_grad()
def install(state: AdapterState, loaded: Sequence[Loaded]) -> None:
    """Make checked tensors the adapter's mask and deltas."""
    values = []
    for delta, tensors in zip(state.deltas, loaded, strict=True):
        device = delta.active.device
        active = tensors.active.to(device)
        count = active.numel()
        delta.set_positions(active, tensors.frozen.to(device), tensors.values[count:].float().to(device))
        values.append(tensors.values[:count].float().to(device) / delta.scale)
    flat = state.flat
    if flat.is_meta:
        device = next((delta.active.device for delta in state.deltas), torch.device("cpu"))
        state.carrier.flat = nn.Parameter(  # type: ignore[union-attr]
            torch.cat([value.to(device) for value in values]), requires_grad=flat.requires_grad
        )
    else:
        flat.copy_(torch.cat([value.to(flat.device) for value in values]))
    state.untouched = False
    state.expected_counts = None
    state.forget_pieces()
