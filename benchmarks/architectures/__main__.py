"""Command line: compare, then write the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..machine import prepare_process
from ..settings import SettingsError
from .catalogue import architectures
from .sweep import WRONG, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    prepare_process(threads=1)
    known = architectures()
    unknown = set(options.only or ()) - known.keys()
    if unknown:
        print(f"benchmarks.architectures: {', '.join(sorted(unknown))} are no architectures of this transformers", file=sys.stderr)
        return 2
    outcomes = sweep([known[name] for name in options.only or known], report=lambda x: print(f"{x.seconds:5.1f} s  {x}  frozen={x.frozen} n={x.parameters}", flush=True))
    return int(any(outcome.kind == WRONG for outcome in outcomes))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="model types of transformers (default: all)")
    parser.add_argument("--output", type=Path, default=Path("docs/architectures.md"), help="the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
