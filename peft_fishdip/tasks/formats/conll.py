"""Columns of tokens and tags as documents; `readers.conll` reads them as records."""

from __future__ import annotations

from collections.abc import Sequence

from ..readers.common import StrPath
from ..readers.conll import read_conll
from ..tagging import is_tag, spans_to_tags
from .document import Document, to_document


def read_conll_documents(path: StrPath) -> list[Document]:
    """Sentences of a CoNLL file as documents, whose text is the tokens with one space between them."""
    return [to_document(example) for example in read_conll(path, scheme="bio")]


def render_conll(documents: Sequence[Document]) -> str:
    """A token and its BIO tag on each line, separated by a tab; of the text only its tokens are kept."""
    sentences = []
    for number, document in enumerate(documents):
        example = document.to_example()
        if not example.tokens:
            raise ValueError(
                f"document {document.id or number!r} has no token, and CoNLL cannot hold an empty sentence"
            )
        lines = []
        for token, tag in zip(example.tokens, spans_to_tags(example.spans, len(example.tokens)), strict=True):
            if not is_tag(tag, "bio") or token.split() != [token]:
                raise ValueError(f"the token {token!r} with the tag {tag!r} cannot stand in a column of a CoNLL file")
            lines.append(f"{token}\t{tag}\n")
        sentences.append("".join(lines) + "\n")
    return "".join(sentences)
