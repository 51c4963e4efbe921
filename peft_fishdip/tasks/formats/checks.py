"""What the readers of documents share: checked annotations, notes of what was changed, warnings of what was lost."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, warn_without
from ..records import Relation, Span
from ..splitting import Range
from .document import Document

_NOTES = ("trimmed_span", "offsets_converted")
"""Problems by which nothing is lost."""


class Entity(NamedTuple):
    """A labelled span of a file; relations name it by `key`."""

    key: Hashable
    start: int
    end: int
    label: str


class Link(NamedTuple):
    """A relation of a file between the entities with these keys."""

    head: Hashable
    tail: Hashable
    label: str


def make_document(
    path: StrPath,
    where: str,
    text: str,
    entities: Iterable[Entity],
    links: Iterable[Link] = (),
    *,
    id: str,
    ranges: Iterable[Range] | None = None,
    problems: Iterable[Problem] = (),
    left_out: Mapping[Hashable, Problem] | None = None,
    scores: Mapping[Hashable, float] | None = None,
) -> Document:
    """A document of checked annotations; offsets count code points. DataFormatError names what does not fit.

    Spans are trimmed of white space. `left_out` are entities that the reader could not take, by key; relations that use
    them are left out, too. `scores` are those of entities, by key, and of links.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataFormatError(path, where, "a text without single surrogates (halves of UTF-16 characters)", text[:40])
    spans: dict[Hashable, Span | None] = dict.fromkeys(left_out or (), None)
    noted = [*problems, *(left_out or {}).values()]
    for key, start, end, label in entities:
        if key in spans:
            raise DataFormatError(path, where, "an id that no other entity of the text has", key)
        if not 0 <= start < end <= len(text):
            expected = f"a span with 0 <= start < end <= {len(text)}, the length of the text"
            raise DataFormatError(path, where, expected, (start, end, label))
        if not label.strip():
            raise DataFormatError(path, where, "a label that is not empty", label)
        spans[key] = span = _trimmed(text, start, end, label)
        if span is None:
            noted.append(Problem("blank_span", f"{where}: {label} at {start} to {end} covers white space only"))
        elif (span.start, span.end) != (start, end):
            message = f"{where}: {label} at {start} to {end} now covers {text[span.start : span.end]!r}"
            noted.append(Problem("trimmed_span", message))
    relations = []
    scored: dict[Span | Relation, float] = {}
    for key, span in spans.items():
        if span is not None:
            _score(scored, span, (scores or {}).get(key))
    for link in links:
        for key in (link.head, link.tail):
            if key not in spans:
                raise DataFormatError(path, where, f"an entity with the id {key!r}, which a relation uses", link.label)
        if not link.label.strip():
            raise DataFormatError(path, where, "a label of a relation that is not empty", link.label)
        head, tail = spans[link.head], spans[link.tail]
        if head is None or tail is None:
            message = f"{where}: {link.label} from {link.head} to {link.tail} has lost an entity"
            noted.append(Problem("relation_of_lost_span", message))
        else:
            relations.append(relation := Relation(head, tail, link.label))
            _score(scored, relation, (scores or {}).get(link))
    kept = tuple(span for span in spans.values() if span)
    try:
        tokens = None if ranges is None else tuple(ranges)
        return Document(text, kept, tuple(relations), id, tokens, tuple(noted), scored)
    except ValueError as error:
        raise DataFormatError(path, where, "tokens that hold the whole text, in order", str(error)) from None


def _score(scores: dict[Span | Relation, float], answer: Span | Relation, score: float | None) -> None:
    """Keep a score; what trimming has made equal has the highest one."""
    if score is not None:
        scores[answer] = max(score, scores.get(answer, score))


def _trimmed(text: str, start: int, end: int, label: str) -> Span | None:
    covered = text[start:end]
    start += len(covered) - len(covered.lstrip())
    end -= len(covered) - len(covered.rstrip())
    return Span(start, end, label) if start < end else None


def id_or(value: Any, default: str, path: StrPath, where: str) -> str:
    """The id of a text in a file, or the default where that is missing, null or empty."""
    return default if value is None or value == "" else as_id(value, path, where)


def unique_ids(documents: Sequence[Document]) -> list[Document]:
    """Documents with ids of their own: those that share one, such as the sentences of a text, are numbered."""
    counts = Counter(document.id for document in documents)
    taken = set(counts)
    found = []
    for document in documents:
        if counts[document.id] > 1:
            name = next(name for n in count() if (name := f"{document.id}:{n}") not in taken)
            taken.add(name)
            document = replace(document, id=name)
        found.append(document)
    return found


def as_id(value: Any, path: StrPath, where: str) -> str:
    """An id of a file, a text or a whole number, as text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataFormatError(path, where, "a text or a whole number as id", value)
    return str(value)


def finish(path: StrPath, documents: Sequence[Document], passed_over: int = 0, why: str = "") -> list[Document]:
    """Documents of a whole file: ids are unique; a warning names what was left out, and a file without any span."""
    seen: set[str] = set()
    for document in documents:
        if document.id in seen:
            raise DataFormatError(path, "ids", "an id that no other record of the file has", document.id)
        seen.add(document.id)
    lost = [problem for document in documents for problem in document.problems if problem.kind not in _NOTES]
    if lost:
        counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(p.kind for p in lost).items())
        warnings.warn(f"{path}: left out: {counts} (see Document.problems), first: {lost[0].message}", stacklevel=3)
    if passed_over:
        warnings.warn(f"{path}: {passed_over} records left out, {why}", stacklevel=3)
    warn_without("entity", documents, any(document.spans for document in documents), path)
    return list(documents)
