"""A base parameter with the deltas of all adapters to it, and the one formula for its effective values."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from .handles import handle_of
from .state import SparseDelta


class Holder:
    """Who relies on effective values that base parameters hold, for as long as it lives."""


class Held:
    """Which effective values a base parameter holds for the time of many calls.

    Attributes:
        key: of which deltas, and at which values of them.
        kept: what the key has ids of, kept so that nothing else can have them.
    """

    def __init__(self, deltas: Sequence[SparseDelta]) -> None:
        self.key = key_of(deltas)
        self.kept = [(delta, delta.union) for delta in deltas]


class TunedParameter:
    """One base parameter with the deltas of all adapters to it; modules that are tied to it share this object.

    `lock` is held while the base tensor is changed or must not change: a borrowed weight holds effective values
    for the time of one matrix product. `held` is set while it holds them for longer without being merged; whoever
    needs other values takes them away then, and whoever relied on them goes on by borrowing. The order of all writes
    is such that after an interrupt a tensor with other values than its own is known as one, if not with which.
    """

    def __init__(self, name: str, shape: torch.Size) -> None:
        self.name = name
        self.shape = shape
        self.handle = handle_of(self)
        self.deltas: dict[str, SparseDelta] = {}
        self.merged_adapters: list[str] = []
        self.lock = threading.RLock()
        self.known: tuple[object, str] | None = None  # the fingerprint of the base tensor, and of which state of it
        self.held: Held | None = None
        self.holders: WeakSet[Holder] = WeakSet()
        self._backup: tuple[Tensor, Tensor] | None = None
        self._joint: tuple[list[Tensor], Tensor, list[Tensor]] | None = None

    def __getstate__(self) -> dict[str, object]:
        own = ("lock", "known", "holders", "_joint")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.handle = handle_of(self)
        self.lock = threading.RLock()
        self.holders = WeakSet()
        self.known = self._joint = None

    def of(self, adapters: Sequence[str]) -> tuple[SparseDelta, ...]:
        """The deltas of these adapters, in their order, less those that are empty."""
        return tuple(self.deltas[name] for name in adapters if name in self.deltas and len(self.deltas[name]))

    @torch.no_grad()
    def entries(self, weight: Tensor, deltas: Sequence[SparseDelta], pieces: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The entries of `weight` that `deltas` change.

        Returns:
            Positions (int64), the base values there and the effective ones, `(base.float() + delta).to(base.dtype)`;
            of a float64 base the sum in float64.
        """
        positions, delta = self.joint(deltas, pieces)
        base = read(weight, positions)
        return positions, base, (at_least_float(base) + delta).to(base.dtype)

    def joint(self, deltas: Sequence[SparseDelta], pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Positions and values of the sum of `deltas`, added in the order given."""
        if len(deltas) == 1:
            return deltas[0].union, deltas[0].values(pieces[0])
        unions = [delta.union for delta in deltas]
        joint = self._joint
        if (
            joint is None
            or len(joint[0]) != len(unions)
            or any(a is not b for a, b in zip(joint[0], unions, strict=False))
        ):
            positions = torch.cat(unions).unique()
            joint = (unions, positions, [torch.searchsorted(positions, union) for union in unions])
            self._joint = joint
        total = torch.zeros(joint[1].numel(), device=joint[1].device)
        for delta, piece, where in zip(deltas, pieces, joint[2], strict=True):
            total.index_add_(0, where, delta.values(piece))
        return joint[1], total

    def effective(self, weight: Tensor, deltas: Sequence[SparseDelta], pieces: Sequence[Tensor]) -> Tensor:
        """A new tensor with the effective values, detached."""
        with self.lock:
            tensor = weight.detach().clone() if self._backup is None else self.restored(weight)
            positions, _, values = self.entries(tensor, deltas, pieces)
        write(tensor, positions, values)
        return tensor

    @torch.no_grad()
    def dense_delta(self, deltas: Sequence[SparseDelta], pieces: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """A new tensor of the parameter's shape: the sum of `deltas`, zero elsewhere."""
        positions, values = self.joint(deltas, pieces)
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
        """Restore the base tensor bitwise, or as a cast made since then would have left it; merged or held."""
        with self.lock:
            self.held = None
            self.merged_adapters = []
            if self._backup is not None:
                positions, base = self._backup
                write(weight.data, positions.to(weight.device), base.to(weight))
            self._backup = None

    @property
    def lent(self) -> bool:
        """Whether the base tensor has other values than its own without being merged."""
        return self._backup is not None and not self.merged_adapters

    def holds(self, deltas: Sequence[SparseDelta]) -> bool:
        """Whether the base tensor holds the effective values of `deltas` at this moment, without being merged."""
        if self._backup is None:
            return not deltas
        return self.held is not None and self.held.key == key_of(deltas)

    @torch.no_grad()
    def hold(self, weight: Tensor, adapters: Sequence[str], holder: Holder) -> None:
        """Leave the effective values of `adapters` in the base tensor until all holders have released it.

        Nothing is done if it is merged, has no delta of theirs, or is not whole here.
        """
        with self.lock:
            deltas = self.of(adapters)
            whole = weight.shape == self.shape and not weight.is_meta and not hasattr(weight, "device_mesh")
            if self.merged_adapters or not deltas or not whole or any(d.state.version is None for d in deltas):
                return
            self.holders.add(holder)
            if not self.holds(deltas):
                self.unmerge(weight)
                self._put_in_place(weight, deltas, [])
                self.held = Held(deltas)

    @torch.no_grad()
    def release(self, weight: Tensor, holder: Holder) -> None:
        """Restore the base tensor if nobody relies on what it holds any more."""
        with self.lock:
            self.holders.discard(holder)
            if self.lent and not self.holders:
                self.unmerge(weight)

    def lend(self, weight: Tensor, deltas: Sequence[SparseDelta], pieces: Sequence[Tensor]) -> None:
        """Write effective values into the base tensor until `unmerge`, for who has the lock.

        What is there is noted before it is overwritten: wherever an interrupt comes, the next use can restore it.
        """
        positions, base, values = self.entries(weight, deltas, pieces)
        self._backup = (positions, base)
        write(weight, positions, values)

    def _put_in_place(self, weight: Tensor, deltas: Sequence[SparseDelta], merged: list[str]) -> None:
        if deltas:
            self.lend(weight.data, deltas, active_pieces(deltas))
        self.merged_adapters = merged  # not before: an interrupted merge is taken for a loan, and restored

    def unmerged(self, weight: Tensor) -> Tensor:
        """The base tensor as it is when nothing is merged or held in it: itself, or a restored copy. Detached."""
        with self.lock:
            return self.restored(weight)

    def restored(self, weight: Tensor) -> Tensor:
        """[`unmerged`], for who has the lock, or compiles a graph."""
        if self._backup is None:
            return weight.detach()
        copy = weight.detach().clone()
        positions, base = self._backup
        write(copy, positions.to(copy.device), base.to(copy))
        return copy


def key_of(deltas: Sequence[SparseDelta]) -> list[tuple[object, ...]]:
    """Another one whenever other effective values belong to `deltas`."""
    return [(id(delta), id(delta.union), delta.state.version) for delta in deltas]


def active_pieces(deltas: Sequence[SparseDelta]) -> list[Tensor]:
    """The trainable values of each delta, from its adapter's vector."""
    return [delta.state.pieces()[delta.index].to(delta.active.device) for delta in deltas]


def at_least_float(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 if that is what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def read(tensor: Tensor, positions: Tensor) -> Tensor:
    """The entries at flat positions, whatever the tensor's strides."""
    if tensor.is_contiguous():
        return tensor.view(-1).index_select(0, positions)
    return tensor[torch.unravel_index(positions, tensor.shape)]


def write(tensor: Tensor, positions: Tensor, values: Tensor) -> None:
    """Set the entries at flat positions in place, whatever the tensor's strides."""
    if tensor.is_contiguous():
        tensor.view(-1).scatter_(0, positions, values)
    else:
        tensor[torch.unravel_index(positions, tensor.shape)] = values
