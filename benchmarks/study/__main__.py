"""Command line: measure the cells, then report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..__main__ import main as benchmarks
from ..settings import SettingsError
from .cells import CELLS, STUDY
from .report import write_study


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=sys.modules[__package__].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="make the runs that are missing; several processes share them")
    measuring.add_argument("cells", nargs="+", choices=[*CELLS], metavar="CELL", help=", ".join(CELLS))
    measuring.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    measuring.add_argument("--models", type=Path, required=True, help="the folder with the models")
    reporting = commands.add_parser("report", help="write the report of all runs that there are")
    reporting.add_argument("--to", type=Path, default=STUDY, help="folder of the report")
    options = parser.parse_args(arguments)
    if options.command == "measure":
        cells = (CELLS[name] for name in options.cells)
        return max(benchmarks(cell.arguments(options.data, options.models)) for cell in cells)
    try:
        print(write_study(options.to).read_text(encoding="utf-8"))
    except SettingsError as error:
        print(f"benchmarks.study: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
