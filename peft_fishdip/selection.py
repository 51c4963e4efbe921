"""The K most important entries over all tensors at once, exactly, without copying the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 20
HALF = 1 << 16


class TopK(NamedTuple):
    """The outcome of [`top_k`]."""

    positions: dict[str, Tensor]
    """Per tensor, the chosen flat positions: int64, ascending."""
    threshold: float
    """The smallest score that was chosen."""


def top_k(scores: Mapping[str, Tensor], k: int) -> TopK:
    """Choose the `k` largest of all scores together.

    Ties go to the tensor that comes first and, within it, to the lowest position. float32 bits, read as integers,
    sort like the floats themselves, so a histogram of their high and then of their low 16 bits finds the k-th largest
    exactly: three passes over the scores in chunks, and no memory that grows with them.

    Args:
        scores: per name a floating point tensor of any shape; compared in float32.
        k: how many entries to choose, from 1 to their total number.

    Raises:
        ValueError: k is out of range, or a score is NaN or infinite (the message names the tensor).
    """
    total = sum(score.numel() for score in scores.values())
    if not 1 <= k <= total:
        raise ValueError(f"k={k} entries cannot be chosen from {total} scores; choose 1 to {total}.")

    high_counts = torch.zeros(HALF, dtype=torch.int64)
    for name, score in scores.items():
        for _, key in sortable_chunks(score, name):
            high_counts += torch.bincount((key >> 16) + HALF // 2, minlength=HALF).cpu()
    bucket, above = boundary(high_counts, k)
    high = bucket - HALF // 2

    low_counts = torch.zeros(HALF, dtype=torch.int64)
    for score in scores.values():
        for _, key in sortable_chunks(score):
            low_counts += torch.bincount(key[key >> 16 == high] & (HALF - 1), minlength=HALF).cpu()
    low, above_low = boundary(low_counts, k - above)

    kth = high << 16 | low
    ties = k - above - above_low
    positions = {}
    for name, score in scores.items():
        found = []
        for start, key in sortable_chunks(score):
            chosen = key > kth
            if ties:
                tied = (key == kth).nonzero().squeeze(1)[:ties]
                ties -= tied.numel()
                chosen[tied] = True
            found.append(chosen.nonzero().squeeze(1) + start)
        positions[name] = torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
    return TopK(positions, from_sortable(kth))


def boundary(counts: Tensor, k: int) -> tuple[int, int]:
    """The bucket that holds the k-th largest entry, and how many entries lie in the buckets above it."""
    at_least = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(at_least, k))
    bucket = counts.numel() - 1 - steps
    return bucket, int(at_least[steps] - counts[bucket])


def sortable_chunks(score: Tensor, name: str | None = None) -> Iterator[tuple[int, Tensor]]:
    """Pieces of `score` as int32 keys that sort like the scores, each with the position of its first entry.

    With a `name`, scores that are not finite are refused.
    """
    flat = score.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        piece = flat[start : start + CHUNK].float() + 0.0  # -0.0 becomes 0.0, its equal
        if name is not None and not piece.isfinite().all():
            bad = int((~piece.isfinite()).nonzero()[0])
            raise ValueError(
                f"the score of {name!r} at flat position {start + bad} is {float(piece[bad])}; scores must be finite: "
                "look for an example whose loss or gradient overflows (float16 weights are a common cause)."
            )
        bits = piece.view(torch.int32)
        yield start, bits ^ (bits >> 31 & 0x7FFFFFFF)  # the bits of a negative float sort backwards


def from_sortable(key: int) -> float:
    """The float32 whose sortable key is `key`."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def num_active(density: float, num_parameters: int) -> int:
    """K = floor(density * N).

    Raises:
        ValueError: K would be 0.
    """
    k = math.floor(density * num_parameters)
    if k == 0:
        raise ValueError(
            f"density={density} of {num_parameters} targeted parameters leaves none to train; use a density of at "
            f"least {1 / num_parameters:.2g}, or target more modules."
        )
    return k


def random_positions(sizes: Mapping[str, int], k: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`k` distinct positions, uniform over all entries of tensors with the given numbers of entries.

    Returns:
        Per name the flat positions: int64, ascending, on the CPU. Memory is O(k).
    """
    total = sum(sizes.values())
    chosen = distinct_integers(total, k, generator)
    positions, start = {}, 0
    for name, size in sizes.items():
        first, last = torch.searchsorted(chosen, torch.tensor([start, start + size])).tolist()
        positions[name] = chosen[first:last] - start
        start += size
    return positions


def distinct_integers(total: int, k: int, generator: torch.Generator) -> Tensor:
    """`k` distinct integers of [0, total), ascending: int64 of shape (k,)."""
    if k > total // 2:
        chosen = torch.ones(total, dtype=torch.bool)
        if k < total:
            chosen[distinct_integers(total, total - k, generator)] = False
        return chosen.nonzero().squeeze(1)
    chosen = torch.empty(0, dtype=torch.int64)
    while chosen.numel() < k:
        more = torch.randint(total, (k + k // 8 + 16,), generator=generator)
        chosen = torch.cat([chosen, more]).unique()
    surplus = torch.randperm(chosen.numel(), generator=generator)[:k]
    return chosen[surplus].sort().values
