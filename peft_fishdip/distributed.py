"""Collective operations that keep the adapters of all ranks the same, and checks for sharded tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class OnAllRanks(Exception):
    """An error that `raise_on_all_ranks` raises on every rank as it is, so that all can react to it in the same way."""


def world() -> tuple[int, int]:
    """Rank and world size; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_lists(local: list[Any]) -> list[Any]:
    """Concatenate the lists of all ranks in rank order; every rank gets the same list."""
    if world()[1] == 1:
        return local
    lists: list[list[Any]] = [[] for _ in range(world()[1])]
    dist.all_gather_object(lists, local)
    return [item for items in lists for item in items]


def raise_on_all_ranks(work: Callable[[], T]) -> T:
    """Run `work` on every rank and return its result; if any rank fails, raise on all of them with its message.

    Otherwise the other ranks would wait for the failed one in their next collective call. The death of a process cannot
    be reported here: gloo raises when the connection closes, NCCL after the timeout of init_process_group.

    Raises:
        RuntimeError: `work` failed on another rank; a rank on which it failed raises the original error.
        OnAllRanks: `work` raised it on some rank, and no other kind of error on a rank before that.
    """
    if world()[1] == 1:
        return work()
    try:
        result = work()
    except Exception as error:
        gather_lists([error if isinstance(error, OnAllRanks) else f"{type(error).__name__}: {error}"])
        raise
    failures = [(rank, failure) for rank, failure in enumerate(gather_lists([""])) if failure]
    if failures:
        rank, failure = failures[0]
        if isinstance(failure, OnAllRanks):
            raise failure
        raise RuntimeError(f"stopped, since process {rank} did: {failure}")
    return result


def sum_in_place(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def broadcast_from_rank0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The int64 vectors of rank 0; the ranks may differ in the vectors' lengths, but not in names or total length."""
    if world()[1] == 1:
        return dict(tensors)
    joined = torch.cat(list(tensors.values()))
    lengths = torch.tensor([tensor.numel() for tensor in tensors.values()], device=joined.device)
    dist.broadcast(lengths, src=0)
    dist.broadcast(joined, src=0)
    return dict(zip(tensors, joined.split(lengths.tolist()), strict=True))


def refuse_sharded(name: str, tensor: Tensor, shape: tuple[int, ...], fsdp2: bool = False) -> None:
    """Raise ValueError if a tensor is sharded over ranks: flat positions need the whole tensor, of shape `shape`.

    `fsdp2` says that it is known to be sharded by fully_shard.
    """
    if hasattr(tensor, "ds_id"):
        by = "DeepSpeed ZeRO-3"
    elif fsdp2 or hasattr(tensor, "device_mesh"):  # a DTensor
        by = "fully_shard (FSDP2) or tensor parallelism"
    elif tensor.shape != shape:
        by = f"FSDP (it is of shape {tuple(tensor.shape)} here, and {tuple(shape)} as a whole)"
    else:
        return
    raise ValueError(
        f"{name!r} is sharded by {by}, and Fish-Dip needs whole tensors on each process: train with "
        "DistributedDataParallel, or DeepSpeed up to ZeRO-2. The base is frozen, so beside its weights there are only "
        "the gradients and the optimizer's state of the trained entries."
    )
