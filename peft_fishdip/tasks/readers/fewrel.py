"""FewRel (Han et al., 2018): a JSON object from relation to its instances."""

from __future__ import annotations

from typing import Any

from ..records import RelationExample, Span
from .common import DataFormatError, StrPath, get, get_texts, read_json, warn_without


def read_fewrel(path: StrPath, *, encoding: str = "utf-8") -> list[RelationExample]:
    """Examples in the order of the file, labelled by relation id; head and tail are the first mentions."""
    data = read_json(path, encoding)
    if not isinstance(data, dict):
        raise DataFormatError(path, "top level", "an object from relation to instances", type(data).__name__)
    examples: list[RelationExample] = []
    for relation in data:
        for number, item in enumerate(get(data, relation, list, path, "top level")):
            name = f"{relation}:{number}"
            tokens = get_texts(item, "tokens", path, name)
            head, tail = (_mention(item, key, len(tokens), path, name) for key in ("h", "t"))
            examples.append(RelationExample(tokens, head, tail, relation, name))
    warn_without("relation", examples, bool(examples), path)
    return examples


def _mention(item: Any, key: str, length: int, path: StrPath, where: str) -> Span:
    entity = get(item, key, list, path, where)
    try:
        positions = entity[2][0]
        start, end = positions[0], positions[-1] + 1
        contiguous = positions == list(range(start, end)) and 0 <= start < end <= length
    except (IndexError, KeyError, TypeError):
        contiguous = False
    if not contiguous:
        expected = f"[name, id, [[position, ...], ...]] with consecutive positions below {length} under {key!r}"
        raise DataFormatError(path, where, expected, entity)
    return Span(start, end)


def read_relation_names(path: StrPath, *, encoding: str = "utf-8") -> dict[str, str]:
    """Natural name of each relation id, from pid2name.json."""
    data = read_json(path, encoding)
    if not isinstance(data, dict):
        raise DataFormatError(path, "top level", "an object from relation id to [name, description]", data)
    names = {}
    for relation in data:
        entry = get(data, relation, list, path, "top level")
        if not entry or not isinstance(entry[0], str):
            raise DataFormatError(path, relation, "[name, description]", entry)
        names[relation] = entry[0]
    return names
