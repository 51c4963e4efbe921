"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..results import git_revision
from .settings import Settings

PROCESSORS = Path("/proc/cpuinfo")
PACKAGES = ("peft-fishdip", "peft", "transformers", "torch")


def describe(settings: Settings) -> dict[str, Any]:
    device = settings.torch_device
    return {
        "measured_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "revision": git_revision(),
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory": total_memory(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    if PROCESSORS.exists():
        for line in PROCESSORS.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def in_words(machine: dict[str, Any]) -> str:
    """One line for a report."""
    parts = [f"{machine['cpu']}, {machine['cores']} cores, threads of torch: {machine['threads']}"]
    if machine["gpu"]:
        parts.append(str(machine["gpu"]))
    if machine["memory"]:
        parts.append(f"{machine['memory'] / 1e9:.0f} GB")
    parts.append(f"Python {machine['python']}")
    parts += [f"{name} {number}" for name, number in machine["packages"].items()]
    if machine["load_before"] is not None:
        parts.append(f"load of {machine['load_before']:.1f} before the measurement")
    return ", ".join(parts)
