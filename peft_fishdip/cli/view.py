"""fishdip view: annotated texts and predictions as one HTML page."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..view import build_page
from .documents import Encoding, From, Read, Source, Unit, counts, load, show_problems
from .messages import note, one_line_errors
from .outputs import check_output


def view(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write; by default the page goes to stdout.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title of the page; by default the name of IN.")] = None,
    from_: From = None,
    unit: Unit = None,
    encoding: Encoding = None,
    read: Read = None,
) -> None:
    """Write one HTML page that shows the texts of IN with coloured spans, scores, relations and problems.

    It needs no other file and no connection, filters by label and score, and searches in the texts.
    """
    with one_line_errors():
        _check_output(source, output)
        given = load(source, from_, unit, encoding, read)
        page = build_page(given.documents, title or source.name).encode("utf-8")
        _put(page, output)
    show_problems(given.documents)
    note("done", f"{source} ({given.format}): {counts(given.documents)}")


def _check_output(source: Path, output: Path | None) -> None:
    if output is None:
        if sys.stdout.isatty():
            raise ValueError(
                "a page is too long for a terminal; pass --output page.html, or redirect it with > page.html"
            )
    else:
        check_output(output, [source])


def _put(page: bytes, output: Path | None) -> None:
    """The whole page, or no file."""
    if output is None:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f".{secrets.token_hex(4)}-{output.name}")
    try:
        draft.write_bytes(page)
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)
