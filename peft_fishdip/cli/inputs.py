"""Raw texts from files, folders and stdin, one after another."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..extractor.data import Example, load_examples
from ..tasks.readers.common import DataFormatError, decode, encoding_of, is_blank, read_text
from .documents import Options, reader_options
from .messages import note

STDIN = Path("-")
ENDINGS = (".txt", ".jsonl")
"""Of files with texts; .gz may follow."""
_NO_TEXTS = (
    *(".json", ".ndjson", ".csv", ".tsv", ".conll", ".iob", ".bio", ".ann", ".spacy", ".parquet", ".arrow", ".xlsx"),
    *(".html", ".htm", ".xml", ".pdf", ".docx", ".odt", ".rtf", ".zip"),
)
"""Of files that hold more than the words of a text."""


class RawText(NamedTuple):
    """A text to be read, with the name of its file and an id; `size` is in bytes, for progress."""

    file: str
    id: str
    text: str
    size: int


def files_of(paths: Sequence[Path], *, no_stdin: bool = False) -> list[tuple[Path, str]]:
    """Each file that is meant, with a name that no other has: folders stand for the texts in them and their subfolders.

    The name is that of the file, or its place in the folder, or the whole path where that is the name of another file.

    Raises:
        ValueError: nothing is given, a file twice, or one of a kind that is no text; or there is no text in a folder.
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
            some = [(x, x.relative_to(path).as_posix()) for x in every if _ending(x) in ENDINGS]
            if not some:
                raise ValueError(f"{path}: no file .txt or .jsonl in this folder; give the files themselves")
            if len(some) < len(every):
                note("warning", f"{path}: {len(every) - len(some)} files that are neither .txt nor .jsonl are left out")
            found += some
        elif path.exists() and _ending(path) in _NO_TEXTS:
            raise ValueError(
                f"{path}: a file {_ending(path)} is no plain text, and its markup would be read as words; write its "
                f'texts to a file .txt, or .jsonl with {{"text": "..."}} in each line, or pipe it in, < {path}'
            )
        elif path.exists():
            found.append((path, path.name))
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    return _with_own_names(found)


def _with_own_names(files: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    found: dict[str, Path] = {}
    for path, name in files:
        if any(path == other for other in found.values()):
            raise ValueError(f"{path} is given twice; give it once")
        found[path.as_posix() if name in found else name] = path
    return [(path, name) for name, path in found.items()]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _ending(path: Path) -> str:
    """The ending of a name in small letters, without that of a compressed file."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def read_texts(
    files: Sequence[tuple[Path, str]],
    *,
    lines: bool = False,
    json_lines: bool = False,
    encoding: str = "utf-8",
    quiet: bool = False,
) -> Iterator[RawText]:
    """The texts of files: a .jsonl has one under "text" in each line, and any other file is one text.

    Each has an id that no other text of its file has. Lines without anything visible are passed over.

    Args:
        files: with their names.
        lines: each line is a text of its own, but in a .jsonl.
        json_lines: stdin is as a .jsonl.
        encoding: of the files.
        quiet: do not warn of a text that is JSON.

    Raises:
        DataFormatError: a file is not as it must be.
    """
    for path, name in files:
        told = quiet
        if _ending(path) == ".jsonl" or (path == STDIN and json_lines):
            yield from _of_json_lines(path, name, encoding)
        elif lines:
            for number, line in _lines(path, name, encoding):
                told = told or _warn_of_json(line, path, name)
                yield RawText(name, f"{name}:{number}", line, len(line.encode("utf-8", "surrogatepass")) + 1)
        else:
            text = decode(sys.stdin.buffer.read(), name, encoding) if path == STDIN else read_text(path, encoding)
            told = told or _warn_of_json(next((x for x in text.splitlines() if not is_blank(x)), ""), path, name)
            yield RawText(name, name, text, len(text.encode("utf-8", "surrogatepass")))


def _warn_of_json(line: str, path: Path, name: str) -> bool:
    """Warn of a text whose first line is an object of JSON; whether it is one."""
    try:
        found = line.lstrip().startswith("{") and bool(json.loads(line))
    except (ValueError, RecursionError):
        found = False
    if found:
        remedy = "pass --jsonl" if path == STDIN else "name the file .jsonl"
        note("warning", f"{name}: this looks like JSON lines, and is read as plain text; {remedy} to read its texts")
    return found


def lines_of(paths: Sequence[Path], encoding: str = "utf-8") -> list[str]:
    """The texts of files and folders, each line of a .txt being one.

    Raises:
        ValueError: there is none.
        FileNotFoundError: there is no such file.
    """
    found = [text.text for text in read_texts(files_of(paths), lines=True, encoding=encoding)]
    if not found:
        raise ValueError(f"there is no text in {', '.join(str(path) for path in paths)}: give files that are not blank")
    return found


def load_labelled(
    path: Path,
    encoding: str = "utf-8",
    format: str | None = None,
    unit: str | None = None,
    read: Options = None,
) -> list[Example]:
    """Annotated texts of a file, see `load_examples`, and `reader_options` for what the command line says of it."""
    if encoding == "utf-8" and format is None and unit is None and not read:
        return load_examples(path)
    name, options = reader_options(path, format, unit, None if encoding == "utf-8" else encoding, read)
    try:
        return load_examples(path, format=name, **options)
    except TypeError as error:
        raise ValueError(f"{path} cannot be read in the format {name!r} with {options}: {error}") from error


def check_texts(files: Sequence[tuple[Path, str]], **options: Any) -> None:
    """Read all that can be read twice, before a model is loaded.

    Raises:
        DataFormatError: a file is not as it must be.
        ValueError: there is no text.
    """
    if all(path.is_file() for path, _ in files) and not sum(1 for _ in read_texts(files, quiet=True, **options)):
        raise ValueError(NO_TEXT)


NO_TEXT = "there is no text in what was given: the input is empty"


def _of_json_lines(path: Path, name: str, encoding: str) -> Iterator[RawText]:
    seen: set[str] = set()
    for number, line in _lines(path, name, encoding):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataFormatError(name, number, "a JSON object in each line", line) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataFormatError(name, number, 'an object with a text under "text"', row)
        if any("\ud800" <= character <= "\udfff" for character in row["text"]):
            raise DataFormatError(name, number, "a text without single surrogates", row["text"][:40])
        own = row.get("id")
        known = isinstance(own, str | int) and not isinstance(own, bool) and str(own) not in seen
        id = str(own) if known else f"{name}:{number}"
        while id in seen:
            id += "'"
        seen.add(id)
        yield RawText(name, id, row["text"], len(line.encode("utf-8", "surrogatepass")) + 1)


def _lines(path: Path, name: str, encoding: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, as they come."""
    stream: Any = (
        sys.stdin.buffer if path == STDIN else (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")
    )
    known = encoding_of(b"" if path == STDIN else stream.read(4), encoding)
    if path != STDIN:
        stream.seek(0)
    number = 0
    texts = io.TextIOWrapper(stream, known, newline=None)
    try:
        for number, line in enumerate(texts, 1):
            text = line.rstrip("\n")
            if "\0" in text:
                expected = f"text in {encoding.upper()} without zero bytes; for UTF-16 pass encoding='utf-16-le' or -be"
                raise DataFormatError(name, number, expected, "\0")
            if not is_blank(text):
                yield number, text
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError):
        if path != STDIN:
            read_text(path, encoding)  # which tells the line
        raise DataFormatError(name, number + 1, f"text in {encoding.upper()} from here on", "other bytes") from None
    finally:
        if path == STDIN:
            texts.detach()
        else:
            texts.close()


def total_size(files: Sequence[tuple[Path, str]]) -> int | None:
    """Bytes of all files; None where it is not known, of stdin and of compressed files."""
    if any(path == STDIN or path.suffix.lower() == ".gz" for path, _ in files):
        return None
    return sum(path.stat().st_size for path, _ in files)
