"""Raw texts from files, folders and stdin, one after another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..tasks.readers.common import DataFormatError, decode, is_blank, read_text
from .messages import note

STDIN = Path("-")
ENDINGS = (".txt", ".jsonl")


class RawText(NamedTuple):
    """A text to be read, with the name of its file and an id; `size` is in bytes, for progress."""

    file: str
    id: str
    text: str
    size: int


def files_of(paths: Sequence[Path], *, no_stdin: bool = False) -> list[tuple[Path, str]]:
    """Each file that is meant, with its name: folders stand for the texts in them and in their subfolders.

    Raises:
        ValueError: nothing is given, or there is no text in a folder.
        FileNotFoundError: there is no such file.
    """
    if not paths:
        if no_stdin or sys.stdin is None or sys.stdin.isatty():
            raise ValueError("no texts: give files or folders (.txt, .jsonl), or pipe texts into the command")
        paths = [STDIN]
    found: list[tuple[Path, str]] = []
    for path in paths:
        if path == STDIN:
            found.append((path, "stdin"))
        elif path.is_dir():
            every = [x for x in sorted(path.rglob("*")) if x.is_file() and not _hidden(x.relative_to(path))]
            some = [(x, x.relative_to(path).as_posix()) for x in every if x.suffix.lower() in ENDINGS]
            if not some:
                raise ValueError(f"{path}: no file .txt or .jsonl in this folder; give the files themselves")
            if len(some) < len(every):
                note("warning", f"{path}: {len(every) - len(some)} files that are neither .txt nor .jsonl are left out")
            found += some
        elif path.exists():
            found.append((path, path.name))
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_texts(
    files: Sequence[tuple[Path, str]], *, lines: bool = False, json_lines: bool = False
) -> Iterator[RawText]:
    """The texts of files: a .jsonl has one under "text" in each line, and any other file is one text, or one a line.

    Lines without anything visible are passed over.

    Raises:
        DataFormatError: a file is not as it must be.
    """
    for path, name in files:
        if (path.suffix.lower() == ".jsonl" and not lines) or (path == STDIN and json_lines):
            yield from _of_json_lines(path, name)
        elif lines:
            for number, line in _lines(path, name):
                yield RawText(name, f"{name}:{number}", line, len(line.encode("utf-8", "surrogatepass")) + 1)
        else:
            text = decode(sys.stdin.buffer.read(), name, "utf-8") if path == STDIN else read_text(path)
            yield RawText(name, name, text, len(text.encode("utf-8", "surrogatepass")))


def lines_of(paths: Sequence[Path]) -> list[str]:
    """The texts of files and folders, each line of a .txt being one.

    Raises:
        ValueError: there is none.
        FileNotFoundError: there is no such file.
    """
    files = files_of(paths)
    found = [x.text for path, name in files for x in read_texts([(path, name)], lines=path.suffix.lower() != ".jsonl")]
    if not found:
        raise ValueError(f"there is no text in {', '.join(str(path) for path in paths)}: give files that are not blank")
    return found


def _of_json_lines(path: Path, name: str) -> Iterator[RawText]:
    for number, line in _lines(path, name):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataFormatError(name, number, "a JSON object in each line", line) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataFormatError(name, number, 'an object with a text under "text"', row)
        if any("\ud800" <= character <= "\udfff" for character in row["text"]):
            raise DataFormatError(name, number, "a text without single surrogates", row["text"][:40])
        own = row.get("id")
        known = isinstance(own, str | int) and not isinstance(own, bool)
        size = len(line.encode("utf-8", "surrogatepass")) + 1
        yield RawText(name, str(own) if known else f"{name}:{number}", row["text"], size)


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, as they come."""
    stream = sys.stdin.buffer if path == STDIN else open(path, "rb")  # noqa: SIM115
    try:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise DataFormatError(name, number, "text in UTF-8", line[:40]) from None
            if not is_blank(text):
                yield number, text
    finally:
        if path != STDIN:
            stream.close()


def total_size(files: Sequence[tuple[Path, str]]) -> int | None:
    """Bytes of all files; None where stdin is among them."""
    return None if any(path == STDIN for path, _ in files) else sum(path.stat().st_size for path, _ in files)
