"""Command line: measure, then report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..machine import prepare_process
from ..numbers_given import add_numbers
from ..pretrained import NANO
from ..settings import SettingsError
from .measure import Settings, measure
from .report import write_report
from .sentences import DATA_SETS

NUMBERS = ("num_train", "num_validation", "steps", "rounds")


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "report":
            print(write_report(options.output, options.to).read_text(encoding="utf-8"))
        else:
            prepare_process(threads=1)
            own = {name: getattr(options, name) for name in NUMBERS}
            settings = Settings(Path(options.model).name, **own)
            measure(options.data, options.model, options.output, settings, options.data_sets, options.seeds)
    except SettingsError as error:
        print(f"benchmarks.decoding: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoding", description="What decoding under a grammar changes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="make the runs that the output folder lacks")
    measuring.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    measuring.add_argument(
        "--model", default=str(NANO), help="a T5 or causal LM: its folder or Hub id (default: benchmarks/nano)"
    )
    measuring.add_argument("--data-sets", nargs="+", default=[*DATA_SETS], choices=[*DATA_SETS], help="default: all")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    add_numbers(measuring, Settings, NUMBERS)
    reporting = commands.add_parser("report", help="write report.md, results.json and pictures")
    reporting.add_argument("--to", type=Path, default=Path("benchmarks/reports/decoding"), help="folder of the report")
    for command in (measuring, reporting):
        command.add_argument("--output", type=Path, default=Path("runs/decoding"), help="folder of the runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
