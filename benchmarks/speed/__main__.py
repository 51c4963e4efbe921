"""Command line: measure, then report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..files import write_json
from ..machine import describe_machine, prepare_process
from ..settings import SettingsError
from .causal import measure_causal
from .decode import measure_decode
from .internals import costs_in_words
from .report import write_report
from .serving import measure_serving
from .settings import add_settings, settings_of
from .steps import measure_compilation, measure_largest, measure_memory, measure_scale, measure_steps
from .stored import measure_files
from .update import measure_update

PARTS = {
    "steps": (measure_steps, "seconds of training steps of all methods, in turns"),
    "memory": (measure_memory, "memory of training and bytes saved for backward, each method in processes of its own"),
    "update": (measure_update, "mask updates by phase, their share of training; selection and Fisher information"),
    "decode": (measure_decode, "greedy decoding with merged and unmerged adapters"),
    "files": (measure_files, "saving and loading adapters, and the size of their files"),
    "serving": (measure_serving, "many adapters over one base: switches, memory of an adapter, requests by threads"),
    "causal": (measure_causal, "steps and updates of a decoder-only model with a large vocabulary"),
    "scale": (measure_scale, "steps and updates by size of the model"),
    "largest": (measure_largest, "whether the largest model can be trained here, and its memory"),
    "compilation": (measure_compilation, "training steps with and without torch.compile"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "calibrate":
            if options.threads < 1:
                raise SettingsError(f"threads={options.threads} must be at least 1")
            prepare_process(options.threads)
            print(costs_in_words())
        else:
            if options.output.exists() and not options.output.is_dir():  # rather now than after all is measured
                raise SettingsError(f"--output {options.output} is a file; name a folder")
            if options.command != "report":
                measure(options)
            print(write_report(options.output).read_text(encoding="utf-8"))
    except SettingsError as error:
        print(f"benchmarks.speed: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="What Fish-Dip costs.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in {**PARTS, "all": (None, "all of these")}.items():
        add_settings(commands.add_parser(name, help=text, description=f"Measures {text}, then reports."))
    commands.add_parser("report", help="tables and pictures of what has been measured")
    for command in commands.choices.values():
        text = "folder of results and report (default: runs/speed)"
        command.add_argument("--output", type=Path, default=Path("runs/speed"), help=text)
    calibrating = commands.add_parser("calibrate", help="the costs by which the way to a weight gradient is chosen")
    calibrating.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    return parser


def measure(options: argparse.Namespace) -> None:
    """Measure what the command says, and write `<output>/<part>.json` with all raw figures."""
    settings = settings_of(vars(options))
    prepare_process(settings.threads)
    settings = replace(settings, threads=torch.get_num_threads())
    recorded = asdict(settings) | {"causal_model": Path(settings.causal_model).name}  # its folder is of no interest
    for part in PARTS if options.command == "all" else [options.command]:
        print(f"{part} ...", file=sys.stderr, flush=True)
        content = {"part": part, "machine": describe_machine(settings.torch_device), "settings": recorded}
        write_json(options.output / f"{part}.json", {**content, **PARTS[part][0](settings)})


if __name__ == "__main__":
    sys.exit(main())
