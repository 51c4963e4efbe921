"""Files of predictions in the format of an annotation tool: what they cannot hold is told before anything is found."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..extractor.settings import Settings
from ..tasks.base import Decoded
from ..tasks.formats.document import Document
from ..tasks.formats.write import FORMATS, write
from ..tasks.records import Span
from ..tasks.results import write_json_lines
from .inputs import RawText


def with_own_ids(texts: Sequence[RawText], *, as_files: bool = False) -> list[RawText]:
    """Texts with ids that no other has: those that several files have in common stand after the name of the file.

    Args:
        texts: of files, each of which has every id once.
        as_files: ids are names of files, without the ending .txt where they are then still different.
    """
    if len({text.id for text in texts}) < len(texts):
        texts = [text._replace(id=f"{text.file}:{text.id}") for text in texts]
    names = [text.id.removesuffix(".txt") for text in texts]
    if not as_files or len({*names}) < len(names):
        return [*texts]
    return [text._replace(id=name) for text, name in zip(texts, names, strict=True)]


def check_format(format: str, texts: Sequence[RawText], settings: Settings) -> None:
    """Write the texts without labels, and each label, to a place that is then deleted.

    Raises:
        ValueError: the format cannot hold the relations that the adapter finds, one of its labels, or one of the texts.
    """
    known = FORMATS[format]
    if settings.relation_labels and not known.relations:
        able = ", ".join(name for name, other in FORMATS.items() if other.relations)
        raise ValueError(f"--format {format} holds no relations, which this adapter finds; choose one of jsonl, {able}")
    with tempfile.TemporaryDirectory() as folder:
        labelled = [Document("word", (Span(0, 4, label),), id=str(i)) for i, label in enumerate(settings.labels)]
        try:
            write(Path(folder, "labels"), labelled, format=format)
        except ValueError as error:
            raise ValueError(f"--format {format} cannot hold the labels of this adapter: {error}") from None
        write(Path(folder, "texts"), [Document(text.text, id=text.id) for text in texts], format=format)


def write_or_spare(output: Path, results: Sequence[Decoded[Any]], format: str) -> None:
    """Write predictions; if the format cannot hold them, as JSON lines beside the output, so that they are not lost.

    Raises:
        ValueError: they are beside it; the message says why and where.
    """
    try:
        write(output, results, format=format)
    except ValueError as error:
        spare = output.with_name(f"{output.name}.predictions.jsonl")
        write_json_lines(spare, results)
        raise ValueError(f"{error}; the predictions are in {spare}, which `fishdip convert` reads") from error
