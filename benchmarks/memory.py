"""How much memory a run needs at most."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryMeter:
    """Counts from its making on.

    On a GPU the largest allocation in bytes; on the CPU the bytes by which the resident size grew at its peak. Linux
    lets a process forget its earlier peak; elsewhere a run that needs less than one before it shows no growth.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        give_back_free_memory()
        forget_peak()
        self.before = resident("VmRSS") or largest_ever()

    def growth(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, (resident("VmHWM") or largest_ever()) - self.before)


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
