"""The entries of an adapter's parameters that have a delta, and a change of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..selection import top_k


class Entries:
    """The entries of one parameter that have a delta. Never changed; a new mask brings a new object.

    Attributes:
        active: int64 (a,), flat positions of the mask, ascending.
        inactive: int64 (i,), flat positions of earlier masks, ascending, disjoint from `active`.
        inactive_values: float32 (i,), their deltas.
        support: int64 (a + i,), active positions, then inactive ones.
        pattern: what the gradient at the active positions needs, see layers/sparse_grad.py; made when first needed.
    """

    def __init__(self, active: Tensor, inactive: Tensor, inactive_values: Tensor) -> None:
        self.active = active
        self.inactive = inactive
        self.inactive_values = inactive_values
        self.support = torch.cat([active, inactive]) if inactive.numel() else active
        self.pattern: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Entries, (self.active, self.inactive, self.inactive_values)  # sparse patterns cannot be copied

    def to(self, device: torch.device) -> Entries:
        return Entries(self.active.to(device), self.inactive.to(device), self.inactive_values.to(device))


class MaskChange(NamedTuple):
    """A change of mask that has been computed and not been made yet."""

    entries: list[Entries]  # of each delta
    values: Tensor  # (K,), the new trainable vector
    source: Tensor
    """int64 (K,): index in the old vector of each entry; -1 for an entry that was not active before."""


def with_fewer_inactive(entries: Sequence[Entries], most: int) -> list[Entries]:
    """The entries of all parameters with at most so many inactive ones together: those with the largest deltas.

    Of equal ones, those of the first parameter and of the lowest positions are kept.
    """
    if sum(each.inactive.numel() for each in entries) <= most:
        return list(entries)
    magnitudes = {str(i): each.inactive_values.abs() for i, each in enumerate(entries)}
    kept = top_k(magnitudes, most).positions if most else {i: values[:0].long() for i, values in magnitudes.items()}
    places = (kept[str(i)] for i in range(len(entries)))
    return [
        Entries(each.active, each.inactive[at], each.inactive_values[at])
        for each, at in zip(entries, places, strict=True)
    ]
