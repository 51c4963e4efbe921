"""One token per line with a tag column: CoNLL-2003, WNUT-17, MasakhaNER, and own data of this kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from ..checks import as_path
from ..records import NerExample
from ..tagging import TagError, is_tag, tags_to_spans
from .common import DataFormatError, StrPath, is_blank, read_lines, warn_without


def read_conll(
    path: StrPath,
    *,
    token: int = 0,
    tag: int = -1,
    scheme: str = "conll",
    comments: bool = True,
    encoding: str = "utf-8",
) -> list[NerExample]:
    """Read a file of columns, separated by tabs or spaces, with an empty line after each sentence.

    `token` and `tag` are column numbers; -1 is the last. `scheme` is one of `tagging.SCHEMES`: "conll" reads
    IOB1, BIO, IOBES, BILOU and BMES alike and takes an I- that continues nothing for a beginning; "io" takes each
    tag but O for a label; the others are strict. -DOCSTART- lines end a sentence. With `comments`, a line that
    begins with "#" and white space is left out, unless it has as many columns as the other lines and a tag. Raises
    DataFormatError with file and line; warns of a file without any entity.
    """
    name = as_path(path).name
    examples: list[NerExample] = []
    at_least = max(column + 1 if column >= 0 else -column for column in (token, tag))

    def is_row(columns: Sequence[str]) -> bool:
        return is_tag(columns[tag], scheme)

    for rows in column_blocks(path, max(2, at_least), is_row=is_row if comments else None, encoding=encoding):
        try:
            spans = tags_to_spans([columns[tag] for _, columns in rows], scheme)
        except TagError as error:
            position = min(error.position, len(rows) - 1)
            raise DataFormatError(path, rows[position][0], error.expected, error.found) from None
        tokens = tuple(columns[token] for _, columns in rows)
        examples.append(NerExample(tokens, tuple(spans), f"{name}:{len(examples)}"))
    found = any(example.spans for example in examples)
    warn_without("entity", examples, found, path, f"the tags were read from column {tag}; `tag` chooses another")
    return examples


Row = tuple[int, list[str]]
_HASH = re.compile(r"#(\s|$)")


def column_blocks(
    path: StrPath,
    at_least: int = 2,
    comments: bool = False,
    is_row: Callable[[Sequence[str]], bool] | None = None,
    encoding: str = "utf-8",
) -> Iterator[list[Row]]:
    """Blocks of lines between empty lines, as (line number, columns); a block's lines have equally many.

    A -DOCSTART- line counts as empty. With `comments`, lines that begin with "#" and have no tab are skipped. With
    `is_row`, a line that begins with "#" and white space is skipped if it has not as many columns as the first
    other line of the file, or if `is_row` is false.
    """
    lines = [(number, line) for number, line in read_lines(path, encoding) if not (comments and _is_comment(line))]
    usual = next((len(split_columns(line, at_least)) for _, line in lines if line[:1] != "#" and not _is_end(line)), 0)
    rows: list[Row] = []
    for number, line in lines:
        if _is_end(line):
            if rows:
                yield rows
            rows = []
            continue
        columns = split_columns(line, at_least)
        if is_row and _HASH.match(line):
            fits = len(columns) >= at_least and usual in (0, len(columns))
            if not (fits and is_row(columns)):
                continue
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


def _is_comment(line: str) -> bool:
    return line.startswith("#") and "\t" not in line


def _is_end(line: str) -> bool:
    return is_blank(line) or line.startswith("-DOCSTART-")


def split_columns(line: str, at_least: int = 2) -> list[str]:
    """Cells between tabs, or between spaces; other white space separates where there are too few of these."""
    line = line.rstrip()
    if "\t" in line:
        return [cell.strip(" ") for cell in line.split("\t")]
    columns = [cell for cell in line.split(" ") if cell]
    return columns if len(columns) >= at_least else line.split()
