"""fishdip predict: spans in raw texts."""

from __future__ import annotations

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
from ..tasks.base import Decoded
from ..tasks.formats.write import FORMATS, write
from ..tasks.results import to_dict
from .inputs import RawText, files_of, read_texts, total_size
from .options import Adapter, Base, BatchSize, Device, JsonLines, Lines
from .outputs import check_output

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
    extractor = Extractor.load(adapter, model=model, device=device)
    found = _predictions(extractor, files, lines, jsonl, batch_size)
    if format != "jsonl":
        assert output is not None  # checked above
        results = [result for _, result in found]
        write(output, _named_as_files(results) if format == "brat" else results, format=format)
        return
    with _sink(output) as stream:
        for text, result in found:
            stream.write(as_line({"id": text.id, "file": text.file, **row_of(result)}))
            stream.flush()


def _named_as_files(results: list[Decoded[Any]]) -> list[Decoded[Any]]:
    """Predictions for a.txt under the id "a", so that brat has a.txt and a.ann, if all have other ids then."""
    names = [result.prediction.id.removesuffix(".txt") for result in results]
    if len({*names}) < len(names):
        return results
    return [replace(x, prediction=replace(x.prediction, id=name)) for x, name in zip(results, names, strict=True)]


def row_of(result: Decoded[Any]) -> dict[str, Any]:
    """`to_dict` of a prediction, with what matters first."""
    row = to_dict(result)
    return {name: row[name] for name in ("id", "text", "spans", "relations", "problems") if name in row} | row


def as_line(row: dict[str, Any]) -> bytes:
    """A line of JSON in UTF-8."""
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def _predictions(
    extractor: Extractor, files: list[tuple[Path, str]], lines: bool, json_lines: bool, batch_size: int
) -> Iterator[tuple[RawText, Decoded[Any]]]:
    texts = read_texts(files, lines=lines, json_lines=json_lines)
    count = 0
    with tqdm(
        total=total_size(files), unit="B", unit_scale=True, desc="Predicting", file=sys.stderr, disable=None
    ) as bar:
        for chunk in _chunks(texts, CHUNK * batch_size):
            results = extractor([text.text for text in chunk], batch_size=batch_size, progress=False)
            for text, result in zip(chunk, results, strict=True):
                yield text, replace(result, prediction=replace(result.prediction, id=text.id))
            count += len(chunk)
            bar.update(sum(text.size for text in chunk))
    if not count:
        raise ValueError("there is no text in what was given: the input is empty")


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := [*islice(rest, size)]:
        yield chunk


@contextmanager
def _sink(output: Path | None) -> Iterator[BinaryIO]:
    """stdout, or a file that gets its name when all is written."""
    if output is None:
        yield sys.stdout.buffer
        return
    draft = output.with_name(f".{secrets.token_hex(4)}-{output.name}")
    try:
        with open(draft, "xb") as stream:
            yield stream
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)
