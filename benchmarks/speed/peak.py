"""Memory of this process: at rest, and at its peak."""

from __future__ import annotations

import gc

import torch

from ..memory import forget_peak, give_back_free_memory, largest_ever, resident


def at_rest(device: torch.device) -> int:
    """Bytes that are held now, when nothing runs: of the process on the CPU, of tensors on a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    give_back_free_memory()
    return resident("VmRSS") or largest_ever()


class Peak:
    """From its making on, by how many bytes memory grew at most."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = at_rest(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            forget_peak()

    def growth(self) -> int:
        return max(0, high_water(self.device) - self.before)


def high_water(device: torch.device) -> int:
    """The most bytes held since the last [`Peak`] was made: of the process on the CPU, of tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM") or largest_ever()
