"""fishdip convert: a file of annotated texts in another format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..tasks.formats.document import Document
from ..tasks.formats.write import FORMATS, write
from .documents import (
    Encoding,
    From,
    Input,
    Options,
    Read,
    Source,
    Unit,
    counts,
    format_name,
    load,
    parse_options,
    printable,
    show_problems,
)
from .messages import note, one_line_errors
from .outputs import check_output

_FORMATS = ", ".join(sorted({*FORMATS, "jsonl"} - {"fishdip"}))
_MORE = {"scores": "scores", "problems": "problems", "generated_text": "generated texts", "metadata": "other keys"}


def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write or, for brat, a new folder.")],
    to: Annotated[str, typer.Option("--to", help=f"Format of OUT: {_FORMATS} (jsonl: that of predictions).")],
    from_: From = None,
    unit: Unit = None,
    encoding: Encoding = None,
    read: Read = None,
    write_options: Annotated[
        Options, typer.Option("--write", metavar="NAME=VALUE", help="Option of the writer, such as unit=characters.")
    ] = None,
    drop_relations: Annotated[bool, typer.Option("--drop-relations", help="Leave relations out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write the annotated texts of IN to OUT in another format.

    OUT is complete and correct, or not there. What its format cannot hold is refused, or named on stderr.
    """
    with one_line_errors():
        chosen = format_name(to, FORMATS, "--to")
        options = parse_options(write_options, FORMATS[chosen].render, "--write", chosen)
        _check_target(source, target, overwrite, is_folder=chosen == "brat")
        given = load(source, from_, unit, encoding, read)
        documents = _without_relations(given.documents, chosen, drop_relations)
        try:
            write(target, documents, format=chosen, **options)
        except TypeError as error:
            raise ValueError(f"{target} cannot be written in the format {chosen!r} with {options}: {error}") from error
    show_problems(given.documents)
    _note_losses(given, documents, chosen)
    places = [printable(str(path)) for path in (source, target)]
    typer.echo(f"{places[0]} ({given.format}) to {places[1]} ({chosen}): {counts(documents)}")


def _check_target(source: Path, target: Path, overwrite: bool, *, is_folder: bool) -> None:
    """Refuse a target that is there, unless it is an empty folder, or a file that may be replaced."""
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not overwrite:
        raise ValueError(f"{target} exists; give another name, or pass --overwrite to replace it")
    check_output(target, [source], is_folder=is_folder)


def _without_relations(documents: Sequence[Document], format: str, drop: bool) -> list[Document]:
    if drop:
        return [_without(document) for document in documents]
    count = sum(len(document.relations) for document in documents)
    if count and not FORMATS[format].relations:
        able = ", ".join(name for name, known in FORMATS.items() if known.relations)
        raise ValueError(
            f"the format {format!r} cannot hold relations, of which the input has {count}; pass --drop-relations to "
            f"leave them out, or choose one of {able} with --to"
        )
    return list(documents)


def _without(document: Document) -> Document:
    scores = {answer: score for answer, score in document.scores.items() if answer not in document.relations}
    return replace(document, relations=(), scores=scores)


def _note_losses(given: Input, documents: Sequence[Document], format: str) -> None:
    """Name on stderr what the format leaves out without an error."""
    relations = sum(len(document.relations) for document in given.documents)
    if dropped := relations - sum(len(document.relations) for document in documents):
        note("note", f"relations left out: {dropped}")
    lost = [
        words
        for name, words in _MORE.items()
        if name not in FORMATS[format].more and any(getattr(document, name) for document in documents)
    ]
    if lost:
        note("note", f"the format {format!r} does not hold {' and '.join(lost)}; --to jsonl does")
    if given.has_texts and not FORMATS[format].text:
        note("note", f"the format {format!r} holds tokens: the white space of the texts, and their ids, are left out")
