"""One token per line with a tag column: CoNLL-2003, WNUT-17, MasakhaNER, and own data of this kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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
    DataFormatError with file and line, also where tabs separate some columns and spaces others; warns of a file without
    any entity.
    """
    name = as_path(path).name
    examples: list[NerExample] = []
    at_least = max(column + 1 if column >= 0 else -column for column in (token, tag))

    def is_row(columns: Sequence[str]) -> bool:
        return is_tag(columns[tag], scheme)

    blocks = [*column_blocks(path, max(2, at_least), is_row=is_row if comments else None, encoding=encoding)]
    check_separators(path, blocks, token, tag)
    for rows in blocks:
        try:
            spans = tags_to_spans([columns[tag] for _, columns in rows], scheme)
        except TagError as error:
            position = min(error.position, len(rows) - 1)
            hint = "; `tag` chooses another column" if len(rows[position][1]) > 2 else ""
            raise DataFormatError(path, rows[position][0], error.expected + hint, error.found) from None
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

    A -DOCSTART- line counts as empty. With `comments`, lines that begin with "#" and have no tab are skipped; with
    `is_row` alone, those that begin with "#" and white space. With `is_row`, such a line is kept if it has as many
    columns as the other lines of its block and `is_row` is true of them.
    """
    blocks = _blocks(read_lines(path, encoding))
    counts = [[len(split_columns(line, at_least)) for _, line in block if line[:1] != "#"] for block in blocks]
    first = next((found[0] for found in counts if found), 0)
    may_be_comment = _is_comment if comments else _begins_with_hash
    for block, found in zip(blocks, counts, strict=True):
        usual = found[0] if found else first
        rows: list[Row] = []
        for number, line in block:
            columns = split_columns(line, at_least)
            if (comments or is_row) and may_be_comment(line):
                fits = len(columns) >= at_least and usual in (0, len(columns))
                if not (fits and is_row and is_row(columns)):
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


def check_separators(path: StrPath, blocks: Sequence[Sequence[Row]], *columns: int) -> None:
    """Refuse cells between tabs that hold several columns: all those of one column, with equally many spaces.

    Some words and labels may have spaces in them.
    """
    rows = [row for block in blocks for row in block]
    for column in columns:
        numbers = {len(cells[column].split(" ")) for _, cells in rows}
        if len(numbers) == 1 and 1 not in numbers:
            expected = (
                "columns between tabs alone or between spaces alone; each line has several columns between two tabs: "
                "write the same sign between all"
            )
            raise DataFormatError(path, rows[0][0], expected, rows[0][1][column])


def _blocks(lines: Iterable[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """Lines between those that end a sentence."""
    found: list[list[tuple[int, str]]] = [[]]
    for number, line in lines:
        if _is_end(line):
            found.append([])
        else:
            found[-1].append((number, line))
    return [block for block in found if block]


def _is_comment(line: str) -> bool:
    return line.startswith("#") and "\t" not in line


def _begins_with_hash(line: str) -> bool:
    return _HASH.match(line) is not None


def _is_end(line: str) -> bool:
    return is_blank(line) or line.startswith("-DOCSTART-")


def split_columns(line: str, at_least: int = 2) -> list[str]:
    """Cells between tabs, or between spaces; other white space separates where there are too few of these."""
    line = line.rstrip()
    if "\t" in line:
        return [cell.strip(" ") for cell in line.split("\t")]
    columns = [cell for cell in line.split(" ") if cell]
    return columns if len(columns) >= at_least else line.split()
