"""Prodigy: JSON lines of a text with tokens, spans and relations between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, get, get_int, read_json_records
from ..splitting import Range, tokens_and_spans, with_white_space
from .checks import Entity, Link, finish, id_or, make_document, unique_ids
from .document import Document


def read_prodigy(path: StrPath, *, encoding: str = "utf-8") -> list[Document]:
    """Read examples whose answer is "accept" or missing; a warning counts the others.

    Offsets count code points. Relations name the last token of head and child; those between tokens that are no spans
    are left out, with the problem "relation_of_lost_span". The id is that under "meta" where it has one; examples that
    share it, such as the sentences of a text, are numbered, as in "7:0", "7:1".
    """
    documents: list[Document] = []
    passed_over = 0
    for where, item in read_json_records(path, encoding):
        text = get(item, "text", str, path, where)
        if item.get("answer", "accept") != "accept":
            passed_over += 1
            continue
        ranges = _tokens(item, text, path, where)
        entities = []
        for number, span in enumerate(get(item, "spans", list, path, where) if "spans" in item else []):
            start, end = (get_int(span, key, path, where) for key in ("start", "end"))
            entities.append(Entity(number, start, end, get(span, "label", str, path, where)))
        links, problems = _links(item, entities, ranges, path, where)
        meta = item.get("meta")
        given = meta.get("id") if isinstance(meta, dict) else None
        name = id_or(given, f"{Path(path).name}:{len(documents)}", path, where)
        words = [(start, end) for start, end in ranges if text[start:end].strip()] if ranges else None
        documents.append(make_document(path, where, text, entities, links, id=name, ranges=words, problems=problems))
    return finish(path, unique_ids(documents), passed_over, "whose answer is not 'accept'")


def _tokens(item: dict[str, Any], text: str, path: StrPath, where: str) -> list[Range]:
    ranges = []
    for number, token in enumerate(get(item, "tokens", list, path, where) if "tokens" in item else []):
        start, end = (get_int(token, key, path, where) for key in ("start", "end"))
        if text[start:end] != get(token, "text", str, path, where) or token.get("id", number) != number:
            raise DataFormatError(path, where, f"token {number} to be {text[start:end]!r}, as the text has it", token)
        ranges.append((start, end))
    return ranges


def _links(
    item: dict[str, Any], entities: Sequence[Entity], ranges: Sequence[Range], path: StrPath, where: str
) -> tuple[list[Link], list[Problem]]:
    links, problems = [], []
    for relation in get(item, "relations", list, path, where) if "relations" in item else []:
        label = get(relation, "label", str, path, where)
        head, child = (_argument(relation, end, entities, ranges, path, where) for end in ("head", "child"))
        if head is None or child is None:
            message = (
                f"{where}: {label} from token {relation.get('head')} to {relation.get('child')} is not on two spans"
            )
            problems.append(Problem("relation_of_lost_span", message))
        else:
            links.append(Link(head, child, label))
    return links, problems


def _argument(
    relation: Any, end: str, entities: Sequence[Entity], ranges: Sequence[Range], path: StrPath, where: str
) -> int | None:
    """Number of the span that is the head or the child of a relation."""
    if f"{end}_span" in relation:
        span = get(relation, f"{end}_span", dict, path, where)
        place = tuple(get_int(span, key, path, where) for key in ("start", "end"))
        found = [entity for entity in entities if (entity.start, entity.end) == place]
        label = span.get("label")
        named = [entity for entity in found if entity.label == label]
        return next((int(str(entity.key)) for entity in named or found), None)
    token = get_int(relation, end, path, where)
    if not 0 <= token < len(ranges):
        raise DataFormatError(path, where, f"a token below {len(ranges)} as {end!r} of a relation", token)
    start, stop = ranges[token]
    around = [entity for entity in entities if entity.start <= start and stop <= entity.end]
    around.sort(key=lambda entity: (entity.end != stop, entity.end - entity.start))
    return next((int(str(entity.key)) for entity in around), None)


def render_prodigy(documents: Sequence[Document]) -> str:
    """JSON lines that Prodigy shows and trains from, with tokens that are split where spans begin or end."""
    lines = []
    for document in documents:
        _, ranges, _ = tokens_and_spans(document.text, document.spans, document.token_ranges)
        tokens = with_white_space(document.text, ranges)
        first = {start: number for number, (start, _, _) in enumerate(tokens)}
        last = {end: number for number, (_, end, _) in enumerate(tokens)}
        places = {
            span: {"start": span.start, "end": span.end, "token_start": first[span.start], "token_end": last[span.end]}
            for span in document.spans
        }
        row: dict[str, Any] = {"text": document.text}
        if document.id:
            row["meta"] = {"id": document.id}
        row["tokens"] = [
            {"text": document.text[start:end], "start": start, "end": end, "id": number, "ws": space}
            for number, (start, end, space) in enumerate(tokens)
        ]
        row["spans"] = [{**place, "label": span.label} for span, place in places.items()]
        if document.relations:
            row["relations"] = [
                {
                    "head": places[r.head]["token_end"],
                    "child": places[r.tail]["token_end"],
                    "head_span": {**places[r.head], "label": r.head.label},
                    "child_span": {**places[r.tail], "label": r.tail.label},
                    "label": r.label,
                }
                for r in document.relations
            ]
        lines.append(json.dumps(row | {"answer": "accept"}, ensure_ascii=False) + "\n")
    return "".join(lines)
