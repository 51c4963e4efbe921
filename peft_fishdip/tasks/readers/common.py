"""What the readers share: opening files, and the error that names file, line and expectation."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..checks import as_path

StrPath = str | PathLike[str]
_MOST_SHOWN = 300


class DataFormatError(ValueError):
    """A file is not in the format that was asked for; the message says where, and what was expected."""

    def __init__(self, path: StrPath, where: int | str, expected: str, found: object) -> None:
        place = f"line {where}" if isinstance(where, int) else where
        shown = repr(found)
        shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
        super().__init__(f"{path}, {place}: expected {expected}, found {shown}")


_LINE_END = re.compile(r"\r*\n\r(?![\r\n])|\r*\n|\r")
_RARE_LINE_END = re.compile("[\x0b\x0c\x1e\x85\u2028\u2029]")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(path: StrPath, encoding: str = "utf-8", may_be_empty: bool = False) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without line end and byte order marks; gzip if the name ends in .gz.

    Lines end with a newline, a carriage return or both. Characters that `str.splitlines` splits at are text,
    unless the file has no other line end. A file that begins with a byte order mark of UTF-16 or UTF-32 is read so.
    Raises ValueError for a file without any text, unless it `may_be_empty`.
    """
    text = read_text(path, encoding)
    if not may_be_empty and not text.strip("\ufeff \t\r\n"):
        raise empty_file(path)
    ends = _LINE_END if "\n" in text or "\r" in text else _RARE_LINE_END
    lines = ends.split(text)
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, line.lstrip("\ufeff")


def empty_file(path: StrPath) -> ValueError:
    """The error for a file without any text."""
    return ValueError(f"{path}: the file is empty; give one with annotated texts")


def read_text(path: StrPath, encoding: str = "utf-8") -> str:
    """Text of a file as it is, without byte order marks at its begin; gzip if the name ends in .gz."""
    return decode(read_bytes(path), path, encoding)


def read_bytes(path: StrPath) -> bytes:
    """Content of a file; gzip if the name ends in .gz. TypeError for what names no file."""
    if as_path(path).suffix != ".gz":
        return Path(path).read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataFormatError(path, "gzip", "a whole gzip file, as the name says", str(error)) from error


def decode(content: bytes, path: StrPath, encoding: str) -> str:
    """Text of a file; DataFormatError names the line and the parameter `encoding` where it is in another encoding."""
    remedy = "if it is in another encoding, pass encoding='latin-1', 'gb18030' or what it is"
    known = encoding_of(content, encoding)
    try:
        text = content.decode(known)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        expected = f"text in {encoding.upper()}; {remedy}"
        raise DataFormatError(path, line, expected, content[error.start : error.start + 1]) from error
    except UnicodeError as error:
        raise DataFormatError(path, "file", f"text in {encoding.upper()}; {remedy}", str(error)) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        expected = f"text in {encoding.upper()} without zero bytes; for UTF-16 pass encoding='utf-16-le' or 'utf-16-be'"
        raise DataFormatError(path, line, expected, "\0")
    return text.lstrip("\ufeff")


def encoding_of(content: bytes, encoding: str) -> str:
    """The encoding of a content that begins so: of UTF-8 the one that a byte order mark tells.

    Raises:
        ValueError: Python has no encoding of text of this name.
        TypeError: the encoding is no name.
    """
    if not isinstance(encoding, str):
        raise TypeError(f"encoding={encoding!r}: give the name of an encoding, such as 'utf-8' or 'latin-1'")
    try:
        "a".encode(encoding)
        known = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise ValueError(
            f"encoding={encoding!r}: Python knows no encoding of texts of this name; pass 'latin-1' or what it is"
        ) from None
    if known != "utf-8":
        return known
    return next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8-sig")


def is_blank(line: str) -> bool:
    """Is a line empty, or made of white space, control characters and invisible marks only?"""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in line)


def warn_without(what: str, examples: Sequence[Any], found: bool, path: StrPath, hint: str = "") -> None:
    """Warn of a file in which there is nothing to learn: no example, or none with what the task is about."""
    if not found:
        hint = f"; {hint}" if hint and examples else ""
        warnings.warn(f"{path}: {len(examples)} examples and no {what} in any{hint}", stacklevel=3)


def read_json(path: StrPath, encoding: str = "utf-8") -> Any:
    """Content of a JSON file."""
    return parse_json(read_text(path, encoding), path)


def parse_json(text: str, path: StrPath, first_line: int = 1) -> Any:
    """JSON value of `text`, which starts at `first_line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _no_json(error, path, first_line) from error
    except RecursionError:
        raise DataFormatError(path, first_line, "JSON that is not nested too deeply", text[:30]) from None


def read_json_records(path: StrPath, encoding: str = "utf-8") -> Iterator[tuple[str, Any]]:
    """Place and value of each record: the items of a JSON list, or JSON values one after another (JSON lines)."""
    text = read_text(path, encoding)
    position, line = _skip_blank(text, 0), 1
    if text[position : position + 1] == "[":
        for number, item in enumerate(parse_json(text, path)):
            yield f"item {number}", item
        return
    decoder, done = json.JSONDecoder(), 0
    while position < len(text):
        line += len(_LINE_END.findall(text, done, position))
        done = position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _no_json(error, path) from error
        except RecursionError:
            raise DataFormatError(path, line, "JSON that is not nested too deeply", text[done : done + 30]) from None
        yield f"line {line}", value
        position = _skip_blank(text, position)


def _skip_blank(text: str, position: int) -> int:
    while position < len(text) and is_blank(text[position]):
        position += 1
    return position


def _no_json(error: json.JSONDecodeError, path: StrPath, first_line: int = 1) -> DataFormatError:
    line = first_line + error.lineno - 1
    snippet = error.doc[error.pos : error.pos + 30]
    return DataFormatError(path, line, f"JSON ({error.msg}, column {error.colno})", snippet)


def get(item: Any, key: str, kind: type, path: StrPath, where: str) -> Any:
    """`item[key]`, which must be of `kind`."""
    if not isinstance(item, dict):
        raise DataFormatError(path, where, f"an object with the key {key!r}", item)
    if not isinstance(item.get(key), kind):
        raise DataFormatError(path, where, f"a {kind.__name__} under {key!r}", item.get(key))
    return item[key]


def id_of(item: dict[str, Any], default: str) -> str:
    """The "id" of an item as text; the default where that is missing, null or empty."""
    value = item.get("id")
    return default if value is None or value == "" else str(value)


def get_int(item: Any, key: str, path: StrPath, where: str) -> int:
    """`item[key]`, which must be a whole number."""
    value = get(item, key, int, path, where)
    if isinstance(value, bool):
        raise DataFormatError(path, where, f"a whole number under {key!r}", value)
    return int(value)


def get_texts(item: Any, key: str, path: StrPath, where: str) -> tuple[str, ...]:
    """`item[key]`, which must be a list of texts."""
    for text in get(item, key, list, path, where):
        if not isinstance(text, str):
            raise DataFormatError(path, where, f"a list of texts under {key!r}", text)
    return tuple(item[key])
