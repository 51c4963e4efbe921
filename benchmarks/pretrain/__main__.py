"""Command line of the pretraining: tokenize, train, evaluate, export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from transformers.utils import logging

from ..jobs import lock
from ..settings import SettingsError
from .checkpoint import write_json
from .evaluation import evaluate
from .export import export
from .loop import run_record, train
from .settings import VOCAB_SIZE, RunSettings
from .shards import make_shards, open_shards


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    logging.set_verbosity_error()
    try:
        COMMANDS[options.command](options)
    except SettingsError as error:
        print(f"benchmarks.pretrain: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    style = argparse.ArgumentDefaultsHelpFormatter

    tokenizing = commands.add_parser("tokenize", help="learn the vocabulary, write shards", formatter_class=style)
    tokenizing.add_argument("--text", type=Path, nargs="+", required=True, help=".txt or .txt.xz files")
    tokenizing.add_argument("--heldout", type=Path, nargs="+", required=True, help="... of the held-out part")
    tokenizing.add_argument("--output", type=Path, required=True, help="folder of the shards")
    tokenizing.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="pieces without sentinels")
    tokenizing.add_argument("--vocabulary-lines", type=int, default=200_000, help="lines to learn it from")
    tokenizing.add_argument("--shard-tokens", type=int, default=2**22, help="tokens of a shard")
    tokenizing.add_argument("--seed", type=int, default=0, help="of the lines drawn for the vocabulary")
    tokenizing.add_argument("--tokenizer", type=Path, help="use this tokenizer of earlier shards")

    training = commands.add_parser("train", help="pretrain, or go on with a run", formatter_class=style)
    training.add_argument("--shards", type=Path, required=True)
    training.add_argument("--run", type=Path, required=True, help="folder of the run")
    training.add_argument("--compile", nargs="?", const="inductor", help="torch.compile, with this backend")
    training.add_argument("--stop-after-minutes", type=float, help="end this process earlier, to go on later")
    for field in fields(RunSettings):
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        flag = f"--{field.name.replace('_', '-')}"
        training.add_argument(flag, default=field.default, help=field.metadata["help"], **kind)

    evaluating = commands.add_parser("evaluate", help="held-out figures of a run", formatter_class=style)
    evaluating.add_argument("--shards", type=Path, required=True)
    evaluating.add_argument("--run", type=Path, required=True, help="folder of the run")
    evaluating.add_argument("--model", type=Path, help="evaluate this exported model of the run, not its checkpoint")
    evaluating.add_argument("--output", type=Path, help="JSON file; default: evaluation.json in the run")
    evaluating.add_argument("--copy-steps", type=int, default=200, help="steps of training to copy")
    evaluating.add_argument("--copy-rate", type=float, default=5e-3, help="its peak rate, relative to RMS")
    evaluating.add_argument("--sentences", type=int, default=200, help="held-out sentences to copy")
    evaluating.add_argument("--windows", type=int, help="held-out windows; default: all")

    exporting = commands.add_parser("export", help="write the model that is shipped", formatter_class=style)
    exporting.add_argument("--shards", type=Path, required=True)
    exporting.add_argument("--run", type=Path, required=True, help="folder of the run")
    exporting.add_argument("--output", type=Path, required=True, help="folder of the model")
    exporting.add_argument("--sources", type=Path, required=True, help="table of the texts and their licences, .tsv")
    exporting.add_argument("--evaluation", type=Path, help="default: evaluation.json in the run, if it is there")
    exporting.add_argument("--untrained", action="store_true", help="the model before its first step, to compare with")

    for command in (training, evaluating):
        command.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser.parse_args(arguments)


def run_tokenize(options: argparse.Namespace) -> None:
    shards = make_shards(
        options.text,
        options.heldout,
        options.output,
        vocab_size=options.vocab_size,
        vocabulary_lines=options.vocabulary_lines,
        shard_tokens=options.shard_tokens,
        seed=options.seed,
        tokenizer=options.tokenizer,
    )
    print(
        f"{shards.folder}: {shards.train.num_tokens:,} tokens, {shards.heldout.num_tokens:,} held out, "
        f"{shards.pieces:,} pieces, {shards.meta['dropped_lines']:,} held-out lines left out of the training part"
    )


def run_train(options: argparse.Namespace) -> None:
    settings = RunSettings(**{field.name: getattr(options, field.name) for field in fields(RunSettings)})
    if options.stop_after_minutes is not None and options.stop_after_minutes < 0:
        raise SettingsError(f"stop_after_minutes={options.stop_after_minutes!r} must not be negative")
    if options.compile and options.compile not in (backends := torch.compiler.list_backends(exclude_tags=())):
        raise SettingsError(f"there is no compile backend {options.compile!r}; there are {', '.join(backends)}")
    shards, device = open_shards(options.shards), chosen_device(options.device)
    try:
        with lock(options.run, "training", timeout=0):
            progress = train(
                *(shards, settings, options.run),
                device=device,
                backend=options.compile,
                stop_after_minutes=options.stop_after_minutes,
            )
    except Timeout as error:
        raise SettingsError(
            f"{options.run} is being trained by another process; wait for its end, or stop it"
        ) from error
    state = "over" if progress.share(settings) >= 1 else "to be continued"
    print(
        f"{options.run}: step {progress.step:,}, {progress.tokens:,} tokens, {progress.seconds / 60:.1f} min, {state}"
    )


def run_evaluate(options: argparse.Namespace) -> None:
    record = run_record(options.run)
    if options.model and not options.output:
        raise SettingsError(f"--model {options.model}: name an --output; evaluation.json is for the run's own model")
    if options.output and not options.output.parent.is_dir():
        raise SettingsError(f"--output {options.output}: there is no folder {options.output.parent}")
    shards = open_shards(options.shards)
    if record["shards"]["fingerprint"] != shards.fingerprint:
        raise SettingsError(f"{options.run} was trained on other shards than {options.shards}")
    figures = evaluate(
        options.model or options.run,
        RunSettings.from_dict(record["settings"], str(options.run / "run.json")),
        shards,
        chosen_device(options.device),
        copy_steps=options.copy_steps,
        copy_rate=options.copy_rate,
        sentences=options.sentences,
        windows=options.windows,
    )
    path = options.output or options.run / "evaluation.json"
    write_json(path, figures)
    print(path.read_text(encoding="utf-8"), end="")


def run_export(options: argparse.Namespace) -> None:
    own = options.run / "evaluation.json"
    size = export(
        options.run,
        open_shards(options.shards),
        options.output,
        sources=options.sources,
        evaluation=options.evaluation or (own if own.is_file() else None),
        untrained=options.untrained,
    )
    print(f"{options.output}: {size:,} bytes")


def chosen_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is; a SettingsError if it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {name!r} cannot be used: {reason}") from error
    return device


COMMANDS = {"tokenize": run_tokenize, "train": run_train, "evaluate": run_evaluate, "export": run_export}

if __name__ == "__main__":
    sys.exit(main())
