"""What the results of a comparison say: Markdown, one HTML page, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .markdown import markdown
from .page import page
from .rows import Result, make_rows
from .sections import TITLE, pictures_of, sections, summary

__all__ = ["write_report"]


def write_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write report.md, report.html and pictures/*.svg; the same results give the same bytes, in any order.

    Returns:
        What was written, the two reports first.

    Raises:
        SettingsError: there are no results, or one of them is none of a comparison's.
    """
    rows = make_rows(results)
    parts = sections(rows)
    methods = sorted({row.method for row in rows})
    files = {
        folder / "report.md": markdown(TITLE, summary(rows), parts),
        folder / "report.html": page(TITLE, summary(rows), parts, methods),
        **{folder / "pictures" / f"{picture.name}.svg": picture.svg for picture in pictures_of(parts)},
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)
