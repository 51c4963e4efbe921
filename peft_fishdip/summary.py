"""What tells a whole adapter from a damaged one: a small tensor that is saved with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .state import AdapterState, Incoming

SUMMARY = "sha256"
"""The last part of its key, `....fishdip_summary.sha256`."""

WORDS = 4
"""Of 64 bits, that a SHA-256 has."""


def summary(state: AdapterState, entries: Sequence[Incoming], counts: Sequence[int]) -> Tensor:
    """int64 (WORDS + number of deltas,): the SHA-256 of all positions and values, and how many of each are active.

    With it the tensors of an adapter do without its config, which may be that of an earlier save.

    Args:
        state: whose deltas these are.
        entries: their tensors, as saved, in the order of the deltas.
        counts: their active entries, in the same order.
    """
    digest = hashlib.sha256(repr([delta.name for delta in state.deltas]).encode())
    numbers = torch.tensor(list(counts), dtype=torch.int64)
    digest.update(numbers.numpy().tobytes())
    for entry in entries:
        positions, values = entry.tensors()
        digest.update(positions.detach().cpu().to(torch.int64).contiguous().numpy().tobytes())
        digest.update(values.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    words = torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64)
    return torch.cat([words, numbers])


def counts_of(state: AdapterState, found: Tensor) -> list[int]:
    """The active entries of each delta.

    Raises:
        ValueError: this is no summary of an adapter with these deltas.
    """
    if found.dtype != torch.int64 or found.shape != (WORDS + len(state.deltas),):
        raise ValueError(
            f"the adapter's summary is a {found.dtype} of shape {tuple(found.shape)}, not int64 of "
            f"{WORDS + len(state.deltas)} entries: the file is damaged or was made for another model; get a fresh copy "
            "of it, or the right base."
        )
    return [int(count) for count in found[WORDS:]]


def check(state: AdapterState, entries: Sequence[Incoming], counts: Sequence[int], found: Tensor) -> None:
    """Compare tensors with the summary that was saved with them; those that have been cast since cannot be.

    Raises:
        ValueError: they are not what was saved.
    """
    if any(entry.tensors()[1].dtype != torch.float32 for entry in entries):
        return
    if not torch.equal(summary(state, entries, counts), found.detach().cpu()):
        raise ValueError(
            "the adapter's tensors are not those that were saved, by their SHA-256: the file is damaged; get a fresh "
            "copy of it."
        )
