"""What the readers share: opening files, and the error that names file, line and expectation."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from os import PathLike
from typing import Any

StrPath = str | PathLike[str]


class DataFormatError(ValueError):
    """A file is not in the format that was asked for; the message says where, and what was expected."""

    def __init__(self, path: StrPath, where: int | str, expected: str, found: object) -> None:
        place = f"line {where}" if isinstance(where, int) else where
        super().__init__(f"{path}, {place}: expected {expected}, found {found!r}")


def read_lines(path: StrPath) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without line end; UTF-8, gzip if the name ends in .gz.

    A byte order mark at the beginning is no text.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    number = 1
    try:
        # Only "\n" ends a line: tokens may hold other characters that str.splitlines splits at.
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataFormatError(path, f"near line {number}", "text in UTF-8", error.reason) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataFormatError(path, f"near line {number}", "a whole gzip file, as the name says", str(error)) from error


def read_json(path: StrPath) -> Any:
    """Content of a JSON file."""
    return parse_json("\n".join(line for _, line in read_lines(path)), path)


def parse_json(text: str, path: StrPath, first_line: int = 1) -> Any:
    """JSON value of `text`, which starts at `first_line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        snippet = error.doc[error.pos : error.pos + 30]
        raise DataFormatError(path, line, f"JSON ({error.msg}, column {error.colno})", snippet) from error


def get(item: Any, key: str, kind: type, path: StrPath, where: str) -> Any:
    """`item[key]`, which must be of `kind`."""
    if not isinstance(item, dict):
        raise DataFormatError(path, where, f"an object with the key {key!r}", item)
    if not isinstance(item.get(key), kind):
        raise DataFormatError(path, where, f"a {kind.__name__} under {key!r}", item.get(key))
    return item[key]


def get_texts(item: Any, key: str, path: StrPath, where: str) -> tuple[str, ...]:
    """`item[key]`, which must be a list of texts."""
    for text in get(item, key, list, path, where):
        if not isinstance(text, str):
            raise DataFormatError(path, where, f"a list of texts under {key!r}", text)
    return tuple(item[key])
