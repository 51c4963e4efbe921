"""What the results of a comparison say: Markdown, one HTML page, and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_text
from .content import Section
from .intervals import reference_of, with_intervals
from .markdown import brief, markdown
from .page import page
from .predictions import tables_to_print
from .rows import Result, make_rows
from .sections import TITLE, lead, overviews, pictures_of, sections, summary

__all__ = ["Written", "reference_of", "write_and_tell", "write_files", "write_report"]


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    paths: list[Path]
    """The two reports first."""
    brief: str
    """The sentence that it begins with, the overview of scores, and a few predictions, to be read in a terminal."""


def write_report(results: Sequence[Result], folder: Path, reference: str | None = None) -> list[Path]:
    """Write a report and return the paths, see `write_and_tell`."""
    return write_and_tell(results, folder, reference).paths


def write_and_tell(results: Sequence[Result], folder: Path, reference: str | None = None) -> Written:
    """Write report.md, report.html and pictures/*.svg; the same results give the same bytes, in any order.

    Pictures of an earlier report in the same folder that this one does not show are deleted.

    Args:
        reference: the method that others are compared with; None for LoRA, or what there is.

    Raises:
        SettingsError: there are no results, one of them is none of a comparison's, the reference is none of the
            methods, or a file cannot be written.
    """
    rows = with_intervals(make_rows(results))
    methods = sorted({row.method for row in rows})
    parts = sections(rows, reference_of(methods, reference))
    first = lead(rows)
    paths = write_files(folder, TITLE, summary(rows), parts, page(TITLE, summary(rows), parts, methods, first), first)
    return Written(paths, brief(first, [*overviews(rows), *tables_to_print(rows)]))


def write_files(
    folder: Path, title: str, summary: str, parts: Sequence[Section], html: str | None = None, lead: str = ""
) -> list[Path]:
    """Write a report as report.md, with its pictures and, if it is given, its HTML page; returns the paths."""
    files = {
        folder / "report.md": markdown(title, summary, parts, lead),
        **({} if html is None else {folder / "report.html": html}),
        **{folder / "pictures" / f"{picture.name}.svg": picture.svg for picture in pictures_of(parts)},
    }
    before = pictures_before(folder)
    for path, text in files.items():
        write_text(path, text)
    for path in before - files.keys():
        path.unlink(missing_ok=True)
    return list(files)


def pictures_before(folder: Path) -> set[Path]:
    """What the last report in this folder shows."""
    report = folder / "report.md"
    names = (
        re.findall(r"\]\(pictures/([a-z0-9-]+\.svg)\)", report.read_text(encoding="utf-8")) if report.exists() else []
    )
    return {folder / "pictures" / name for name in names}
