"""How much memory a run needs at most, and how much a forward pass keeps for the backward pass."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryMeter:
    """Counts the bytes by which memory has grown at most since the meter was made.

    On a GPU this is the memory of tensors, on the CPU the resident size of the process. Linux lets a process reset its
    peak; elsewhere a run that needs less than one before it shows no growth.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = at_rest(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            forget_peak()

    def growth(self) -> int:
        return max(0, high_water(self.device) - self.before)


def at_rest(device: torch.device) -> int:
    """Bytes that are held now, after garbage has been collected: by tensors on a GPU, by the process on the CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    give_back_free_memory()
    return resident("VmRSS") or largest_ever()


def high_water(device: torch.device) -> int:
    """The most bytes that were held since the last [`MemoryMeter`] was made."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM") or largest_ever()


def memory_of(device: torch.device) -> tuple[int, int]:
    """Bytes that are free, and bytes in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def give_back_free_memory() -> None:
    """What the C library keeps of freed memory goes back to the system, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def forget_peak() -> None:
    """See `man 5 proc`: 5 sets the peak resident size to the current one."""
    if REFERENCES.exists():
        REFERENCES.write_text("5")


def resident(field: str) -> int | None:
    """Bytes of a line of /proc/self/status, None where there is none."""
    if not STATUS.exists():
        return None
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def largest_ever() -> int:
    """Largest resident size of the process so far, in bytes; macOS counts in bytes, others in KiB."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if hasattr(ctypes.CDLL(None), "mach_task_self_") else largest * 1024


def saved_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the storages that a forward pass keeps for the backward pass, other than parameters and buffers.

    That includes what hooks within the model save in place of a tensor, and tensors that custom autograd functions keep
    as attributes. A storage counts once, however often it is saved.
    """
    own = {part.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers()) for part in parts(x)}
    saved: list[Tensor] = []
    original = saved_tensors_hooks.__init__

    def init(hooks: Any, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
        def recorded(tensor: Tensor) -> Any:
            packed = pack(tensor)
            saved.extend(tensors_in(packed))
            return packed

        original(hooks, recorded, unpack)

    with mock.patch.object(saved_tensors_hooks, "__init__", init), saved_tensors_hooks(lambda x: x, lambda x: x):
        output = forward()
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            saved += [tensor for value in getattr(node, "__dict__", {}).values() for tensor in tensors_in(value)]
    storages = [part.untyped_storage() for tensor in saved for part in parts(tensor)]
    return sum({x.data_ptr(): x.nbytes() for x in storages if x.data_ptr() not in own}.values())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Detached, so that holding them keeps no graph alive; while they are held, no other storage has their address."""
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, Tensor):
            yield item.detach()


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor consists of."""
    return (tensor._indices(), tensor._values()) if tensor.layout == torch.sparse_coo else (tensor,)
