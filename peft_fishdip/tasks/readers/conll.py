"""One token per line with a tag column: CoNLL-2003, WNUT-17, MasakhaNER, and own data of this kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..records import NerExample
from ..tagging import TagError, tags_to_spans
from .common import DataFormatError, StrPath, read_lines


def read_conll(path: StrPath, *, token: int = 0, tag: int = -1, scheme: str = "conll") -> list[NerExample]:
    """Read a file of columns, separated by tabs or spaces, with an empty line after each sentence.

    `token` and `tag` are column numbers; -1 is the last. `scheme` is one of `tagging.SCHEMES`: "conll" reads
    IOB1, BIO, IOBES and BILOU alike and takes an I- that continues nothing for a beginning; the others are
    strict. -DOCSTART- lines end a sentence. Raises DataFormatError with file and line.
    """
    name = Path(path).name
    examples: list[NerExample] = []
    at_least = max(column + 1 if column >= 0 else -column for column in (token, tag))
    for rows in column_blocks(path, max(2, at_least)):
        try:
            spans = tags_to_spans([columns[tag] for _, columns in rows], scheme)
        except TagError as error:
            position = min(error.position, len(rows) - 1)
            raise DataFormatError(path, rows[position][0], error.expected, error.found) from None
        tokens = tuple(columns[token] for _, columns in rows)
        examples.append(NerExample(tokens, tuple(spans), f"{name}:{len(examples)}"))
    return examples


Row = tuple[int, list[str]]


def column_blocks(path: StrPath, at_least: int = 2, comments: bool = False) -> Iterator[list[Row]]:
    """Blocks of lines between empty lines, as (line number, columns); a block's lines have equally many.

    A -DOCSTART- line counts as empty. With `comments`, lines that begin with "#" and have no tab are skipped.
    """
    rows: list[Row] = []
    for number, line in read_lines(path):
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            if rows:
                yield rows
            rows = []
            continue
        if comments and line.startswith("#") and "\t" not in line:
            continue
        columns = line.split("\t") if "\t" in line else [c for c in line.split(" ") if c]
        if rows and len(columns) != len(rows[0][1]):
            expected = f"{len(rows[0][1])} columns as in the lines before"
            raise DataFormatError(path, number, expected, line)
        if len(columns) < at_least:
            raise DataFormatError(path, number, f"at least {at_least} columns", line)
        if "" in columns:
            raise DataFormatError(path, number, "no empty column", line)
        rows.append((number, columns))
    if rows:
        yield rows
