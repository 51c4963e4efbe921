"""The JSON lines of this package: predictions and documents with scores, problems and the text that was generated."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, get, get_int, read_json_records
from ..units import check_unit, positions, to_code_points
from .checks import Entity, Link, finish, id_or, make_document
from .document import Document
from .mentions import mentions_in_code_points

_OTHER_TASKS = {
    "arguments": "semantic roles",
    "head": "the relation of one pair of entities",
    "state": "dialogue states",
    "turns": "dialogue states",
}

_KEYS = {"text", "spans", "relations", "id", "generated_text", "problems"}


def read_fishdip(path: StrPath, *, unit: str | None = None, encoding: str = "utf-8") -> list[Document]:
    """Read what `write_json_lines` and `write(..., format="fishdip")` write: texts with entities and relations.

    Spans are {"start", "end", "label"}; "text" is the words there, which are compared with the text, and "score" a
    number from 0 to 1. Offsets count code points; the words tell where they count UTF-16 units or bytes of UTF-8, or
    `unit` does ("characters", "utf-16", "utf-8" or "graphemes"). Relations are {"head", "tail", "label"} with positions
    in the list of spans. Ids that several files have in common are written after the name under "file". Other keys are
    the metadata of the document.
    """
    if unit is not None:
        check_unit(unit)
    documents: list[Document] = []
    predicted: list[dict[str, Any]] = []
    for where, item in read_json_records(path, encoding):
        if isinstance(item, dict) and "spans" not in item and (other := _OTHER_TASKS.keys() & item.keys()):
            expected = f"spans of entities; predictions of {_OTHER_TASKS[min(other)]} hold none"
            raise DataFormatError(path, where, expected, sorted(item))
        documents.append(_document(item, f"{Path(path).name}:{len(documents)}", unit, path, where))
        generated = get(item, "generated_text", str, path, where) if "generated_text" in item else ""
        rest = {key: value for key, value in item.items() if key not in _KEYS}
        problems = (*_problems(item, path, where), *documents[-1].problems)
        predicted.append({"problems": problems, "generated_text": generated, "metadata": rest})
    files = [more["metadata"].get("file") for more in predicted]
    found = finish(path, _with_own_ids(documents, files))
    return [replace(document, **more) for document, more in zip(found, predicted, strict=True)]


def _with_own_ids(documents: list[Document], files: Sequence[Any]) -> list[Document]:
    """Documents of several files, which may have ids in common."""
    if len({document.id for document in documents}) == len(documents):
        return documents
    return [
        replace(document, id=f"{file}:{document.id}") if isinstance(file, str) else document
        for document, file in zip(documents, files, strict=True)
    ]


def _document(item: Any, name: str, unit: str | None, path: StrPath, where: str) -> Document:
    text = get(item, "text", str, path, where)
    spans = get(item, "spans", list, path, where)
    mentions: list[tuple[int, int, str | None]] = []
    for span in spans:
        words = get(span, "text", str, path, where) if "text" in span else None
        mentions.append((get_int(span, "start", path, where), get_int(span, "end", path, where), words))
    places, problems = _places(text, mentions, unit, path, where)
    entities = []
    scores: dict[Hashable, float] = {}
    for number, (span, (start, end)) in enumerate(zip(spans, places, strict=True)):
        entities.append(Entity(number, start, end, get(span, "label", str, path, where)))
        _note_score(scores, number, span, path, where)
    if len({entity[1:] for entity in entities}) < len(entities):
        raise DataFormatError(path, where, "each span once", spans)
    links: list[Link] = []
    for relation in get(item, "relations", list, path, where) if "relations" in item else []:
        head, tail = (get_int(relation, end, path, where) for end in ("head", "tail"))
        for end in (head, tail):
            if not 0 <= end < len(spans):
                expected = f"head and tail from 0 to {len(spans) - 1}, positions in the list of spans"
                raise DataFormatError(path, where, expected, relation)
        links.append(link := Link(head, tail, get(relation, "label", str, path, where)))
        _note_score(scores, link, relation, path, where)
    if len(set(links)) < len(links):
        raise DataFormatError(path, where, "each relation once", item["relations"])
    id = id_or(item.get("id"), name, path, where)
    return make_document(path, where, text, entities, links, id=id, problems=problems, scores=scores)


def _places(
    text: str, mentions: Sequence[tuple[int, int, str | None]], unit: str | None, path: StrPath, where: str
) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Offsets as code points. With a unit, the words have to stand where it says."""
    if unit is None:
        return mentions_in_code_points(text, mentions, path, where)
    known = to_code_points(text, unit)
    moved = []
    for start, end, words in mentions:
        for offset in (start, end):
            if offset not in known:
                expected = f"offsets in {unit} from 0 to {max(known)}, none of them inside a character"
                raise DataFormatError(path, where, f"{expected} (`unit` chooses another unit)", offset)
        moved.append((known[start], known[end], words))
    found, _ = mentions_in_code_points(text, moved, path, where)
    if found != [place[:2] for place in moved]:
        raise DataFormatError(path, where, f"words at offsets that count {unit}; `unit` chooses another unit", mentions)
    return found, []


def _note_score(scores: dict[Hashable, float], key: Hashable, item: dict[str, Any], path: StrPath, where: str) -> None:
    score = item.get("score")
    if score is None:
        return
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataFormatError(path, where, 'a number from 0 to 1 under "score"', score)
    scores[key] = float(score)


def _problems(item: dict[str, Any], path: StrPath, where: str) -> tuple[Problem, ...]:
    given = get(item, "problems", list, path, where) if "problems" in item else []
    return tuple(Problem(*(get(problem, key, str, path, where) for key in ("kind", "message"))) for problem in given)


def render_fishdip(documents: Sequence[Document], *, unit: str = "characters") -> str:
    """JSON lines as `to_dict` gives them. Raises ValueError where a text has single surrogates."""
    check_unit(unit)
    rows = [document_to_dict(document, unit) for document in documents]
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def document_to_dict(document: Document, unit: str = "characters") -> dict[str, Any]:
    """A document in texts, numbers, lists and dicts, with the keys of `to_dict`."""
    at = positions(document.text, unit)

    def scored(answer: Any, found: dict[str, Any]) -> dict[str, Any]:
        return found | ({"score": document.scores[answer]} if answer in document.scores else {})

    found: dict[str, Any] = {"text": document.text}
    found["spans"] = [
        scored(s, {"start": at[s.start], "end": at[s.end], "text": document.text[s.start : s.end], "label": s.label})
        for s in document.spans
    ]
    if document.relations:
        place = {span: number for number, span in enumerate(document.spans)}
        found["relations"] = [
            scored(r, {"head": place[r.head], "tail": place[r.tail], "label": r.label}) for r in document.relations
        ]
    found["id"] = document.id
    if document.generated_text:
        found["generated_text"] = document.generated_text
    found["problems"] = [asdict(problem) for problem in document.problems]
    return found | {key: value for key, value in document.metadata.items() if key not in _KEYS}
