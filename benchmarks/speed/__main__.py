"""Command line: measure, then report."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..results import write_json
from ..settings import SettingsError
from .calibrate import table
from .child import answer
from .compilation import measure_compilation
from .decode import measure_decode
from .largest import measure_largest
from .machine import describe
from .memory import measure_memory, memory_of
from .options import make_parser, settings_of
from .report import write_report
from .scale import measure_scale, scale_of
from .settings import Settings
from .steps import measure_steps
from .update import measure_update

PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "steps": measure_steps,
    "memory": measure_memory,
    "update": measure_update,
    "decode": measure_decode,
    "scale": measure_scale,
    "largest": measure_largest,
    "compilation": measure_compilation,
}
TASKS: dict[str, Callable[..., dict[str, Any]]] = {"memory": memory_of, "scale": scale_of}
"""What child processes do."""

OF_NO_USE = ("`is_gradient_checkpointing`", "Unsupported layer type", "Sparse ")
"""Warnings of PEFT and torch that whoever measures can do nothing about."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for message in OF_NO_USE:
        warnings.filterwarnings("ignore", message=message)
    try:
        run(options)
    except SettingsError as error:
        print(f"benchmarks.speed: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    if options.command == "child":
        use_threads(Settings.from_dict(json.loads(options.message)["settings"]))
        answer(TASKS, options.task, options.message)
        return
    if options.command == "calibrate":
        if options.threads < 1:
            raise SettingsError(f"threads={options.threads} must be at least 1")
        torch.set_num_threads(options.threads)
        print(table())
        return
    if options.command != "report":
        settings = settings_of(options)
        use_threads(settings)
        settings = replace(settings, threads=torch.get_num_threads())
        for part in PARTS if options.command == "all" else [options.command]:
            print(f"{part} ...", file=sys.stderr, flush=True)
            measure(part, settings, options.output)
    print(write_report(options.output).read_text(encoding="utf-8"))


def use_threads(settings: Settings) -> None:
    if settings.threads:
        torch.set_num_threads(settings.threads)


def measure(part: str, settings: Settings, folder: Path) -> None:
    """Measure a part and write `<folder>/<part>.json`, with all raw figures."""
    machine = describe(settings)
    figures = PARTS[part](settings)
    write_json(folder / f"{part}.json", {"part": part, "machine": machine, "settings": settings.as_dict(), **figures})


if __name__ == "__main__":
    gc.freeze()  # what the imports made stays: collecting garbage in the midst of a step need not look at it
    sys.exit(main())
