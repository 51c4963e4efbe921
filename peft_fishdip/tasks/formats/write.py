"""Write documents in the format of an annotation tool, so that nothing of them is lost."""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import Decoded
from ..checks import as_path, check_items
from ..readers.common import DataFormatError, StrPath
from ..records import JointExample, NerExample
from .brat import read_brat, render_brat
from .conll import read_conll_documents, render_conll
from .doccano import read_doccano, render_doccano
from .document import Document, to_document
from .fishdip import read_fishdip, render_fishdip
from .gliner import read_gliner, render_gliner
from .label_studio import read_label_studio, render_label_studio
from .prodigy import read_prodigy, render_prodigy
from .pubtator import read_pubtator, render_pubtator
from .spacy_docbin import read_spacy, render_spacy

Content = str | bytes | dict[str, str]


@dataclass(frozen=True)
class Format:
    """How documents are written, and what the format can hold."""

    render: Callable[..., Content]
    read: Callable[..., list[Document]]
    same_options: tuple[str, ...] = ()
    """Options of `render` that `read` needs, too."""
    relations: bool = True
    overlaps: bool = True
    text: bool = True
    """Does it hold the text itself, or its tokens only?"""
    more: tuple[str, ...] = ()
    """What it holds of a document besides text, spans and relations."""


FORMATS: Mapping[str, Format] = {
    "brat": Format(render_brat, read_brat),
    "conll": Format(render_conll, read_conll_documents, relations=False, overlaps=False, text=False),
    "doccano": Format(render_doccano, read_doccano, ("unit",)),
    "fishdip": Format(
        render_fishdip, read_fishdip, ("unit",), more=("problems", "scores", "generated_text", "metadata")
    ),
    "gliner": Format(render_gliner, read_gliner, relations=False, text=False),
    "label_studio": Format(render_label_studio, read_label_studio, ("predictions", "text")),
    "prodigy": Format(render_prodigy, read_prodigy),
    "pubtator": Format(render_pubtator, read_pubtator, relations=False),
    "spacy": Format(render_spacy, read_spacy, ("spans_key",), relations=False),
}


def write(
    path: StrPath,
    documents: Iterable[Document | NerExample | JointExample | Decoded[Any]],
    *,
    format: str,
    **options: Any,
) -> None:
    """Write documents, records of tokens or predictions to a file or, for "brat", to a new folder.

    `format` is one of `FORMATS`, and `options` are those of the format's `render` function, such as `predictions=True`
    for "label_studio". What was written is read again before it gets its name, so that a file is complete and correct,
    or not there; a file of that name is replaced. "conll" and "gliner" hold tokens: of the text, the white space is
    lost. Raises ValueError for what a format cannot hold.
    """
    check_items("documents", documents, "a list of documents, records or predictions")
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    given = [to_document(document) for document in documents]
    seen: set[str] = set()
    for number, document in enumerate(given):
        _check(chosen, format, document, f"document {document.id or number!r}")
        if chosen.text and document.id and document.id in seen:
            raise ValueError(f"two documents have the id {document.id!r}: give each its own, or none")
        seen.add(document.id)
    content = chosen.render(given, **options)
    if isinstance(content, dict) and not content:
        raise ValueError(f"{path}: there is no document, and the format {format!r} has no file without one")
    target = as_path(path)
    if isinstance(content, dict) and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is no empty folder; give the name of a new folder")
    # The ending stays, since it says how the file is read.
    draft = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        _put(draft, content)
        _compare(chosen, format, given, draft, options)
        if isinstance(content, dict) and target.exists():
            target.rmdir()
        os.replace(draft, target)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def _check(chosen: Format, format: str, document: Document, name: str) -> None:
    if document.relations and not chosen.relations:
        raise ValueError(
            f"{name} has relations, which the format {format!r} cannot hold: write it in another, or leave them "
            "out with dataclasses.replace(document, relations=())"
        )
    for before, after in zip(document.spans, document.spans[1:], strict=False):
        if after.start < before.end and not chosen.overlaps:
            raise ValueError(
                f"{name}: {before} and {after} overlap, which the format {format!r} cannot hold: write it in another, "
                "or leave spans out with dataclasses.replace(document, spans=...)"
            )


def _put(path: Path, content: Content) -> None:
    if isinstance(content, dict):
        path.mkdir()
        for name, text in content.items():
            (path / name).write_bytes(text.encode("utf-8"))
        return
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    with open(path, "xb") as file:
        file.write(gzip.compress(data) if path.suffix == ".gz" else data)
        file.flush()
        os.fsync(file.fileno())


def _compare(chosen: Format, format: str, given: Sequence[Document], path: Path, options: Mapping[str, Any]) -> None:
    """Refuse what reads otherwise than it was meant, such as characters that a format takes for its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = chosen.read(path, **{name: options[name] for name in chosen.same_options if name in options})
        except DataFormatError as error:
            raise ValueError(f"the documents cannot be written in the format {format!r}: {error}") from None
    if path.is_dir():  # files are sorted by name
        by_id = {document.id: document for document in found}
        ordered = [by_id.get(document.id or str(number)) for number, document in enumerate(given)]
    else:
        ordered = [*found, *[None] * (len(given) - len(found))]
    for number, (document, back) in enumerate(zip(given, ordered, strict=False)):
        same = back is not None and (back == document if chosen.text else back.to_example() == document.to_example())
        same = same and all(getattr(back, name) == getattr(document, name) for name in chosen.more)
        if not same or len(found) != len(given):
            raise ValueError(
                f"document {document.id or number!r} cannot be written in the format {format!r}: {document} would be "
                f"read as {back}"
            )
