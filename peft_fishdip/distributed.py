"""The few things that all processes of a training must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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


def raise_on_all_ranks(work: Callable[[], T]) -> T:
    """What `work` returns, once all processes have done it: a part of a joint task that one of them alone may fail at.

    Without this the others would wait in their next collective call for the one that has stopped. A process that dies
    says nothing; gloo then notices the closed connection, NCCL the time that init_process_group was given.

    Raises:
        RuntimeError: it failed on another process. Where it failed itself, its own error is raised.
    """
    if world()[1] == 1:
        return work()
    try:
        result = work()
    except Exception as error:
        gather_lists([f"{type(error).__name__}: {error}"])
        raise
    failures = [(rank, text) for rank, text in enumerate(gather_lists([""])) if text]
    if failures:
        raise RuntimeError(f"stopped, since process {failures[0][0]} did: {failures[0][1]}")
    return result


def sum_in_place(tensors: Iterable[Tensor]) -> None:
    """Add up each tensor over all processes."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def broadcast_from_rank0(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The int64 vectors of rank 0, which may have other lengths than the local ones, but as many entries in all."""
    if world()[1] == 1:
        return dict(tensors)
    joined = torch.cat(list(tensors.values()))
    lengths = torch.tensor([tensor.numel() for tensor in tensors.values()], device=joined.device)
    dist.broadcast(lengths, src=0)
    dist.broadcast(joined, src=0)
    return dict(zip(tensors, joined.split(lengths.tolist()), strict=True))


def refuse_sharded(name: str, tensor: Tensor, shape: tuple[int, ...], fsdp2: bool = False) -> None:
    """Positions count in a whole tensor, which FSDP and ZeRO-3 leave to no process.

    Args:
        name: of the tensor.
        tensor: as this process holds it.
        shape: of the whole tensor.
        fsdp2: it is known to be sharded by fully_shard.

    Raises:
        ValueError: it holds a part of it alone.
    """
    by = None
    if hasattr(tensor, "ds_id"):
        by = "DeepSpeed ZeRO-3"
    elif fsdp2 or hasattr(tensor, "device_mesh"):  # a DTensor
        by = "fully_shard (FSDP2) or tensor parallelism"
    elif tensor.shape != shape:
        by = f"FSDP (it is of shape {tuple(tensor.shape)} here, and {tuple(shape)} as a whole)"
    if by is not None:
        raise ValueError(
            f"{name!r} is sharded by {by}, and Fish-Dip needs whole tensors on each process: train with "
            "DistributedDataParallel, or DeepSpeed up to ZeRO-2. The base is frozen, so beside its weights there are "
            "only the gradients and the optimizer's state of the trained entries."
        )
