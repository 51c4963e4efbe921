"""Command line: measure, then report."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..machine import prepare_process
from ..numbers_given import add_numbers
from ..settings import SettingsError
from .measure import Settings, Workplace, measure
from .report import write_report
from .sentences import COMMON, LANGUAGES

NUMBERS = ("num_train", "num_raw", "num_validation", "task_steps", "language_steps")


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "report":
            print(write_report(options.output, options.to).read_text(encoding="utf-8"))
        else:
            prepare_process(threads=1)
            own = {name: getattr(options, name) for name in (*NUMBERS, "density", "source")}
            place = Workplace(options.data, options.model, options.output, Settings(Path(options.model).name, **own))
            with warnings.catch_warnings():
                # the mask is one that examples chose, before the first step
                warnings.filterwarnings("ignore", message="modules that are trained whole", category=UserWarning)
                measure(place, options.languages, options.seeds)
    except SettingsError as error:
        print(f"benchmarks.composition: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.composition",
        description="A language delta plus a task delta, without target labels.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="make the runs that the output folder lacks")
    measuring.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    measuring.add_argument("--model", required=True, help="an encoder: its folder or Hub id")
    measuring.add_argument("--source", default=Settings.source, choices=[*COMMON], help=f"default: {Settings.source}")
    measuring.add_argument("--languages", nargs="+", default=[*LANGUAGES], choices=[*LANGUAGES], help="default: all")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    measuring.add_argument("--density", type=float, default=Settings.density, help=f"default: {Settings.density}")
    add_numbers(measuring, Settings, NUMBERS)
    reporting = commands.add_parser("report", help="write report.md and results.json")
    reporting.add_argument(
        "--to", type=Path, default=Path("benchmarks/reports/composition"), help="folder of the report"
    )
    for command in (measuring, reporting):
        command.add_argument("--output", type=Path, default=Path("runs/composition"), help="folder of the runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
