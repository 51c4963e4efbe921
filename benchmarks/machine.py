"""The machine and the packages that figures were measured with, and the state of a process that measures."""

from __future__ import annotations

import datetime
import functools
import gc
import os
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers.utils import logging

from .experiment import ADAPTER, PARAMS

KNOWN_WARNINGS = (
    *("`is_gradient_checkpointing`", "Unsupported layer type", "Sparse "),
    *("fan_in_fan_out is set to", "Position ids are not supported"),
)
"""Beginnings of warnings of PEFT and torch that users of the benchmarks can do nothing about."""


def prepare_process(threads: int = 0) -> None:
    """Set the number of threads (0: torch's default), and silence what does not concern the results."""
    if threads:
        torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    gc.freeze()  # garbage collection then skips what the imports have made


def packages(names: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in names}


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@functools.cache
def git_revision(folder: Path = Path(__file__).parent) -> str:
    """The commit of the code, with a "+" where code or experiments differ from it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "HEAD")
        changes = git("diff", "--quiet", "HEAD", "--", ":/*.py", f":/*{ADAPTER}", f":/*{PARAMS}")
    except OSError:
        return "unknown"
    return "unknown" if head.returncode else head.stdout.strip() + "+" * (changes.returncode == 1)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What is measured on, with what, and when."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "measured_at": now(),
        "revision": git_revision(),
        "cpu": models[0] if models else platform.processor() or "unknown",
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "load_before": psutil.getloadavg()[0],
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": packages(("peft-fishdip", "peft", "transformers", "torch")),
    }


def machine_in_words(machine: Mapping[str, Any]) -> str:
    parts = [f"{machine['cpu']}, {machine['cores']} cores, threads of torch: {machine['threads']}"]
    parts += [machine["gpu"]] if machine["gpu"] else []
    parts += [f"{machine['memory'] / 1e9:.0f} GB"] if machine["memory"] else []
    parts += [f"Python {machine['python']}", *(f"{name} {number}" for name, number in machine["packages"].items())]
    return ", ".join(parts)
