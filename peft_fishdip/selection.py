"""The K most important entries over all tensors at once, exactly, without copying the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 20
HALF = 1 << 16
SAMPLE = 1 << 18
"""Scores that are looked at to guess where the k-th largest is."""
SMALL_SHARE = 20
"""A k of up to 1 / SMALL_SHARE of all scores is gathered with some more, 12 bytes each."""


class TopK(NamedTuple):
    """The outcome of [`top_k`]."""

    positions: dict[str, Tensor]
    """Per tensor, the chosen flat positions: int64, ascending."""
    threshold: float
    """The smallest score that was chosen."""


def top_k(scores: Mapping[str, Tensor], k: int) -> TopK:
    """Choose the `k` largest of all scores together.

    Ties go to the tensor that comes first and, within it, to the lowest position. float32 bits, read as integers,
    sort like the floats themselves. A sample of the scores tells about where the k-th largest is; one pass over them,
    in chunks, gathers all above that. Where the sample misleads, or k is a large share of all, histograms of the high
    and then of the low 16 bits find the k-th largest in passes whose memory does not grow with k.

    Args:
        scores: per name a floating point tensor of any shape; compared in float32.
        k: how many entries to choose, from 1 to their total number.

    Raises:
        ValueError: k is out of range, or a score is NaN or infinite (the message names the tensor).
    """
    total = sum(score.numel() for score in scores.values())
    if not 1 <= k <= total:
        raise ValueError(f"k={k} entries cannot be chosen from {total} scores; choose 1 to {total}.")

    if SMALL_SHARE * k <= total:
        candidates = at_least(scores, guessed_edge(scores, k, total), most=2 * k + CHUNK)
        if candidates is not None and sum(keys.numel() for _, keys in candidates.values()) >= k:
            return chosen_from(candidates, k)

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
        found = [torch.empty(0, dtype=torch.int64, device=score.device)]
        for start, key in sortable_chunks(score):
            chosen, ties = above_or_tied(key, kth, ties)
            found.append(chosen.nonzero().squeeze(1) + start)
        positions[name] = torch.cat(found)
    return TopK(positions, from_sortable(kth))


def guessed_edge(scores: Mapping[str, Tensor], k: int, total: int) -> int:
    """A key that a little more than k scores reach, if every so-manieth of them is like all."""
    stride = max(1, total // SAMPLE)
    sample = torch.cat([score.detach().reshape(-1)[::stride].float().cpu() for score in scores.values()])
    rank = min(sample.numel(), 8 + math.ceil(1.2 * k * sample.numel() / total))
    edge = sample.kthvalue(sample.numel() - rank + 1).values
    return int(next(sortable_chunks(edge))[1])


Candidates = dict[str, tuple[Tensor, Tensor]]
"""Per name positions (int64, ascending) and sortable keys (int32)."""


def at_least(scores: Mapping[str, Tensor], edge: int, most: int) -> Candidates | None:
    """All scores whose key reaches an edge; None if that are too many. Raises as `top_k` does."""
    candidates: Candidates = {}
    count = 0
    for name, score in scores.items():
        places = [torch.empty(0, dtype=torch.int64, device=score.device)]
        keys = [torch.empty(0, dtype=torch.int32, device=score.device)]
        for start, key in sortable_chunks(score, name):
            place = (key >= edge).nonzero().squeeze(1)
            count += place.numel()
            if count > most:
                return None
            places.append(place + start)
            keys.append(key[place])
        candidates[name] = torch.cat(places), torch.cat(keys)
    return candidates


def chosen_from(candidates: Candidates, k: int) -> TopK:
    """The k largest of some candidates."""
    every = torch.cat([keys.cpu() for _, keys in candidates.values()])
    kth = int(every.kthvalue(every.numel() - k + 1).values)
    ties = k - int((every > kth).sum())
    positions = {}
    for name, (places, keys) in candidates.items():
        chosen, ties = above_or_tied(keys, kth, ties)
        positions[name] = places[chosen]
    return TopK(positions, from_sortable(kth))


def above_or_tied(key: Tensor, kth: int, ties: int) -> tuple[Tensor, int]:
    """Which keys are greater than the k-th, or among the first `ties` that equal it; and how many ties are left."""
    chosen = key > kth
    if ties:
        tied = (key == kth).nonzero().squeeze(1)[:ties]
        ties -= tied.numel()
        chosen[tied] = True
    return chosen, ties


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
        view = flat[start : start + CHUNK].float() + 0.0  # -0.0 becomes 0.0, its equal
        # a sum is finite only if all terms are, and much faster to get
        if name is not None and not view.sum().isfinite() and not view.isfinite().all():
            bad = int((~view.isfinite()).nonzero()[0])
            raise ValueError(
                f"the score of {name!r} at flat position {start + bad} is {float(view[bad])}; scores must be finite: "
                "look for an example whose loss or gradient overflows (float16 weights are a common cause)."
            )
        bits = view.view(torch.int32)
        # the bits of a negative float sort backwards
        yield start, bits ^ (bits >> 31 & 0x7FFFFFFF) if bits.numel() and bits.min() < 0 else bits


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
