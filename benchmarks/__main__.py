"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .comparison import Comparison
from .data_sets import DATA_SETS, DEFAULT_DATA_SETS
from .experiment import EXPERIMENTS, folders, load_experiments
from .machine import prepare_process
from .plain_text import MOST_TEXTS
from .pretrained import NANO, load_config
from .problems import CHOSEN_BY, PARTS, Protocol
from .rates import LOW_RATES, RATES
from .report import reference_of, write_and_tell
from .results import failed, read_results
from .settings import SettingsError

OVERRIDES = {"steps": int, "meta_steps": int, "batch_size": int, "max_length": int, "eval_batch_size": int}
"""Training parameters that the command line can set for all methods."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The exit status is 1 if a run in the report has failed, and 2 if an argument cannot be used."""
    options = parse(arguments)
    prepare_process()
    try:
        return COMMANDS[options.command](options)
    except SettingsError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


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
        default=["fishdip/default", "lora", "full/adamw"],
        help="all, a method, or method/name; default: fishdip/default lora full/adamw",
    )
    add("--fractions", nargs="+", type=float, default=[0.1], help="shares of the training examples (not relation)")
    add("--part", default="test", choices=PARTS, help="what runs are scored on; default: test")
    add("--max-train", type=int, help="... but so many at most (relation: as many of each)")
    add(
        "--unlabelled-fraction",
        type=float,
        default=0.0,
        help="share of the other training examples that self-training may read without labels (not relation)",
    )
    add("--max-test", type=int, help="test on so many examples at most (not relation)")
    add(
        "--plain-text",
        type=Path,
        help="file by which forgetting is measured, a text a line; default: our own sentences",
    )
    add("--max-plain", type=int, help=f"texts of it at most; 0: forgetting is not measured; default: {MOST_TEXTS}")
    add("--ways", type=int, default=5, help="relations of an episode")
    add("--shots", type=int, default=1, help="labelled examples of each")
    add("--episodes", type=int, default=4, help="episodes of a run")
    add("--seeds", nargs="+", type=int, default=[0], help="the first one draws the examples that rates are chosen by")
    add("--model", default=str(NANO), help="Hub id or folder of a T5, a causal LM or an encoder; default: nano")
    usual = f"default: {words(RATES)}, of a causal LM or an encoder {words(LOW_RATES)}"
    add("--rates", nargs="+", help=f"learning rates to choose from, or: own; {usual}")
    add(
        "--rates-by",
        default="training",
        choices=CHOSEN_BY,
        help="what they are chosen by: a share of the training examples, or validation examples; default: training",
    )
    add("--rate-task", help="the data set among the tasks whose choice holds for all; default: each has its own")
    add("--rates-from", type=Path, help="results of another comparison, whose choice of rates is taken")
    for name, kind in OVERRIDES.items():
        add(f"--{name.replace('_', '-')}", type=kind, help="of each run; default: what the experiments say")
    add("--bf16", action="store_true", default=None, help="run forward passes under autocast in bfloat16")
    add("--update-interval", type=int, help="steps between two masks of Fish-Dip; default: what the experiments say")
    add("--retry-failed", action="store_true", help="do runs that failed again")
    reporting = commands.add_parser("report", help="tables and pictures of the runs that are done")
    reporting.add_argument("--to", type=Path, help="folder of the report; default: that of the results")
    add("--output", type=Path, default=Path("runs"), help="folder of the results (default: runs)")
    reporting.add_argument(
        "--output", nargs="+", type=Path, default=[Path("runs")], help="folders of the results (default: runs)"
    )
    for command in (comparing, reporting):
        command.add_argument(
            "--reference",
            help="method that others are compared with in the report; default: lora if it is there",
        )
    listing = commands.add_parser("list", help="methods, tasks and data sets")
    for command in (comparing, listing):
        command.add_argument("--experiments", type=Path, help="folder with your own experiments, <method>/<name>")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> int:
    overrides: dict[str, Any] = {
        name: getattr(options, name) for name in (*OVERRIDES, "bf16") if getattr(options, name) is not None
    }
    refuse_file("--output", options.output)
    if wrong := [seed for seed in options.seeds if not 0 <= seed < 2**32]:
        raise SettingsError(f"--seeds {wrong[0]}: must be from 0 to 2**32 - 1")
    if options.max_plain is not None and options.max_plain < 0:
        raise SettingsError(f"--max-plain {options.max_plain}: must not be negative; 0 measures no forgetting")
    protocols = [
        Protocol(
            fraction=fraction,
            max_train=options.max_train,
            max_test=options.max_test,
            part=options.part,
            rates_by=options.rates_by,
            num_ways=options.ways,
            num_shots=options.shots,
            num_episodes=options.episodes,
            unlabelled_fraction=options.unlabelled_fraction,
        )
        for fraction in dict.fromkeys(options.fractions)
    ]
    experiments = load_experiments(options.methods, overrides, roots(options), options.update_interval)
    if options.reference:  # rather now than after the runs
        before = [result["run_info"]["experiment_name"] for result in read_results(options.output)]
        reference_of([*(experiment.title for experiment in experiments), *before], options.reference)
    Comparison(
        output=options.output,
        experiments=experiments,
        datasets=datasets(options),
        base_model=options.model,
        protocols=protocols,
        seeds=list(dict.fromkeys(options.seeds)),
        rates=rates(options),
        rate_task=rate_task(options),
        rates_from=options.rates_from,
        root=options.data,
        overrides=overrides,
        plain_text=options.plain_text,
        max_plain=options.max_plain,
        retry_failed=options.retry_failed,
    ).run(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return report(options)


def refuse_file(option: str, path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{option} {path} is a file; name a folder")


def roots(options: argparse.Namespace) -> list[Path]:
    """Where experiments are: ours, and the user's own."""
    return [EXPERIMENTS, *([options.experiments] if options.experiments else [])]


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


def rate_task(options: argparse.Namespace) -> str | None:
    """The data set by which all learning rates are chosen, if there is one."""
    name: str | None = DEFAULT_DATA_SETS.get(options.rate_task, options.rate_task)
    if name is not None and name not in datasets(options):
        raise SettingsError(f"--rate-task {name}: must be one of the data sets, {', '.join(datasets(options))}")
    return name


def rates(options: argparse.Namespace) -> list[float]:
    """Learning rates to choose from; none if each experiment keeps its own."""
    given = options.rates
    if given is None:
        return [*(RATES if load_config(options.model).is_encoder_decoder else LOW_RATES)]
    if given == ["own"]:
        return []
    try:
        values = [float(word) for word in given]
    except ValueError as error:
        raise SettingsError(f"--rates {' '.join(given)}: give numbers, or: own") from error
    if not all(0 < value < float("inf") for value in values):
        raise SettingsError(f"--rates {' '.join(given)}: learning rates must be greater than 0")
    return values


def words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def report(options: argparse.Namespace) -> int:
    """Write tables and pictures of all results in the folders."""
    outputs = options.output if isinstance(options.output, list) else [options.output]
    folder = getattr(options, "to", None) or outputs[0]
    refuse_file("--to", folder)
    results = []
    for output in outputs:
        found = read_results(output)
        if not found:
            raise SettingsError(f"{output} holds no results; {where_results_are(output)}")
        results += found
    written = write_and_tell(results, folder, options.reference)
    print(written.brief)
    paths = [str(path) for path in written.paths if path.suffix != ".svg"]
    pictures = len(written.paths) - len(paths)
    print(f"{len(results)} results, with losses, costs and {pictures} pictures: {', '.join(paths)}")
    return int(any(map(failed, results)))


def where_results_are(output: Path) -> str:
    """What to do where a folder has no results: name those below it that have some, or make some."""
    below = sorted(folder.parent for folder in output.glob("*/results") if read_results(folder.parent))
    if below:
        return f"there are some below it, pass --output {' '.join(map(str, below))}"
    return "run `python -m benchmarks compare` first, or pass the --output that it was given"


def list_all(options: argparse.Namespace) -> int:
    print("methods:", *folders(roots(options)), sep="\n  ")
    print("tasks:", *(f"{task}: {name}" for task, name in DEFAULT_DATA_SETS.items()), sep="\n  ")
    print("data sets:", *(f"{name} ({data.kind})" for name, data in DATA_SETS.items()), sep="\n  ")
    return 0


COMMANDS = {"compare": compare, "report": report, "list": list_all}

if __name__ == "__main__":
    sys.exit(main())
