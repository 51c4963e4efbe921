"""Command line: measure, then report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..machine import prepare_process
from ..numbers_given import add_numbers
from ..settings import SettingsError
from .measure import Settings, kind_of, measure
from .report import write_report
from .sentences import FILES


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "report":
            print(write_report(options.output, options.to).read_text(encoding="utf-8"))
        else:
            prepare_process(threads=1)
            own = {name: getattr(options, name) for name in ("num_train", "num_validation", "steps", "bf16")}
            settings = Settings(Path(options.model).name, kind_of(options.model).kind, **own)
            measure(options.data, options.model, options.output, settings, options.data_sets, options.seeds)
    except SettingsError as error:
        print(f"benchmarks.recipe: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description="What to begin with.")
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="make the runs that the output folder lacks")
    measuring.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    measuring.add_argument("--model", required=True, help="its folder or Hub id")
    measuring.add_argument("--data-sets", nargs="+", default=[*FILES], choices=[*FILES], help="default: all")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    add_numbers(measuring, Settings, ("num_train", "num_validation", "steps"))
    measuring.add_argument("--bf16", action="store_true", help="run forward passes under autocast in bfloat16")
    reporting = commands.add_parser("report", help="write report.md and results.json")
    reporting.add_argument("--to", type=Path, default=Path("benchmarks/reports/recipe"), help="folder of the report")
    for command in (measuring, reporting):
        command.add_argument("--output", type=Path, default=Path("runs/recipe"), help="folder of the runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
