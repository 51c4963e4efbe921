"""GLiNER's training data: tokens, and entities with inclusive ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, get, get_texts, read_json_records
from .checks import Entity, finish, make_document
from .document import Document


def read_gliner(path: StrPath, *, encoding: str = "utf-8") -> list[Document]:
    """Read a JSON list, or JSON lines, of "tokenized_text" and "ner" with [first token, last token, label].

    The text of a document is the tokens with one space between them.
    """
    documents: list[Document] = []
    for where, item in read_json_records(path, encoding):
        tokens = get_texts(item, "tokenized_text", path, where)
        starts = [*accumulate((len(token) + 1 for token in tokens), initial=0)]
        entities = []
        for number, entry in enumerate(get(item, "ner", list, path, where)):
            first, last, label = _entry(entry, len(tokens), path, where)
            entities.append(Entity(number, starts[first], starts[last] + len(tokens[last]), label))
        problems = []
        if item.get("relations"):
            problems.append(Problem("annotation_left_out", f"{where}: what stands under 'relations'"))
        ranges = [(start, start + len(token)) for start, token in zip(starts, tokens, strict=False)]
        name = f"{Path(path).name}:{len(documents)}"
        documents.append(
            make_document(path, where, " ".join(tokens), entities, id=name, ranges=ranges, problems=problems)
        )
    return finish(path, documents)


def _entry(entry: Any, length: int, path: StrPath, where: str) -> tuple[int, int, str]:
    match entry:
        case [int(first), int(last), str(label)] if not isinstance(first, bool) and not isinstance(last, bool):
            if 0 <= first <= last < length:
                return first, last, label
    raise DataFormatError(path, where, f"[first token, last token, label] with tokens below {length}", entry)


def render_gliner(documents: Sequence[Document]) -> str:
    """A JSON list; of the text only its tokens are kept."""
    rows = []
    for document in documents:
        example = document.to_example()
        ner = [[span.start, span.end - 1, span.label] for span in example.spans]
        rows.append({"tokenized_text": list(example.tokens), "ner": ner})
    return json.dumps(rows, ensure_ascii=False) + "\n"
