"""fishdip suggest: the texts to annotate next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..extractor import Extractor
from ..extractor import suggest as most_uncertain
from .documents import From, Read, Unit
from .inputs import NO_TEXT, files_of, load_labelled, read_texts
from .messages import note
from .options import Adapter, Base, BatchSize, Device, Encoding, JsonLines
from .predict import as_line, row_of


def suggest(
    adapter: Adapter,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of .txt, one text a line, and .jsonl; or - for stdin."),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many texts.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON lines, with the spans that were found.")] = False,
    known: Annotated[Path | None, typer.Option(help="Annotated texts, which are not suggested again.")] = None,
    jsonl: JsonLines = False,
    encoding: Encoding = "utf-8",
    from_: From = None,
    unit: Unit = None,
    read: Read = None,
    batch_size: BatchSize = 32,
    model: Base = None,
    device: Device = None,
) -> None:
    """Show the texts that the adapter is least certain of, which are those to annotate next.

    The uncertainty is 1 minus the probability of the labelled text per word, from 0 to 1; it counts what may be missing
    as well as what was found. Each line has the uncertainty, a tab and the text.
    """
    annotated = []
    if known:
        labelled = load_labelled(known, encoding, from_, unit, read)
        annotated = [example.text or " ".join(example.tokens) for example in labelled]
    elif from_ or unit or read:
        raise ValueError("--from, --unit and --read concern the annotated texts of --known; leave them out, or add it")
    texts = [*read_texts(files_of(paths or []), lines=True, json_lines=jsonl, encoding=encoding)]
    if not texts:
        raise ValueError(NO_TEXT)
    extractor = Extractor.load(adapter, model=model, device=device)
    results = extractor([text.text for text in texts], batch_size=batch_size, progress=sys.stderr.isatty())
    found = most_uncertain(results, n, annotated)
    if len(found) < n:
        note("note", f"{len(found)} different texts that are not annotated yet")
    for position, uncertainty, result in found:
        text = texts[position]
        if as_json:
            row = {"id": text.id, "file": text.file, "uncertainty": uncertainty}
            line = as_line(row | {name: value for name, value in row_of(result).items() if name != "id"})
        else:
            line = f"{uncertainty:.3f}\t{' '.join(text.text.split())}\n".encode()
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
