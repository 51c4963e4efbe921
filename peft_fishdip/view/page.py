"""A page of documents: texts with coloured spans, filters and search, in one HTML file without external resources."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from ..tasks.base import Decoded
from ..tasks.checks import check_items
from ..tasks.formats.document import Document, to_document
from ..tasks.records import JointExample, NerExample
from ..tasks.units import positions


def build_page(documents: Iterable[Document | NerExample | JointExample | Decoded[Any]], title: str) -> str:
    """The page of documents, records or predictions.

    Texts reach it as JSON, from which its script makes text nodes; no text is ever read as HTML.
    The content security policy allows this one script and this one style sheet, by their hashes, and no connection.
    """
    check_items("documents", documents, "a list of documents, records or predictions")
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    parts = {
        "title": html.escape(_valid(title)),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _json([to_document(document) for document in documents]),
    }
    template = files(__package__).joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _valid(text: str) -> str:
    """A text that UTF-8 can hold: names of files may have bytes that are none, and JSON single surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(documents: Sequence[Document]) -> str:
    """The documents for the script, with offsets in UTF-16 units; no character of it can end the element."""
    labels = sorted({span.label for document in documents for span in document.spans})
    kinds = sorted({relation.label for document in documents for relation in document.relations})
    data = {"labels": labels, "kinds": kinds, "documents": [_document(d, labels, kinds) for d in documents]}
    # A single surrogate, which a label or an id may have, is written as JSON writes it.
    text = _valid(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _document(document: Document, labels: list[str], kinds: list[str]) -> dict[str, object]:
    at = positions(document.text, "utf-16")
    label, kind = ({name: number for number, name in enumerate(names)} for names in (labels, kinds))
    place = {span: number for number, span in enumerate(document.spans)}
    score, more = document.scores.get, document.metadata
    return {
        "id": document.id,
        "text": document.text,
        "spans": [[at[s.start], at[s.end], label[s.label], score(s)] for s in document.spans],
        "relations": [[place[r.head], place[r.tail], kind[r.label], score(r)] for r in document.relations],
        "problems": [[problem.kind, problem.message] for problem in document.problems],
        "generated": document.generated_text,
        "metadata": [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in more.items()],
    }
