"""Whether the values of an adapter belong to its mask.

The trainable vector has no positions: copied to another adapter, or averaged over a change of mask, its values stand
for other entries. Nothing of torch tells of such a write, so it is looked for when the model is called next.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..private import version_of

AdapterState = Any
"""An adapter, as in state.py, which imports this."""

SAMPLE = 16
"""Entries of the vector that are compared."""

WITH_POSITIONS = (
    "Copy adapters with their positions: save_pretrained and load_adapter, or state_dict() and load_state_dict() of "
    "the whole model"
)


class Lineage:
    """Where the values of an adapter come from.

    Attributes:
        origin: the adapter that this one is a copy of, by copy.deepcopy, and how many mask updates it had had.
        trained: whether an optimizer has made a step.
        moved: whether the mask has changed since the first step.
        known: the entries of the vector that were compared last, and the mask they belong to.
        warned: each warning is given once.
    """

    def __init__(self) -> None:
        self.origin: tuple[weakref.ref[Any], int] | None = None
        self.owner: weakref.ref[Any] | None = None
        self.trained = self.moved = self.warned = False
        self.known: tuple[Tensor, list[object]] | None = None
        self.mode: bool | None = None

    def __deepcopy__(self, memo: Any) -> Lineage:
        copy = Lineage()
        owner = None if self.owner is None else self.owner()
        if owner is not None:
            copy.origin = weakref.ref(owner), owner.num_updates
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return Lineage, ()

    def stepped(self, state: AdapterState) -> None:
        """Called after each optimizer step that has trained the adapter."""
        masks = masks_of(state)
        self.moved = self.moved or (self.trained and self.known is not None and self.known[1] != masks)
        self.trained = True
        self.known = sample(state.flat), masks

    def check(self, state: AdapterState, others: Iterable[AdapterState], training: bool) -> None:
        """Warn if the values were written by something that does not know the mask."""
        self.owner = self.owner or weakref.ref(state)
        if self.warned or state.flat.is_meta or state.sharded:
            return
        had_gradient = self.trained or state.warned or state._first_version is not None
        if not had_gradient and self.is_copied(state, others):
            self.warn(
                f"adapter {state.adapter_name!r} has values that no training gave it, on the mask it was made with: "
                f"parameters that are copied from another adapter stand for other entries here. {WITH_POSITIONS}; "
                "in trl, pass a model of its own, ref_model=."
            )
        elif not had_gradient and self.is_average(state):
            self.warn(
                f"the values of adapter {state.adapter_name!r}, of a copy of the model, were written after the mask of "
                "the model had changed: an average of parameters mixes entries of different masks. Begin the average "
                "anew at each mask update (update_mask returns at one), or fix the mask with update_interval=None."
            )
        elif self.trained and training != self.mode and self.is_foreign(state):
            self.warn(
                f"the values of adapter {state.adapter_name!r} were not written by its optimizer, and its mask has "
                "changed in training: an average of parameters, or a copy from before a change, mixes entries of "
                "different masks. Begin an average anew at each mask update, or fix the mask with "
                f"update_interval=None. {WITH_POSITIONS}."
            )
        self.mode = training

    def is_copied(self, state: AdapterState, others: Iterable[AdapterState]) -> bool:
        """Whether a new adapter has values, and no other one has the same with the same mask."""
        if not state.untouched or not state.config.init_weights or not bool(state.flat.any()):
            return False
        return not any(same_mask(state, other) and torch.equal(state.flat, other.flat) for other in others)

    def is_average(self, state: AdapterState) -> bool:
        """Whether a copy was written to, while the model it is a copy of has got another mask."""
        origin = None if self.origin is None else self.origin[0]()
        if origin is None or self.origin is None or origin.flat is state.flat:
            return False
        written = version_of(state.flat) not in (0, None)
        return written and state.num_updates == self.origin[1] and not same_mask(state, origin)

    def is_foreign(self, state: AdapterState) -> bool:
        """Whether the vector has other values than its optimizer has left."""
        masks, now = masks_of(state), sample(state.flat)
        known, self.known = self.known, (now, masks)
        if known is None or known[1] != masks:  # a new mask has written the vector
            self.moved = self.moved or known is not None
            return False
        same_kind = known[0].dtype == now.dtype and known[0].device == now.device
        return self.moved and same_kind and not torch.equal(known[0], now)

    def warn(self, message: str) -> None:
        self.warned = True
        warnings.warn(message, UserWarning, stacklevel=2)


def masks_of(state: AdapterState) -> list[object]:
    """Equal as long as the mask is the same."""
    return [delta.entries for delta in state.deltas]


def same_mask(a: AdapterState, b: AdapterState) -> bool:
    """Whether two adapters have the same active positions, in the same order."""
    return [delta.name for delta in a.deltas] == [delta.name for delta in b.deltas] and all(
        first.active.shape == second.active.shape and torch.equal(first.active, second.active.to(first.active.device))
        for first, second in zip(a.deltas, b.deltas, strict=True)
    )


@torch.no_grad()
def sample(flat: Tensor) -> Tensor:
    """Some entries of a vector, evenly spaced."""
    return flat.detach()[:: max(1, flat.numel() // SAMPLE)].clone()
