"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .base_model import default_model
from .comparison import RATES, Comparison
from .problems import DATA_SETS, DEFAULT_DATA_SETS, Protocol
from .report import write_report
from .results import read_results
from .settings import SettingsError, load_experiments, titles

OVERRIDES = {"steps": int, "meta_steps": int, "batch_size": int, "max_length": int, "eval_batch_size": int}
"""Training parameters that the command line can set for all methods."""

OF_NO_USE = ("`is_gradient_checkpointing`", "Unsupported layer type", "Sparse invariant checks")
"""Warnings of PEFT and torch that whoever compares methods can do nothing about."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for message in OF_NO_USE:
        warnings.filterwarnings("ignore", message=message)
    try:
        COMMANDS[options.command](options)
    except SettingsError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Fish-Dip beside other methods.")
    commands = parser.add_subparsers(dest="command", required=True)
    comparing = commands.add_parser(
        "compare",
        help="train and score methods, then report",
        description="Runs that are done are not repeated: a comparison that was cut short goes on where it was, and "
        "several processes with the same arguments share the work.",
    )
    add = comparing.add_argument
    add("--data", type=Path, help="folder with the data sets; without one, sentences are generated")
    add("--tasks", nargs="+", help=f"{', '.join(DEFAULT_DATA_SETS)} (all), or data sets: {', '.join(DATA_SETS)}")
    add(
        "--methods",
        nargs="+",
        default=["fishdip/density-5", "lora", "full/adamw"],
        help="all, a method, or method/name",
    )
    add("--fractions", nargs="+", type=float, default=[0.1], help="shares of the training examples (not relation)")
    add("--max-train", type=int, help="... but so many at most")
    add("--max-test", type=int, help="test on so many examples at most")
    add("--ways", type=int, default=5, help="relations of an episode")
    add("--shots", type=int, default=1, help="labelled examples of each")
    add("--episodes", type=int, default=4, help="episodes of a run")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--model", help="Hub id or folder of a pretrained encoder-decoder model")
    add("--rates", nargs="+", default=[*map(str, RATES)], help="learning rates to choose from, or: own")
    for name, kind in OVERRIDES.items():
        add(f"--{name.replace('_', '-')}", type=kind, help="of each run; default: what the experiments say")
    reporting = commands.add_parser("report", help="tables and pictures of the runs that are done")
    reporting.add_argument("--to", type=Path, help="folder of the report; default: that of the results")
    for command in (comparing, reporting):
        command.add_argument("--output", type=Path, default=Path("runs"), help="folder of the results (default: runs)")
    listing = commands.add_parser("list", help="methods, tasks and data sets")
    listing.set_defaults(output=None)
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> None:
    overrides: dict[str, Any] = {
        name: getattr(options, name) for name in OVERRIDES if getattr(options, name) is not None
    }
    protocols = [
        Protocol(
            fraction=fraction,
            max_train=options.max_train,
            max_test=options.max_test,
            num_ways=options.ways,
            num_shots=options.shots,
            num_episodes=options.episodes,
        )
        for fraction in options.fractions
    ]
    Comparison(
        output=options.output,
        base_model=options.model or default_model(options.output),
        experiments=load_experiments(options.methods, overrides),
        datasets=datasets(options),
        protocols=protocols,
        seeds=options.seeds,
        rates=rates(options.rates),
        root=options.data,
        overrides=overrides,
    ).run(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    report(options)


def datasets(options: argparse.Namespace) -> list[str]:
    """The data sets of the tasks that were asked for."""
    if options.tasks is None:
        return ["generated"] if options.data is None else list(DEFAULT_DATA_SETS.values())
    names = [DEFAULT_DATA_SETS.get(name, name) for name in options.tasks]
    for name in names:
        if name not in DATA_SETS:
            raise SettingsError(
                f"task {name!r} is unknown; there are the tasks {', '.join(DEFAULT_DATA_SETS)} "
                f"and the data sets {', '.join(DATA_SETS)}"
            )
    return list(dict.fromkeys(names))


def rates(words: Sequence[str]) -> list[float]:
    if words == ["own"]:
        return []
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise SettingsError(f"--rates {' '.join(words)}: give numbers, or: own") from error
    if not all(0 < value < float("inf") for value in values):
        raise SettingsError(f"--rates {' '.join(words)}: learning rates must be greater than 0")
    return values


def report(options: argparse.Namespace) -> None:
    """Write tables and pictures of all results in the folder."""
    results = read_results(options.output)
    if not results:
        raise SettingsError(f"{options.output} holds no results; run `python -m benchmarks compare` first")
    folder = getattr(options, "to", None) or options.output
    paths = write_report(results, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(f"{len(results)} results: {', '.join(str(path) for path in paths if path.suffix != '.svg')}")


def list_all(_: argparse.Namespace) -> None:
    print("methods:", *titles(), sep="\n  ")
    print("tasks:", *(f"{task}: {name}" for task, name in DEFAULT_DATA_SETS.items()), sep="\n  ")
    print("data sets:", *(f"{name} ({data.kind})" for name, data in DATA_SETS.items()), sep="\n  ")


COMMANDS = {"compare": compare, "report": report, "list": list_all}

if __name__ == "__main__":
    sys.exit(main())
