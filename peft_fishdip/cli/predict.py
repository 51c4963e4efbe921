"""fishdip predict: spans in raw texts."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import typer
from tqdm.auto import tqdm

from ..extractor import Extractor
from ..extractor.settings import Settings
from ..tasks.base import Decoded
from ..tasks.formats.write import FORMATS
from ..tasks.results import to_dict
from .inputs import NO_TEXT, RawText, check_texts, files_of, read_texts, total_size
from .options import Adapter, Base, BatchSize, Device, Encoding, JsonLines, Lines
from .outputs import check_output
from .prediction_files import check_format, with_own_ids, write_or_spare

T = TypeVar("T")
CHUNK = 4
"""Batches after which predictions are written."""


def predict(
    adapter: Adapter,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders of .txt and .jsonl; or - for stdin.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; by default stdout.")] = None,
    format: Annotated[
        str, typer.Option(help=f"jsonl (JSON lines), or with --output one of {', '.join(sorted(FORMATS))}.")
    ] = "jsonl",
    lines: Lines = False,
    jsonl: JsonLines = False,
    encoding: Encoding = "utf-8",
    batch_size: BatchSize = 32,
    model: Base = None,
    device: Device = None,
) -> None:
    """Find spans in raw texts, and write them as JSON lines: id, file, text, spans, relations, problems.

    A .txt file is one text (with --lines one a line), a .jsonl file has a text under "text" in each line. Offsets count
    characters; the end is exclusive.
    """
    if format != "jsonl" and (format not in FORMATS or output is None):
        known = f"jsonl, {', '.join(sorted(FORMATS))}"
        raise ValueError(f"--format {format}: " + ("pass --output" if format in FORMATS else f"choose one of {known}"))
    files = files_of(paths or [])
    if output is not None:
        check_output(output, [path for path, _ in files], is_folder=format == "brat")
    options: Any = {"lines": lines, "json_lines": jsonl, "encoding": encoding}
    if format == "jsonl":
        check_texts(files, **options)
        found = _predictions(
            Extractor.load(adapter, model=model, device=device),
            read_texts(files, **options),
            batch_size,
            total_size(files),
        )
        with _sink(output) as stream:
            for text, result in found:
                stream.write(as_line({"id": text.id, "file": text.file, **row_of(result)}))
                stream.flush()
        return
    assert output is not None  # checked above
    texts = with_own_ids([*read_texts(files, **options)], as_files=format == "brat")
    check_format(format, texts, Settings.read(adapter))
    found = _predictions(Extractor.load(adapter, model=model, device=device), texts, batch_size, total_size(files))
    write_or_spare(output, [result for _, result in found], format)


def row_of(result: Decoded[Any]) -> dict[str, Any]:
    """`to_dict` of a prediction, with what matters first."""
    row = to_dict(result)
    return {name: row[name] for name in ("id", "text", "spans", "relations", "problems") if name in row} | row


def as_line(row: dict[str, Any]) -> bytes:
    """A line of JSON in UTF-8."""
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def _predictions(
    extractor: Extractor, texts: Iterable[RawText], batch_size: int, size: int | None
) -> Iterator[tuple[RawText, Decoded[Any]]]:
    count = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc="Predicting", file=sys.stderr, disable=None) as bar:
        for chunk in _chunks(texts, CHUNK * batch_size):
            results = extractor([text.text for text in chunk], batch_size=batch_size, progress=False)
            for text, result in zip(chunk, results, strict=True):
                yield text, replace(result, prediction=replace(result.prediction, id=text.id))
            count += len(chunk)
            bar.update(sum(text.size for text in chunk))
    if not count:
        raise ValueError(NO_TEXT)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := [*islice(rest, size)]:
        yield chunk


@contextmanager
def _sink(output: Path | None) -> Iterator[BinaryIO | gzip.GzipFile]:
    """stdout, or a file that gets its name when all is written; compressed if that ends in .gz."""
    if output is None:
        yield sys.stdout.buffer
        return
    draft = output.with_name(f".{secrets.token_hex(4)}-{output.name}")
    try:
        with open(draft, "xb") as file:
            if output.suffix.lower() != ".gz":
                yield file
            else:
                with gzip.GzipFile(output.name.removesuffix(".gz"), "wb", fileobj=file) as stream:
                    yield stream
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)
