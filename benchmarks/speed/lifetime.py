"""Whether all contestants can live at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .settings import Settings
from .spec import Spec

MEMORY = Path("/proc/meminfo")
SHARE = 0.7


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMORY.exists():
        return None
    for line in MEMORY.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def bytes_beside_base(spec: Spec, size: int, item: int) -> int:
    """What a contestant keeps between steps, roughly: AdamW's moments, masks, deltas with positions and patterns."""
    if spec.method in ("full", "masked"):
        return size * (2 * item + (spec.method == "masked"))
    return round(40 * spec.density * size)


def bytes_of_step(spec: Spec, size: int, item: int) -> int:
    """Gradients of a step; activations are left to the share of the memory that is not used."""
    return size * item if spec.method in ("full", "masked") else 0


def choose_lifetime(settings: Settings, specs: Sequence[Spec], size: int) -> tuple[bool, str]:
    """Whether contestants are rebuilt for each turn, and why, in a few words."""
    if settings.lifetime != "auto":
        return settings.lifetime == "rebuild", f"--lifetime {settings.lifetime}"
    item = settings.torch_dtype.itemsize
    need = sum(bytes_beside_base(spec, size, item) for spec in specs)
    need += max((bytes_of_step(spec, size, item) for spec in specs), default=0)
    free = free_memory(settings.torch_device)
    if free is None:
        return False, "free memory is unknown"
    words = f"together they need about {need / 1e9:.2g} GB beside the weights, {free / 1e9:.1f} GB are free"
    return need > SHARE * free, words
