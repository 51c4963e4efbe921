"""Label Studio: its JSON export (tasks with annotations or predictions) and JSON-MIN."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, get, get_int, read_json_records
from ..tagging import NO_TYPE
from .checks import Entity, Link, as_id, finish, id_or, make_document
from .document import Document
from .mentions import mentions_in_code_points

_ID = "ref_id"
_OF_EXPORT = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history", _ID)
NO_RELATION_TYPE = "relation"
"""The label of relations without one."""


def read_label_studio(
    path: StrPath, *, text: str | None = None, predictions: bool = False, encoding: str = "utf-8"
) -> list[Document]:
    """Read labels of texts, and relations between them (JSON-MIN has none).

    `text` is the key of the text in a task's data, by default "text" or the only key that holds a text. Of several
    annotations of a task the one marked as ground truth counts, else the last that was not skipped, and the problem
    "annotation_left_out" names how many others there are; `predictions=True` reads a model's predictions instead. Tasks
    without any are left out, with a warning. A region with several labels is several spans, of which the first bears
    its relations. Offsets count code points, as Label Studio does since version 1.5; those of older versions, UTF-16
    units, are recognised by the words that stand beside them.
    """
    documents: list[Document] = []
    passed_over = 0
    minimal: dict[str, int] = {}
    for where, task in read_json_records(path, encoding):
        if not isinstance(task, dict):
            raise DataFormatError(path, where, "an object, a task", task)
        number = len(documents) + passed_over
        if "data" not in task:
            name = id_or(task.get(_ID, task.get("id")), f"{Path(path).name}:{number}", path, where)
            if name in minimal:  # one row per annotation
                minimal[name] += 1
                continue
            minimal[name] = 0
            documents.append(_minimal(task, text, name, path, where))
            continue
        data = get(task, "data", dict, path, where)
        chosen, others = _choose(task, predictions, path, where)
        if chosen is None:
            passed_over += 1
            continue
        name = id_or(data.get(_ID, task.get("id")), f"{Path(path).name}:{number}", path, where)
        content = get(data, _text_key(data, text, path, where), str, path, where)
        result = get(chosen, "result", list, path, where)
        documents.append(_document(content, result, others, name, path, where))
    why = "tasks without a prediction" if predictions else "tasks without an annotation"
    hint = "" if predictions else "; predictions=True reads predictions"
    if sum(minimal.values()):
        passed_over, why, hint = sum(minimal.values()), "further annotations of the same tasks", ""
    return finish(path, documents, passed_over, why + hint)


def _choose(task: Any, predictions: bool, path: StrPath, where: str) -> tuple[Any, int]:
    """The annotation that counts, None if there is none, and the number of others."""
    keys = ("predictions",) if predictions else ("annotations", "completions")
    key = next((key for key in keys if key in task), None)
    given = get(task, key, list, path, where) if key else []
    for annotation in given:
        get(annotation, "result", list, path, where)
    valid = [a for a in given if not (a.get("was_cancelled") or a.get("skipped"))]
    if not valid:
        return None, 0
    # of equal ones, the last
    best = max(reversed(valid), key=lambda a: (bool(a.get("ground_truth")), str(a.get("created_at", ""))))
    return best, len(valid) - 1


def _text_key(data: dict[str, Any], text: str | None, path: StrPath, where: str) -> str:
    if text is not None or "text" in data:
        return text or "text"
    found = [key for key, value in data.items() if isinstance(value, str) and key not in _OF_EXPORT]
    if len(found) != 1:
        raise DataFormatError(path, where, "one text in the task's data (`text` chooses its key)", found)
    return found[0]


def _document(text: str, result: list[Any], others: int, name: str, path: StrPath, where: str) -> Document:
    problems = []
    regions: dict[Any, tuple[int, int, str | None, list[str]]] = {}
    links: list[Link] = []
    for number, part in enumerate(result):
        kind = get(part, "type", str, path, where)
        if kind == "relation":
            links += _links(part, path, where)
        elif kind == "labels":
            key = as_id(part["id"], path, where) if "id" in part else ("number", number)
            start, end, words, labels = _region(get(part, "value", dict, path, where), path, where)
            if key in regions and regions[key][:2] != (start, end):
                raise DataFormatError(path, where, "an id that no other region of the task has", key)
            regions.setdefault(key, (start, end, words, []))[3].extend(labels)
        elif kind.endswith("labels"):
            raise DataFormatError(path, where, "regions of the type 'labels', on plain text", kind)
        else:
            problems.append(Problem("annotation_left_out", f"{where}: a result of the type {kind!r}"))
    if others:
        problems.append(Problem("annotation_left_out", f"{where}: {others} further annotations of the task"))
    used = {key for link in links for key in (link.head, link.tail)}
    for key, (_, _, _, labels) in regions.items():
        if key in used and len(labels) > 1:
            message = f"{where}: relations of the region {key} are put on its first label of {', '.join(labels)}"
            problems.append(Problem("relation_on_first_label", message))
    return _from_regions(text, regions, links, problems, name, path, where)


def _from_regions(
    text: str,
    regions: dict[Any, tuple[int, int, str | None, list[str]]],
    links: list[Link],
    problems: list[Problem],
    name: str,
    path: StrPath,
    where: str,
) -> Document:
    offsets, notes = mentions_in_code_points(text, [region[:3] for region in regions.values()], path, where)
    entities = [
        Entity((key, n) if n else key, start, end, label)
        for (key, (_, _, _, labels)), (start, end) in zip(regions.items(), offsets, strict=True)
        for n, label in enumerate(labels)
    ]
    return make_document(path, where, text, entities, links, id=name, problems=[*problems, *notes])


def _region(value: dict[str, Any], path: StrPath, where: str) -> tuple[int, int, str | None, list[str]]:
    start, end = (get_int(value, key, path, where) for key in ("start", "end"))
    labels = get(value, "labels", list, path, where) if "labels" in value else []
    for label in labels:
        if not isinstance(label, str):
            raise DataFormatError(path, where, "a list of texts under 'labels'", label)
    words = get(value, "text", str, path, where) if value.get("text") is not None else None
    return start, end, words, labels or [NO_TYPE]


def _links(part: dict[str, Any], path: StrPath, where: str) -> list[Link]:
    head, tail = (as_id(part.get(key), path, where) for key in ("from_id", "to_id"))
    direction = part.get("direction", "right")
    pairs = {"right": [(head, tail)], "left": [(tail, head)], "bi": [(head, tail), (tail, head)]}
    if not isinstance(direction, str) or direction not in pairs:
        raise DataFormatError(path, where, "the direction 'right', 'left' or 'bi' of a relation", direction)
    labels = part.get("labels") or [NO_RELATION_TYPE]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataFormatError(path, where, "a list of texts under 'labels' of a relation", labels)
    return [Link(*pair, label) for label in labels for pair in pairs[direction]]


def _minimal(row: dict[str, Any], text: str | None, name: str, path: StrPath, where: str) -> Document:
    """A row of JSON-MIN: regions stand under the name of their control, whatever it is."""
    content = get(row, _text_key(row, text, path, where), str, path, where)
    regions: dict[Any, tuple[int, int, str | None, list[str]]] = {}
    for key, values in row.items():
        if isinstance(values, list) and values and all(isinstance(v, dict) and "start" in v for v in values):
            for number, value in enumerate(values):
                regions[key, number] = _region(value, path, where)
    return _from_regions(content, regions, [], [], name, path, where)


def render_label_studio(
    documents: Sequence[Document],
    *,
    predictions: bool = False,
    model_version: str = "peft_fishdip",
    text: str = "text",
    from_name: str = "label",
    to_name: str = "text",
) -> str:
    """Tasks for Label Studio's import, with annotations, or with predictions for a person to correct.

    `from_name` and `to_name` are the names of Labels and Text in the project's labelling configuration, `text` is the
    key that the Text shows. Ids are written under "ref_id", since Label Studio gives tasks ids of its own.
    """
    tasks = []
    for document in documents:
        ids = {span: f"s{number}" for number, span in enumerate(document.spans)}
        result: list[dict[str, Any]] = [
            {
                "id": key,
                "from_name": from_name,
                "to_name": to_name,
                "type": "labels",
                "value": {"start": s.start, "end": s.end, "text": document.text[s.start : s.end], "labels": [s.label]},
            }
            for s, key in ids.items()
        ]
        result += [
            {
                "type": "relation",
                "from_id": ids[r.head],
                "to_id": ids[r.tail],
                "direction": "right",
                "labels": [r.label],
            }
            for r in document.relations
        ]
        data = {text: document.text} | ({_ID: document.id} if document.id else {})
        if predictions:
            tasks.append({"data": data, "predictions": [{"model_version": model_version, "result": result}]})
        else:
            tasks.append({"data": data, "annotations": [{"result": result}]})
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
