"""TACRED (Zhang et al., 2017), its revisions, and data in its format: a JSON list of sentences with two entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..records import RelationExample, Span
from .common import DataFormatError, StrPath, get, get_int, get_texts, id_of, read_json_records, warn_without


def read_tacred(path: StrPath, *, inclusive: bool = True, encoding: str = "utf-8") -> list[RelationExample]:
    """The subject is the head and the object the tail, with their types as labels.

    Ends are inclusive in the files of LDC; those of the data set on the Hugging Face Hub are not: `inclusive=False`.
    Pairs without a relation have the label "no_relation", as in the file.
    """
    examples: list[RelationExample] = []
    for where, item in read_json_records(path, encoding):
        tokens = get_texts(item, "token", path, where)
        head, tail = (_entity(item, name, len(tokens), inclusive, path, where) for name in ("subj", "obj"))
        label = get(item, "relation", str, path, where)
        name = id_of(item, f"{Path(path).name}:{len(examples)}")
        examples.append(RelationExample(tokens, head, tail, label, name))
    warn_without("relation", examples, bool(examples), path)
    return examples


def _entity(item: Any, name: str, length: int, inclusive: bool, path: StrPath, where: str) -> Span:
    start, end = (get_int(item, f"{name}_{side}", path, where) for side in ("start", "end"))
    if not 0 <= start < end + inclusive <= length:
        order = f"{name}_start <= {name}_end < {length}" if inclusive else f"{name}_start < {name}_end <= {length}"
        raise DataFormatError(path, where, f"0 <= {order} (`inclusive` says what ends are)", (start, end))
    return Span(start, end + inclusive, get(item, f"{name}_type", str, path, where) if f"{name}_type" in item else "")
