"""The few things that all processes of a training must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_lists(local: list[Any]) -> list[Any]:
    """The lists of all processes, joined in rank order: the same on each."""
    if world()[1] == 1:
        return local
    lists: list[list[Any]] = [[] for _ in range(world()[1])]
    dist.all_gather_object(lists, local)
    return [item for items in lists for item in items]


def sum_in_place(tensors: Iterable[Tensor]) -> None:
    """Add up each tensor over all processes."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def taken_from_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The int64 vectors of rank 0, which may have other lengths than the local ones, but as many entries in all."""
    if world()[1] == 1:
        return dict(tensors)
    joined = torch.cat(list(tensors.values()))
    lengths = torch.tensor([tensor.numel() for tensor in tensors.values()], device=joined.device)
    dist.broadcast(lengths, src=0)
    dist.broadcast(joined, src=0)
    return dict(zip(tensors, joined.split(lengths.tolist()), strict=True))
