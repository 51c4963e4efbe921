"""The K largest scores over all tensors together, exactly, without a joint copy of the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 20  # scores that are converted to keys at a time
HALF = 1 << 16  # number of values of 16 bits
SAMPLE = 1 << 18  # scores in the sample that the threshold is estimated from
OF_EXAMPLES = "look for an example whose loss or gradient overflows (float16 weights are a common cause)"
SMALL_SHARE = 20  # if k is at most 1 / SMALL_SHARE of all scores, candidates are collected, at 4 bytes each


class TopK(NamedTuple):
    """The entries that [`top_k`] chose."""

    positions: dict[str, Tensor]  # per tensor the chosen flat positions: int64, ascending
    threshold: float  # the smallest chosen score


def top_k(scores: Mapping[str, Tensor], k: int, remedy: str = OF_EXAMPLES) -> TopK:
    """Choose the `k` largest of all scores together.

    Among equal scores, those of the first tensor and of the lowest positions are chosen. The bits of a float32 give an
    int32 key of the same order. One or two passes over the keys, in chunks, find the k-th largest; another one chooses.

    Args:
        scores: per name a floating point tensor of any shape, compared in float32.
        k: number of entries to choose, from 1 to the total number of scores.
        remedy: of a score that is not finite, by where the scores come from.

    Raises:
        ValueError: k is out of range, or a score is NaN or infinite; the message names the tensor and position.
    """
    total = sum(score.numel() for score in scores.values())
    if not 1 <= k <= total:
        raise ValueError(f"k={k} entries cannot be chosen from {total} scores; choose 1 to {total}.")
    found = kth_of_candidates(scores, k, total, remedy) if SMALL_SHARE * k <= total else None
    kth, ties = kth_by_histograms(scores, k, remedy) if found is None else found
    positions = {}
    for name, score in scores.items():
        places = [torch.empty(0, dtype=torch.int64, device=score.device)]
        for start, key in sortable_chunks(score):
            chosen = key > kth
            if ties:
                tied = (key == kth).nonzero().squeeze(1)[:ties]
                ties -= tied.numel()
                chosen[tied] = True
            places.append(chosen.nonzero().squeeze(1) + start)
        positions[name] = torch.cat(places)
    bits = kth if kth >= 0 else kth ^ 0x7FFFFFFF
    return TopK(positions, float(torch.tensor(bits, dtype=torch.int32, device="cpu").view(torch.float32)))


def kth_of_candidates(
    scores: Mapping[str, Tensor], k: int, total: int, remedy: str = OF_EXAMPLES
) -> tuple[int, int] | None:
    """The k-th largest key of those above an estimated threshold, and how many of the k are equal to it; None if the
    estimate is too high, or so low that far more than k scores reach it."""
    threshold = estimated_threshold(scores, k, total)
    candidates, count = [], 0
    for name, score in scores.items():
        for _, key in sortable_chunks(score, name, remedy):
            candidates.append(key[key >= threshold].cpu())
            count += candidates[-1].numel()
            if count > 2 * k + CHUNK:
                return None
    if count < k:
        return None
    keys = torch.cat(candidates)
    kth = int(keys.kthvalue(count - k + 1).values)
    return kth, k - int((keys > kth).sum())


def estimated_threshold(scores: Mapping[str, Tensor], k: int, total: int) -> int:
    """Estimated threshold, as a key: slightly more than k scores exceed it if the strided sample is representative."""
    stride = max(1, total // SAMPLE)
    every = (score.detach().reshape(-1)[::stride] for score in scores.values())
    sample = torch.cat([some.to("cpu", torch.float32, copy=True) for some in every])  # a view would keep the scores
    rank = min(sample.numel(), 8 + math.ceil(1.2 * k * sample.numel() / total))
    threshold = sample.kthvalue(sample.numel() - rank + 1).values
    return int(next(sortable_chunks(threshold))[1])


def kth_by_histograms(scores: Mapping[str, Tensor], k: int, remedy: str = OF_EXAMPLES) -> tuple[int, int]:
    """The same as [`kth_of_candidates`], from histograms of the high and then the low 16 bits of the keys.

    It is slower, but its memory does not grow with k.
    """
    high_counts = torch.zeros(HALF, dtype=torch.int64, device="cpu")
    for name, score in scores.items():
        for _, key in sortable_chunks(score, name, remedy):
            high_counts += torch.bincount((key >> 16) + HALF // 2, minlength=HALF).cpu()
    bucket, above = boundary(high_counts, k)
    high = bucket - HALF // 2
    low_counts = torch.zeros(HALF, dtype=torch.int64, device="cpu")
    for score in scores.values():
        for _, key in sortable_chunks(score):
            low_counts += torch.bincount(key[key >> 16 == high] & (HALF - 1), minlength=HALF).cpu()
    low, above_low = boundary(low_counts, k - above)
    return high << 16 | low, k - above - above_low


def boundary(counts: Tensor, k: int) -> tuple[int, int]:
    """The bucket of a histogram that contains the k-th largest entry, and the number of entries above that bucket."""
    at_least = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(at_least, k))
    bucket = counts.numel() - 1 - steps
    return bucket, int(at_least[steps] - counts[bucket])


def sortable_chunks(score: Tensor, name: str | None = None, remedy: str = OF_EXAMPLES) -> Iterator[tuple[int, Tensor]]:
    """Yield the int32 keys of a score in chunks, each with the flat position of its first entry; with a `name`, raise a
    ValueError for a score that is not finite."""
    flat = score.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        view = flat[start : start + CHUNK].float() + 0.0  # -0.0 becomes 0.0, its equal
        # a finite sum shows that all terms are finite, and is much faster than to check each
        if name is not None and not view.sum().isfinite() and not view.isfinite().all():
            bad = int((~view.isfinite()).nonzero()[0])
            raise ValueError(
                f"the score of {name!r} at flat position {start + bad} is {float(flat[start + bad])}; scores must be "
                f"finite in float32: {remedy}."
            )
        bits = view.view(torch.int32)
        # larger bits of a negative float mean a smaller number
        yield start, bits ^ (bits >> 31 & 0x7FFFFFFF) if bits.numel() and bits.min() < 0 else bits


def num_active(density: float, num_parameters: int) -> int:
    """The number of active entries, K = floor(density * N); raises a ValueError if it would be 0."""
    k = math.floor(density * num_parameters)
    if k == 0:
        raise ValueError(
            f"density={density} of {num_parameters} targeted parameters leaves none to train; use a density of at "
            f"least {1 / num_parameters:.2g}, or target more modules."
        )
    return k


def random_positions(sizes: Mapping[str, int], k: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw `k` distinct positions, uniform over all entries of tensors with the given numbers of entries.

    Returns per name the flat positions: int64, ascending, on the CPU. Uses O(k) memory.
    """
    chosen = distinct_integers(sum(sizes.values()), k, generator)
    positions, start = {}, 0
    for name, size in sizes.items():
        first, last = torch.searchsorted(chosen, torch.tensor([start, start + size], device="cpu")).tolist()
        positions[name] = chosen[first:last] - start
        start += size
    return positions


def distinct_integers(total: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw `k` distinct integers from [0, total) on the CPU: int64 (k,), ascending."""
    if k > total // 2:
        chosen = torch.ones(total, dtype=torch.bool, device="cpu")
        if k < total:
            chosen[distinct_integers(total, total - k, generator)] = False
        return chosen.nonzero().squeeze(1)
    chosen = torch.empty(0, dtype=torch.int64, device="cpu")
    while chosen.numel() < k:
        more = torch.randint(total, (k + k // 8 + 16,), generator=generator, device="cpu")
        chosen = torch.cat([chosen, more]).unique()
    return chosen[torch.randperm(chosen.numel(), generator=generator, device="cpu")[:k]].sort().values
