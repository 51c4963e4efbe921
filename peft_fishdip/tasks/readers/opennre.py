"""OpenNRE (Han et al., 2019): JSON lines of a sentence, its head "h" and tail "t", and the relation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..records import RelationExample, Span
from ..splitting import tokens_and_spans
from .common import DataFormatError, StrPath, get, get_texts, read_json_records, warn_without


def read_opennre(path: StrPath, *, encoding: str = "utf-8") -> list[RelationExample]:
    """Positions "pos" are [start, end) of tokens where the sentence is under "token", of characters under "text"."""
    examples: list[RelationExample] = []
    for where, item in read_json_records(path, encoding):
        tokens: tuple[str, ...] = ()
        text = ""
        if isinstance(item, dict) and "token" in item:
            tokens = get_texts(item, "token", path, where)
            head, tail = (_position(item, key, len(tokens), path, where) for key in ("h", "t"))
        else:
            text = get(item, "text", str, path, where)
            spans = [_trimmed(text, _position(item, key, len(text), path, where), path, where) for key in ("h", "t")]
            tokens, _, (head, tail) = tokens_and_spans(text, spans)
        label = get(item, "relation", str, path, where) if "relation" in item else None
        examples.append(RelationExample(tokens, head, tail, label, f"{Path(path).name}:{len(examples)}", text))
    warn_without("relation", examples, any(example.label for example in examples), path)
    return examples


def _position(item: Any, key: str, length: int, path: StrPath, where: str) -> Span:
    match get(item, key, dict, path, where).get("pos"):
        case [int(start), int(end)] if 0 <= start < end <= length:
            return Span(start, end)
        case found:
            raise DataFormatError(
                path, where, f"[start, end] with 0 <= start < end <= {length} as 'pos' of {key!r}", found
            )


def _trimmed(text: str, span: Span, path: StrPath, where: str) -> Span:
    words = text[span.start : span.end]
    if not words.strip():
        raise DataFormatError(path, where, "words at the position of an entity", (span.start, span.end))
    start = span.start + len(words) - len(words.lstrip())
    return Span(start, start + len(words.strip()))
