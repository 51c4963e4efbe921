"""Examples from character offsets in a raw text, and character offsets of predictions.

Offsets count Python's characters (Unicode code points), half-open: `text[start:end]` is the span, always. Other
programs count UTF-16 units (JavaScript, Java, C#) or bytes of UTF-8 (Go, Rust): name these with `unit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, overload

from .places import ranges_in
from .records import JointExample, NerExample, Relation, RelationExample, Span, SrlExample, without_marks
from .splitting import tokens_and_spans
from .units import CODE_UNITS, positions


@dataclass(frozen=True)
class TextSpan:
    """Characters `start` to `end` (exclusive) of a text, with a label and, where the model gives one, a score."""

    start: int
    end: int
    label: str = ""
    score: float | None = field(default=None, compare=False)


Offsets = TextSpan | Sequence[Any]
"""A TextSpan, or (start, end) or (start, end, label)."""


def token_spans(
    text: str, spans: Iterable[Offsets], *, unit: str = "characters", trim: bool = False
) -> tuple[tuple[str, ...], list[Span]]:
    """Tokens of a raw text, split where a span begins or ends, and each span in tokens, in the order given.

    For records that `from_offsets` does not make: `tokens, (head, tail) = token_spans(text, [(0, 3), (12, 16)])`.
    Arguments and errors are those of `from_offsets`.
    """
    places = _characters(text, spans, unit, trim)
    tokens, _, found = tokens_and_spans(text, [Span(span.start, span.end, span.label) for span in places])
    return tokens, found


@overload
def from_offsets(
    text: str, spans: Iterable[Offsets], relations: None = None, *, id: str = "", unit: str = ..., trim: bool = ...
) -> NerExample: ...
@overload
def from_offsets(
    text: str,
    spans: Iterable[Offsets],
    relations: Iterable[tuple[int, int, str]],
    *,
    id: str = "",
    unit: str = ...,
    trim: bool = ...,
) -> JointExample: ...
def from_offsets(
    text: str,
    spans: Iterable[Offsets],
    relations: Iterable[tuple[int, int, str]] | None = None,
    *,
    id: str = "",
    unit: str = "characters",
    trim: bool = False,
) -> NerExample | JointExample:
    """An example from a raw text and labelled character spans, which may begin or end inside a word.

    Args:
        text: any text. The example remembers it: models read it as they read any raw text, whatever the spans are.
        spans: (start, end, label) or `TextSpan`s; they may nest. Of spans that cross, targets keep one, see `encode`.
        relations: (head, tail, label), where head and tail are positions in `spans`; gives a JointExample.
        id: of the example.
        unit: what offsets count: "characters" (Python's, code points), "utf-16" or "utf-8" (bytes).
        trim: leave white space at both ends out of each span.

    Raises:
        ValueError: a span is empty, given twice, outside of the text, inside a character of the unit, or begins or
            ends with white space; a relation names no span. The message names it and the remedy.
    """
    given = [*spans]
    tokens, found = token_spans(text, given, unit=unit, trim=trim)
    seen: dict[Span, int] = {}
    for number, span in enumerate(found):
        if seen.setdefault(span, number) != number:
            raise ValueError(f"spans {seen[span]} and {number} are the same, {given[number]!r}; give each span once")
        if not span.label:
            raise ValueError(f"span {number}, {given[number]!r}: has no label; give (start, end, label)")
    if relations is None:
        return NerExample(tokens, tuple(found), id, text)
    made = []
    for head, tail, label in relations:
        for end in (head, tail):
            if not 0 <= end < len(found):
                raise ValueError(
                    f"relation {(head, tail, label)!r}: there is no span {end}; heads and tails are positions in the "
                    f"list of {len(found)} spans, from 0 on"
                )
        made.append(Relation(found[head], found[tail], label))
    return JointExample(tokens, tuple(found), tuple(made), id, text)


def to_offsets(
    record: NerExample | JointExample | SrlExample | RelationExample,
    text: str | None = None,
    *,
    scores: Sequence[float | None] | None = None,
    unit: str = "characters",
) -> list[TextSpan]:
    """Character spans of a record over its raw text: `text[start:end]` is the span.

    Args:
        record: an example, or the prediction for one. Its spans are entities, arguments, or the head and then the tail
            of a relation.
        text: the raw text that the tokens were split from; by default the one that the record remembers. Brackets may
            mark the predicate, or head and tail: offsets count these, too.
        scores: of the record's spans, in their order.
        unit: as of `from_offsets`.

    Raises:
        ValueError: the record remembers no text and none is given, or the tokens do not stand in the text.
    """
    text = record.text if text is None else text
    if not text and record.tokens:
        raise ValueError("the record does not know its raw text; pass text=, or predict raw texts")
    spans = spans_of(record)
    numbers = [None] * len(spans) if scores is None else scores
    return in_text(record, text, spans, numbers, unit)


def spans_of(record: NerExample | JointExample | SrlExample | RelationExample) -> tuple[Span, ...]:
    """What offsets of a record are about: entities, arguments, or head and tail."""
    if isinstance(record, SrlExample):
        return record.arguments
    return (record.head, record.tail) if isinstance(record, RelationExample) else record.spans


def in_text(
    record: NerExample | JointExample | SrlExample | RelationExample,
    text: str,
    spans: Sequence[Span],
    scores: Sequence[float | None],
    unit: str = "characters",
) -> list[TextSpan]:
    """Any spans of a record, each with a score or None, as spans of the text that its tokens were split from.

    Raises:
        ValueError: the tokens do not stand in the text, or the unit is unknown.
    """
    marked = isinstance(record, SrlExample | RelationExample)
    ranges = ranges_in(without_marks(text, record.tokens) if marked else text, record.tokens)
    counts = _offsets(text, unit)
    return [
        TextSpan(counts[ranges[span.start][0]], counts[ranges[span.end - 1][1]], span.label, score)
        for span, score in zip(spans, scores, strict=True)
    ]


def _offsets(text: str, unit: str) -> Sequence[int]:
    """The offset of each character and of the end, in units."""
    if unit not in CODE_UNITS:
        raise ValueError(f"unit={unit!r}: choose one of {', '.join(CODE_UNITS)}")
    return range(len(text) + 1) if unit == "characters" else positions(text, unit)


def _characters(text: str, spans: Iterable[Offsets], unit: str, trim: bool) -> list[TextSpan]:
    """Checked spans, which count Python's characters."""
    offsets = _offsets(text, unit)
    character = {offset: place for place, offset in enumerate(offsets)}
    found = []
    for number, given in enumerate(spans):
        name = f"span {number}, {given!r}"
        start, end, label = _parts(name, given)
        if not 0 <= start < end:
            raise ValueError(
                f"{name}: needs 0 <= start < end; end is exclusive, so one character is (start, start + 1)"
            )
        if end > offsets[-1]:
            raise ValueError(
                f"{name}: ends after the {offsets[-1]} {unit} of the text; offsets are in {unit}: if they count "
                f"something else, pass unit={' or unit='.join(repr(u) for u in CODE_UNITS if u != unit)}"
            )
        if start not in character or end not in character:
            raise ValueError(f"{name}: begins or ends inside a character as {unit} writes it; is it another unit?")
        start, end = character[start], character[end]
        words = text[start:end].strip()
        if not words:
            raise ValueError(f"{name}: {text[start:end]!r} is nothing but white space; leave the span out")
        first = start + text[start:end].index(words)
        last = first + len(words)
        if (first, last) != (start, end) and not trim:
            raise ValueError(
                f"{name}: {text[start:end]!r} begins or ends with white space; without it the span is "
                f"({offsets[first]}, {offsets[last]}), which trim=True does by itself"
            )
        found.append(TextSpan(first, last, label))
    return found


def _parts(name: str, given: Offsets) -> tuple[int, int, str]:
    parts = (given.start, given.end, given.label) if isinstance(given, TextSpan) else tuple(given)
    start, end, label = (*parts, "") if len(parts) == 2 else parts if len(parts) == 3 else (None, None, None)
    whole = all(isinstance(x, Integral) and not isinstance(x, bool) for x in (start, end))
    if not whole or not isinstance(label, str):
        raise ValueError(f"{name}: give (start, end, label), two whole numbers and a text, or a TextSpan")
    return int(start), int(end), label  # type: ignore[arg-type]  # checked above
