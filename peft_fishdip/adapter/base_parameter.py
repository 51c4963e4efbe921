"""A base parameter with the deltas of all adapters to it, and the one formula for its effective values."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from ..fingerprint import fingerprint_of
from ..private import version_of
from .handles import handle_of
from .state import SparseDelta


class TemporaryMerge:
    """One temporary merge: effective values stay in base parameters for many calls, while this object lives."""


class TunedParameter:
    """One base parameter with the deltas of all adapters to it; modules that are tied to it share this object.

    Effective values enter the base tensor in three ways: swapped in for one matrix product, temporarily merged for
    many calls, or merged. `lock` is held while they are written and while a product relies on them. Backups are
    recorded before writing, so a modified tensor is always recognised after an interrupt, and restored at the next use.

    Attributes:
        merged_adapters: names of the adapters that are merged.
        temporary: what a temporary merge has put in, if anything: the [`key_of`] its deltas, and the objects whose ids
            are in that key, kept alive so that no other object can have these ids.
        temporary_merges: those that are in force.
        gradient: float32, the parameter's shape: if not None, backward passes add the whole gradient of the effective
            values to it, that of entries without a delta too.
    """

    def __init__(self, name: str, shape: torch.Size) -> None:
        self.name = name
        self.shape = shape
        self.handle = handle_of(self)
        self.deltas: dict[str, SparseDelta] = {}
        self.merged_adapters: list[str] = []
        self.lock = threading.RLock()
        self.temporary: tuple[object, object] | None = None
        self.temporary_merges: WeakSet[TemporaryMerge] = WeakSet()
        self.gradient: Tensor | None = None
        self._fingerprint: tuple[object, str] | None = None  # and the version of the base tensor that it belongs to
        self._backup: tuple[Tensor, Tensor] | None = None  # positions and base values
        self._joint: tuple[list[Tensor], Tensor, list[Tensor]] | None = None
        self._own_memory = 0  # the address at which it was seen that no other process has it

    def __getstate__(self) -> dict[str, object]:
        own = ("lock", "temporary_merges", "_fingerprint", "_joint", "gradient")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.handle = handle_of(self)
        self.lock = threading.RLock()
        self.temporary_merges = WeakSet()
        self._fingerprint = self._joint = self.gradient = None
        self._own_memory = 0

    def of(self, adapters: Sequence[str]) -> tuple[SparseDelta, ...]:
        """The deltas of these adapters, in their order; empty ones only while the whole gradient is wanted."""
        found = [self.deltas[name] for name in adapters if name in self.deltas]
        return tuple(delta for delta in found if len(delta) or self.gradient is not None)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add to `gradient`, as a hook of tensors of effective values."""
        if self.gradient is not None:
            self.gradient.add_(gradient.detach().reshape(self.shape))

    @torch.no_grad()
    def entries(self, weight: Tensor, deltas: Sequence[SparseDelta], views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The entries of `weight` that `deltas` change.

        Returns:
            Positions (int64), the base values there and the effective ones, `(base.float() + delta).to(base.dtype)`;
            of a float64 base the sum in float64.
        """
        positions, delta = self.joint(deltas, views)
        if weight.is_meta and not positions.is_meta:
            refuse_offloaded(self.name)
        base = read(weight, positions)
        return positions, base, (at_least_float(base) + delta).to(base.dtype)

    def joint(self, deltas: Sequence[SparseDelta], views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Positions and values of the sum of `deltas`, added in the order given."""
        if len(deltas) == 1:
            return deltas[0].support, deltas[0].values(views[0])
        supports = [delta.support for delta in deltas]
        joint = self._joint
        if joint is None or [id(support) for support in joint[0]] != [id(support) for support in supports]:
            union = torch.cat(supports).unique()
            self._joint = joint = (supports, union, [torch.searchsorted(union, support) for support in supports])
        _, positions, places = joint
        total = torch.zeros(positions.numel(), dtype=torch.float32, device=positions.device)
        for delta, view, where in zip(deltas, views, places, strict=True):
            total.index_add_(0, where, delta.values(view))
        return positions, total

    @torch.no_grad()
    def effective(
        self,
        weight: Tensor,
        deltas: Sequence[SparseDelta],
        views: Sequence[Tensor],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """A new tensor with the effective values, detached, converted to `dtype` where one is given."""
        with self.lock:
            base = self.restored(weight)
            positions, _, values = self.entries(base, deltas, views)
            tensor = base.to(dtype or base.dtype, copy=True)
        write(tensor, positions, values.to(tensor.dtype))
        return tensor

    @torch.no_grad()
    def dense_delta(self, deltas: Sequence[SparseDelta], views: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """A new tensor of the parameter's shape: the sum of `deltas`, zero elsewhere."""
        positions, values = self.joint(deltas, views)
        dense = torch.zeros(self.shape, dtype=dtype, device=positions.device)
        write(dense, positions, values.to(dtype))
        return dense

    @torch.no_grad()
    def merge(self, weight: Tensor, adapters: Sequence[str]) -> None:
        """Write the deltas of `adapters`, on top of those merged already, into the base tensor."""
        with self.lock:
            merged = [*self.merged_adapters, *(name for name in adapters if name not in self.merged_adapters)]
            self.unmerge(weight)
            self._put_in_place(weight, self.of(merged), [name for name in merged if name in self.deltas])

    @torch.no_grad()
    def unmerge(self, weight: Tensor) -> None:
        """Restore the base tensor bitwise, or as a cast since then would have left it, however it was modified."""
        with self.lock:
            self.temporary = None
            self.merged_adapters = []
            if self._backup is not None:
                positions, base = self._backup
                write(weight.data, positions.to(weight.device), base.to(weight))
            self._backup = None

    @property
    def swapped_in(self) -> bool:
        """Whether the base tensor has other values than its own without being merged."""
        return self._backup is not None and not self.merged_adapters

    def has_effective(self, deltas: Sequence[SparseDelta]) -> bool:
        """Whether the base tensor has the effective values of `deltas` at this moment, without being merged."""
        if self._backup is None:
            return not deltas
        return self.temporary is not None and self.temporary[0] == key_of(deltas)

    @torch.no_grad()
    def merge_temporarily(self, weight: Tensor, adapters: Sequence[str], temporary_merge: TemporaryMerge) -> None:
        """Leave the effective values of `adapters` in the base tensor until all temporary merges have ended.

        Nothing is done if it is merged, has no delta of theirs, or is not whole here.
        """
        with self.lock:
            deltas = self.of(adapters)
            whole = weight.shape == self.shape and not weight.is_meta and not hasattr(weight, "device_mesh")
            if self.merged_adapters or not deltas or not whole or any(d.state.version is None for d in deltas):
                return
            self.temporary_merges.add(temporary_merge)
            if not self.has_effective(deltas):
                self.unmerge(weight)
                self._put_in_place(weight, deltas, [])
                self.temporary = (key_of(deltas), [(delta, delta.support) for delta in deltas])

    @torch.no_grad()
    def end_temporary_merge(self, weight: Tensor, temporary_merge: TemporaryMerge) -> None:
        """Restore the base tensor if no other temporary merge is in force."""
        with self.lock:
            self.temporary_merges.discard(temporary_merge)
            if self.swapped_in and not self.temporary_merges:
                self.unmerge(weight)

    def swap_in(self, weight: Tensor, deltas: Sequence[SparseDelta], views: Sequence[Tensor]) -> None:
        """Write effective values into the base tensor until `unmerge`. The caller holds the lock.

        Raises:
            ValueError: other processes may have the same memory, or the tensor can be changed in inference mode alone.
        """
        if weight.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"{self.name!r} was made within torch.inference_mode(), and torch lets deltas be written into it there "
                "alone: load the base outside of inference mode, or call the model within it, too."
            )
        if weight.data_ptr() != self._own_memory:
            refuse_shared_memory(self.name, weight)
            self._own_memory = weight.data_ptr()
        positions, base, values = self.entries(weight, deltas, views)
        self._backup = (positions, base)  # before writing: an interrupted write can be undone
        write(weight, positions, values)

    def _put_in_place(self, weight: Tensor, deltas: Sequence[SparseDelta], merged: list[str]) -> None:
        if deltas:
            self.swap_in(weight.data, deltas, active_views(deltas))
        self.merged_adapters = merged  # last: an interrupted merge counts as swapped in, and is restored

    def unmerged(self, weight: Tensor) -> Tensor:
        """The base tensor with its own values: itself, or a restored copy if it is modified. Detached."""
        with self.lock:
            return self.restored(weight)

    def restored(self, weight: Tensor) -> Tensor:
        """[`unmerged`] for a caller that holds the lock, or that compiles a graph."""
        if self._backup is None:
            return weight.detach()
        copy = weight.detach().clone()
        positions, base = self._backup
        write(copy, positions.to(copy.device), base.to(copy))
        return copy

    @torch.no_grad()
    def fingerprint(self, weight: Tensor, anew: bool = False) -> str | None:
        """The fingerprint of the base values, computed again only if the tensor has changed since the last time.

        Changes through `.data` are seen only with `anew`.

        None if it has no plain values here (quantised, sharded, on meta).
        """
        plain = type(weight.data) is Tensor and weight.is_floating_point() and not weight.is_meta
        if not plain or weight.shape != self.shape:
            return None
        key = (weight.data_ptr(), version_of(weight), weight.dtype, weight.device)
        if anew or self._fingerprint is None or self._fingerprint[0] != key:
            with self.lock:
                self._fingerprint = (key, fingerprint_of(self.restored(weight)).line())
        return self._fingerprint[1]


def fingerprints(parameters: Mapping[str, tuple[TunedParameter, Tensor]], anew: bool = False) -> dict[str, str]:
    """The fingerprint of each base parameter that has one, as a line of text, given each with its base tensor."""
    lines = {name: parameter.fingerprint(weight, anew) for name, (parameter, weight) in parameters.items()}
    return {name: found for name, found in lines.items() if found is not None}


def refuse_shared_memory(name: str, weight: Tensor) -> None:
    """Raise ValueError if a tensor is in memory that processes share: a lock holds off threads, not processes."""
    if weight.is_cpu and weight.is_shared():
        raise ValueError(
            f"{name!r} is in memory that several processes share, as after share_memory() or when a model is handed to "
            "torch.multiprocessing, and deltas are written into it for each call: load or copy.deepcopy the base in "
            "each process before the adapter is added, or share a model after merge_and_unload()."
        )


def refuse_offloaded(name: str) -> None:
    """Raise ValueError for a parameter without values, as accelerate leaves it between the calls of its module."""
    raise ValueError(
        f"{name!r} or the adapter's deltas have no values here, on device 'meta': load them, or, if accelerate has "
        "offloaded them after the adapter was added (cpu_offload, disk_offload, dispatch_model), keep the model on one "
        "device, in half precision or quantized if memory is short; or leave the offloaded modules out with "
        "exclude_modules."
    )


def key_of(deltas: Sequence[SparseDelta]) -> list[tuple[object, ...]]:
    """Differs whenever the effective values of `deltas` may differ."""
    return [(id(delta), id(delta.support), delta.state.version) for delta in deltas]


def active_views(deltas: Sequence[SparseDelta]) -> list[Tensor]:
    """The trainable values of each delta, as views of its adapter's vector."""
    try:
        return [delta.state.views()[delta.index].to(delta.active.device) for delta in deltas]
    except NotImplementedError:
        for delta in deltas:
            if delta.state.flat.is_meta:
                refuse_offloaded(delta.name)
        raise


def at_least_float(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 if that is its dtype."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def read(tensor: Tensor, positions: Tensor) -> Tensor:
    """The entries at flat positions, whatever the tensor's strides."""
    if tensor.is_contiguous():
        return tensor.view(-1).index_select(0, positions)
    return tensor[torch.unravel_index(positions, tensor.shape)]


def write(tensor: Tensor, positions: Tensor, values: Tensor) -> None:
    """Set the entries at flat positions in place, whatever the tensor's strides."""
    if not tensor.is_contiguous():
        tensor[torch.unravel_index(positions, tensor.shape)] = values
    elif tensor.dtype in (torch.bfloat16, torch.float16):
        tensor.view(-1).index_copy_(0, positions, values)  # on CPUs scatter_ reads and writes the whole tensor here
    else:
        tensor.view(-1).scatter_(0, positions, values)
