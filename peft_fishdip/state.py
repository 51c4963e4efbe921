"""What an adapter is made of: per base parameter a sparse delta, and over all of them one trainable vector."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .config import FishDipConfig
from .distributed import refuse_sharded
from .handles import handle_of
from .mask_update import MaskUpdate


class Remask(NamedTuple):
    """What a change of mask did to the trainable vector."""

    source: Tensor
    """int64 (K,): where in the old vector each entry comes from; -1 for an entry that was not active before."""
    kept: int
    """How many entries stayed active."""


class SparseDelta:
    """The delta of one adapter to one base parameter.

    Active entries are trained; frozen ones left the mask and keep their delta. The active values live in the
    adapter's trainable vector, divided by `scale`; the frozen ones here, as they are.

    Attributes:
        active: int64 (a,), flat positions of the mask, ascending.
        frozen: int64 (f,), flat positions that earlier masks had, ascending, disjoint from `active`.
        frozen_values: float32 (f,).
        scale: a power of two; delta = trainable value * scale.
    """

    def __init__(self, name: str, shape: torch.Size, scale: float, state: AdapterState) -> None:
        self.name = name
        self.shape = shape
        self.scale = scale
        self.state = state
        self.index = len(state.deltas)
        self.handle = handle_of(self)
        empty = torch.empty(0, dtype=torch.int64)
        self.set_positions(empty, empty, torch.empty(0))

    def set_positions(self, active: Tensor, frozen: Tensor, frozen_values: Tensor) -> None:
        self.active = active
        self.frozen = frozen
        self.frozen_values = frozen_values
        self.union = torch.cat([active, frozen]) if frozen.numel() else active
        self.pattern: Any = None  # what the gradient at these positions needs, see gradients.py

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"pattern": None}  # sparse tensors cannot be copied

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.handle = handle_of(self)

    def __len__(self) -> int:
        return self.union.numel()

    @property
    def numel(self) -> int:
        return self.shape.numel()

    def values(self, piece: Tensor) -> Tensor:
        """The deltas over `union`, float32, given the adapter's trainable values of this parameter."""
        values = piece.detach().float()
        if self.scale != 1.0:
            values = values * self.scale
        return torch.cat([values, self.frozen_values.float()]) if self.frozen.numel() else values

    def to(self, device: torch.device) -> None:
        if self.active.device != device:
            self.set_positions(self.active.to(device), self.frozen.to(device), self.frozen_values.to(device))


class Incoming:
    """The checkpoint tensors of one delta that have been seen so far while an adapter is being loaded."""

    def __init__(self, positions: Tensor | None = None, values: Tensor | None = None) -> None:
        self.positions = positions
        self.values = values
        self.num_active: int | None = None

    def tensors(self) -> tuple[Tensor, Tensor]:
        assert self.positions is not None
        assert self.values is not None
        return self.positions, self.values


class AdapterState:
    """One adapter of a model: its deltas, and the flat trainable vector that holds their active values.

    The vector has a constant length K, whatever the mask: DDP refuses parameters that change their shape, and the
    optimizer's state is re-indexed in place. It is registered on one module, the carrier, so that `.to()`, optimizers
    and checkpoints meet it as they would any parameter; it is read through the carrier, since some of them put
    another Parameter in its place.
    """

    def __init__(self, adapter_name: str, config: FishDipConfig) -> None:
        self.adapter_name = adapter_name
        self.config = config
        self.deltas: list[SparseDelta] = []
        # of the checkpoint that is about to be loaded, if any
        self.expected_counts, self.num_updates = config.checkpointed()
        self.last_update: MaskUpdate | None = None  # of this process
        self.carrier: nn.Module | None = None
        self.untouched = True  # no update, no training, nothing loaded: the mask is the data-free one
        self.guessed = False  # loaded by a path that does not tell active from frozen entries
        self.warned = False
        self.sharded = False  # by FSDP2, which puts whole parameters back for the time of a forward pass
        self.incoming: dict[str, Incoming] = {}
        self.incoming_summary: Tensor | None = None
        self._pieces: tuple[tuple[object, ...], tuple[Tensor, ...]] | None = None
        self.traced: tuple[Tensor, ...] | None = None  # the pieces, while a forward pass is being compiled

    @property
    def flat(self) -> nn.Parameter:
        """The trainable vector: float32 (K,)."""
        assert self.carrier is not None
        flat = self.carrier._parameters.get("flat")
        return cast(nn.Parameter, self.carrier.flat) if flat is None else flat

    def refuse_sharded(self) -> None:
        """Raise ValueError if no process has the whole trainable vector."""
        refuse_sharded("the adapter's trainable vector", self.flat, (sum(self.sizes),), fsdp2=self.sharded)

    @property
    def sizes(self) -> list[int]:
        return [delta.active.numel() for delta in self.deltas]

    @property
    def counts(self) -> dict[str, list[int]]:
        """Per base parameter its active and its frozen entries."""
        return {delta.name: [delta.active.numel(), delta.frozen.numel()] for delta in self.deltas}

    @property
    def waiting(self) -> bool:
        """Whether this adapter was made for a checkpoint that has not come yet."""
        return self.untouched and self.expected_counts is not None

    @property
    def union_size(self) -> int:
        return sum(len(delta) for delta in self.deltas)

    @property
    def num_parameters(self) -> int:
        return sum(delta.numel for delta in self.deltas)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_pieces": None}  # views of the vector, with their graph

    @property
    def version(self) -> tuple[int, int] | None:
        """Another one after each change of the trainable vector, but through `.data`; None if torch counts none, as of
        tensors that were made in inference mode."""
        flat = self.flat
        return None if flat.is_inference() else (flat.data_ptr(), flat._version)

    def pieces(self) -> tuple[Tensor, ...]:
        """The trainable values per delta, as one split of the vector, made once per version of it.

        One split costs one concatenation in backward; a slice per layer would cost a vector of K zeros each.
        """
        flat = self.flat
        if torch.compiler.is_compiling():
            return flat.split(self.sizes) if self.traced is None else self.traced
        key = (
            id(flat),
            flat._version if not flat.is_inference() else None,
            flat.data_ptr(),
            flat.requires_grad and torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            threading.get_ident(),
        )
        cached = self._pieces
        if cached is None or cached[0] != key:
            cached = (key, flat.split(self.sizes))
            self._pieces = cached
        return cached[1]

    def allocate(self, positions: Sequence[tuple[Tensor, Tensor]], carrier: nn.Module, flat: Tensor) -> None:
        """Take the first mask: per delta its active and frozen positions; all frozen deltas are zero."""
        self.carrier = carrier
        for delta, (active, frozen) in zip(self.deltas, positions, strict=True):
            delta.set_positions(active, frozen, torch.zeros(frozen.numel(), device=frozen.device))
        carrier.flat = nn.Parameter(flat)
        self.forget_pieces()

    def warn_of_odd_mask(self) -> None:
        """Called from backward passes: some masks can be trained, but hardly on purpose."""
        if self.warned:
            return
        if self.untouched and self.num_updates == 0:
            reason = (
                f"is being trained on its data-free {self.config.init_mask} mask: no example has scored the parameters "
                "yet. Add FishDipCallback() to the Trainer, or call "
                "model.base_model.update_mask(examples, optimizer=optimizer) before the first step."
            )
        elif self.guessed:
            reason = (
                "was loaded over one of the same name, and is being trained. Its deltas are exact, but its tensors "
                "alone do not tell all active from frozen entries, so until the next update its mask is a guess. Load "
                "it under a new name to keep its mask."
            )
        else:
            return
        self.warned = True
        warnings.warn(f"Adapter {self.adapter_name!r} {reason}", UserWarning, stacklevel=2)

    def forget_pieces(self) -> None:
        self._pieces = None

    @torch.no_grad()
    def split_again(self, counts: Mapping[str, list[int]], num_updates: int) -> None:
        """Correct which of the positions are active; deltas stay what they are.

        Raises:
            ValueError: the counts are not those of this adapter.
        """
        sizes = {delta.name: len(delta) for delta in self.deltas}
        k = self.flat.numel()
        if {name: sum(count) for name, count in counts.items()} != sizes or sum(a for a, _ in counts.values()) != k:
            raise ValueError("the counts of active and frozen entries do not fit the adapter that was loaded.")
        pieces = []
        for delta, piece in zip(self.deltas, self.flat.detach().split(self.sizes), strict=True):
            count = counts[delta.name][0]
            positions, values = delta.union, delta.values(piece).clone()
            delta.set_positions(positions[:count], positions[count:], values[count:])
            pieces.append((values[:count] / delta.scale).to(self.flat))
        self.flat.copy_(torch.cat(pieces))
        self.num_updates = num_updates
        self.guessed = False
        self.forget_pieces()

    @torch.no_grad()
    def remask(self, positions: Mapping[str, Tensor]) -> Remask:
        """Make `positions` (int64, ascending, per parameter; K in all) the active ones and carry all deltas over.

        What leaves the mask is frozen at its delta, or put back to zero with `dropped="reset"`; what returns goes on
        from its frozen delta. A data-free mask that was never trained leaves no trace.
        """
        flat = self.flat
        keep_dropped = self.config.dropped == "freeze" and not (self.untouched and not bool(flat.any()))
        values, sources, start = [], [], 0
        old_values = flat.detach().split(self.sizes)
        for delta, old in zip(self.deltas, old_values, strict=True):
            new = positions[delta.name].to(delta.active.device)
            old = old.to(new.device)
            index, found = locate(delta.active, new)
            value = torch.where(found, old[index], 0) if old.numel() else old.new_zeros(new.numel())
            frozen, frozen_values = new[:0], delta.frozen_values[:0]
            if keep_dropped:
                if delta.frozen.numel():
                    frozen_index, thawed = locate(delta.frozen, new)
                    thawed_values = (delta.frozen_values[frozen_index] / delta.scale).to(value.dtype)
                    value = torch.where(thawed, thawed_values, value)
                union_values = torch.cat([old.to(delta.frozen_values.dtype) * delta.scale, delta.frozen_values])
                stays = ~locate(new, delta.union)[1]
                frozen, order = delta.union[stays].sort()
                frozen_values = union_values[stays][order]
            values.append(value.to(flat.device))
            sources.append(torch.where(found, index + start, -1).to(flat.device))
            start += old.numel()
            delta.set_positions(new, frozen, frozen_values)
        source = torch.cat(sources)
        flat.copy_(torch.cat(values))
        if flat.grad is not None:
            flat.grad.copy_(gathered(flat.grad, source))
        self.untouched = self.guessed = False
        self.expected_counts = None
        self.forget_pieces()
        return Remask(source, int((source >= 0).sum()))


def locate(haystack: Tensor, needles: Tensor) -> tuple[Tensor, Tensor]:
    """Where each needle stands in the ascending haystack.

    Returns:
        Index into the haystack (0 where it has no such entry) and whether it has: int64 and bool of needles' shape.
    """
    if not haystack.numel():
        return torch.zeros_like(needles), torch.zeros_like(needles, dtype=torch.bool)
    index = torch.searchsorted(haystack, needles).clamp_(max=haystack.numel() - 1)
    found = haystack[index] == needles
    return torch.where(found, index, 0), found


def gathered(old: Tensor, source: Tensor) -> Tensor:
    """`old` re-indexed by [`Remask.source`], zero for new entries."""
    return torch.where(source >= 0, old[source.clamp(min=0)], 0)
