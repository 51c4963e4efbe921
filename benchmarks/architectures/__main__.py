"""Command line: compare, then write the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..files import write_text
from ..machine import prepare_process
from ..settings import SettingsError
from .catalogue import architectures
from .page import page
from .sweep import WRONG, Outcome, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    prepare_process(threads=1)
    known = architectures()
    unknown = set(options.only or ()) - known.keys()
    if unknown:
        print(f"benchmarks.architectures: no architectures: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    outcomes = sweep([known[name] for name in options.only or known], report=show)
    try:
        if options.only is None:
            write_text(options.output, page(outcomes))
    except SettingsError as error:
        print(f"benchmarks.architectures: {error}", file=sys.stderr)
        return 2
    return int(any(outcome.kind == WRONG for outcome in outcomes))


def show(outcome: Outcome) -> None:
    """Print an outcome as soon as it is known."""
    print(f"{outcome.seconds:5.1f} s  {outcome}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description="Exact on which models?")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="compare these model types, and write no page")
    parser.add_argument("--output", type=Path, default=Path("docs/architectures.md"), help="the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
