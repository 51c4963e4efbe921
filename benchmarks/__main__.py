"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .base_model import build_base_model
from .data import load_data
from .report import picture, table
from .results import read_results, result_path, write_result
from .settings import SettingsError, load_experiment, titles
from .training import Outcome, run


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    logging.set_verbosity_error()
    try:
        if options.command == "compare":
            compare(options)
        report(options.output)
    except SettingsError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Fish-Dip beside other methods.")
    commands = parser.add_subparsers(dest="command", required=True)
    comparing = commands.add_parser("compare", help="train and score methods, then report")
    comparing.add_argument("--data", type=Path, help="folder with CoNLL04 JSON files; default: generated sentences")
    comparing.add_argument("--fraction", type=float, default=0.1, help="share of the training sentences (CoNLL04)")
    comparing.add_argument(
        "--methods", nargs="+", default=["fishdip/density-5", "lora", "full"], help=", ".join(titles())
    )
    comparing.add_argument("--seeds", nargs="+", type=int, default=[0])
    comparing.add_argument("--model", help="Hub id or folder of a pretrained model; default: a small one is made")
    comparing.add_argument("--base-steps", type=int, default=500, help="denoising steps of the model that is made")
    comparing.add_argument("--d-model", type=int, default=128, help="width of the model that is made")
    comparing.add_argument("--layers", type=int, default=2, help="encoder and decoder layers of the model that is made")
    comparing.add_argument("--vocab-size", type=int, default=500, help="pieces of the model that is made")
    comparing.add_argument("--steps", type=int, help="optimizer steps of each run")
    comparing.add_argument("--learning-rate", type=float)
    comparing.add_argument("--batch-size", type=int)
    comparing.add_argument("--max-test", type=int, help="test on so many sentences")
    for command in (comparing, commands.add_parser("report", help="table and picture of finished runs")):
        command.add_argument("--output", type=Path, default=Path("runs"), help="where results go (default: runs)")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> None:
    """Run each method with each seed; a run whose result is there is not repeated, one that fails is recorded."""
    overrides: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("steps", "learning_rate", "batch_size")
        if getattr(options, name) is not None
    }
    experiments = [load_experiment(title, overrides) for title in options.methods]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for seed in options.seeds:
        data = load_data(options.data, options.fraction, seed, options.max_test)
        base_model = Path(options.model) if options.model else made_base_model(options, data.name, data.unlabelled)
        for experiment in experiments:
            path = result_path(options.output, experiment, data.name, seed)
            if path.exists():
                print(f"{path} is there already")
                continue
            try:
                outcome, error = run(experiment, data, base_model, seed, device), ""
            except (RuntimeError, ValueError) as problem:
                outcome, error = Outcome(), f"{type(problem).__name__}: {problem}"
                print(f"{experiment.title} failed: {error}", file=sys.stderr)
            write_result(path, experiment, data, options.model or base_model.name, seed, outcome, error)


def made_base_model(options: argparse.Namespace, name: str, sentences: list[str]) -> Path:
    title = f"{name}-{options.d_model}x{options.layers}-{options.vocab_size}-{options.base_steps}"
    return build_base_model(
        sentences,
        options.output / "base" / title,
        vocab_size=options.vocab_size,
        d_model=options.d_model,
        num_layers=options.layers,
        steps=options.base_steps,
        seed=0,
    )


def report(folder: Path) -> None:
    """Print the table of all results in the folder, and write it and a picture there."""
    results = read_results(folder)
    if not results:
        raise SettingsError(f"{folder} holds no results; run `python -m benchmarks compare` first")
    text = table(results)
    (folder / "report.md").write_text(text, encoding="utf-8")
    picture(results, folder / "report.png")
    print(f"\n{text}\n{folder / 'report.md'}, {folder / 'report.png'}")


if __name__ == "__main__":
    sys.exit(main())
