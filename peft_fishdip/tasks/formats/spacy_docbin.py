"""spaCy: a DocBin on disk (.spacy). Needs spaCy, which this package does not install."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, read_bytes
from ..splitting import tokens_and_spans, with_white_space
from .checks import Entity, finish, make_document
from .document import Document

_ID = "id"


def _spacy() -> Any:
    try:
        import spacy
        import spacy.tokens
    except ImportError as error:
        raise ImportError("the .spacy format needs spaCy: pip install spacy") from error
    return spacy


def read_spacy(path: StrPath, *, spans_key: str = "sc") -> list[Document]:
    """Read the entities of each Doc, and the spans of the group `spans_key`, where spaCy has spans that overlap.

    Spans of other groups are left out, with the problem "annotation_left_out". Offsets count code points.
    """
    spacy = _spacy()
    try:
        docs = list(spacy.tokens.DocBin().from_bytes(read_bytes(path)).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # a damaged file raises whatever its parts do
        raise DataFormatError(path, "file", "a DocBin of spaCy", f"{type(error).__name__}: {error}") from error
    documents = []
    for number, doc in enumerate(docs):
        found = {(s.start_char, s.end_char, s.label_) for s in (*doc.ents, *doc.spans.get(spans_key, ()))}
        entities = [Entity(n, *place) for n, place in enumerate(sorted(found))]
        others = [key for key in doc.spans if key != spans_key and len(doc.spans[key])]
        problems = [Problem("annotation_left_out", f"Doc {number}: the spans of the group {key!r}") for key in others]
        ranges = [(token.idx, token.idx + len(token.text)) for token in doc if token.text.strip()]
        given = doc.user_data.get(_ID)
        name = given if isinstance(given, str) and given else f"{Path(path).name}:{number}"
        documents.append(
            make_document(path, f"Doc {number}", doc.text, entities, id=name, ranges=ranges, problems=problems)
        )
    return finish(path, documents)


def render_spacy(documents: Sequence[Document], *, spans_key: str = "sc", language: str = "xx") -> bytes:
    """A DocBin. Spans are entities; those of documents in which they overlap are in the group `spans_key`."""
    spacy = _spacy()
    vocab = spacy.blank(language).vocab
    docs = []
    for document in documents:
        _, ranges, _ = tokens_and_spans(document.text, document.spans, document.token_ranges)
        tokens = with_white_space(document.text, ranges)
        words = [document.text[start:end] for start, end, _ in tokens]
        doc = spacy.tokens.Doc(vocab, words=words, spaces=[space for _, _, space in tokens])
        spans = [doc.char_span(span.start, span.end, label=span.label) for span in document.spans]
        if len(spans) == len(spacy.util.filter_spans(spans)):
            doc.ents = spans
        else:
            doc.spans[spans_key] = spans
        if document.id:
            doc.user_data[_ID] = document.id
        docs.append(doc)
    return bytes(spacy.tokens.DocBin(docs=docs, store_user_data=True).to_bytes())
