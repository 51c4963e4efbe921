"""doccano: JSON lines of a text with spans as [start, end, label], or with objects for entities and relations."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..readers.common import DataFormatError, StrPath, get, get_int, read_json_records
from ..units import check_unit, positions, to_code_points
from .checks import Entity, Link, as_id, finish, id_or, make_document
from .document import Document

_COLUMNS = ("entities", "label", "labels")


def read_doccano(path: StrPath, *, unit: str | None = None, encoding: str = "utf-8") -> list[Document]:
    """Read an export of doccano for sequence labelling, with or without relations.

    The text is under "text" or "data"; spans are lists [start, end, label] or objects with start_offset, end_offset and
    label, under "label", "labels" or "entities". doccano counts UTF-16 units, or graphemes in a project that was set
    so, and files made by Python scripts often count code points: `unit` is "utf-16" (the default), "graphemes" or
    "characters". They differ in texts with emoji and other rare characters only; a warning counts these where
    `unit` is not given.
    """
    check_unit(unit or "utf-16")
    documents: list[Document] = []
    doubtful = 0
    for where, item in read_json_records(path, encoding):
        text = get(item, "text" if "text" in item else "data", str, path, where) if isinstance(item, dict) else None
        if text is None:
            raise DataFormatError(path, where, "an object with a text and spans", item)
        entities = _entities(item, path, where)
        known = to_code_points(text, unit or "utf-16")
        moved = []
        for entity in entities:
            for offset in (entity.start, entity.end):
                if offset not in known:
                    expected = f"offsets in {unit or 'utf-16'} from 0 to {max(known)}, none of them inside a character"
                    raise DataFormatError(path, where, f"{expected} (`unit` chooses another unit)", offset)
            moved.append(entity._replace(start=known[entity.start], end=known[entity.end]))
        doubtful += unit is None and any(before.end != after.end for before, after in zip(entities, moved, strict=True))
        links = [
            Link(as_id(r.get("from_id"), path, where), as_id(r.get("to_id"), path, where), r["type"])
            for r in _relations(item, path, where)
        ]
        name = id_or(item.get("id"), f"{Path(path).name}:{len(documents)}", path, where)
        documents.append(make_document(path, where, text, moved, links, id=name))
    if doubtful:
        warnings.warn(
            f"{path}: {doubtful} texts have emoji or other rare characters before the end of a span; offsets were read "
            "as UTF-16 units, as doccano counts. Pass unit='utf-16', 'graphemes' or 'characters'",
            stacklevel=2,
        )
    return finish(path, documents)


def _entities(item: dict[str, Any], path: StrPath, where: str) -> list[Entity]:
    column = next((name for name in _COLUMNS if name in item), None)
    if column is None:
        raise DataFormatError(path, where, f"spans under one of {', '.join(map(repr, _COLUMNS))}", item)
    entities = []
    for number, entry in enumerate(get(item, column, list, path, where)):
        if isinstance(entry, list) and len(entry) == 3:
            entry = dict(zip(("start_offset", "end_offset", "label"), entry, strict=True))
        if not isinstance(entry, dict):
            raise DataFormatError(path, where, f"[start, end, label] or objects under {column!r}", entry)
        start, end = (get_int(entry, key, path, where) for key in ("start_offset", "end_offset"))
        key = as_id(entry["id"], path, where) if "id" in entry else ("number", number)
        entities.append(Entity(key, start, end, get(entry, "label", str, path, where)))
    return entities


def _relations(item: dict[str, Any], path: StrPath, where: str) -> list[dict[str, Any]]:
    relations = get(item, "relations", list, path, where) if "relations" in item else []
    for relation in relations:
        get(relation, "type", str, path, where)
    return relations


def render_doccano(documents: Sequence[Document], *, unit: str = "utf-16") -> str:
    """JSON lines for doccano's import: with relations if any document has one."""
    check_unit(unit)
    relations = any(document.relations for document in documents)
    lines = []
    for document in documents:
        at = positions(document.text, unit)
        row: dict[str, Any] = ({"id": document.id} if document.id else {}) | {"text": document.text}
        if relations:
            ids = {span: n for n, span in enumerate(document.spans)}
            row["entities"] = [
                {"id": n, "start_offset": at[s.start], "end_offset": at[s.end], "label": s.label}
                for s, n in ids.items()
            ]
            row["relations"] = [
                {"id": n, "from_id": ids[r.head], "to_id": ids[r.tail], "type": r.label}
                for n, r in enumerate(document.relations)
            ]
        else:
            row["label"] = [[at[span.start], at[span.end], span.label] for span in document.spans]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)
