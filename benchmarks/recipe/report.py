"""The report of all runs."""

from __future__ import annotations

from pathlib import Path


def write_report(output: Path, folder: Path) -> Path:
    raise NotImplementedError
