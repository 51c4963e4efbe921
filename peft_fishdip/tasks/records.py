"""Typed records of the tasks: what readers give, what `encode` takes and what `decode` returns.

Spans count tokens, half-open. Collections of spans, relations, arguments and slot values are sets in
nature, so each record keeps them sorted and without duplicates: two records are equal when they say the
same thing. `id` names the example and takes no part in equality, nor does `text`: the raw text that the tokens were
split from, where it is known. For entities, the models of `predict` and `to_features` then read the text, not the
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import index
from typing import Any, Protocol, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end` (exclusive) under a label; unlabelled spans have the label ""."""

    start: int
    end: int
    label: str = ""

    def __post_init__(self) -> None:
        if not (hasattr(self.start, "__index__") and hasattr(self.end, "__index__") and isinstance(self.label, str)):
            raise TypeError(
                f"Span({self.start!r}, {self.end!r}, {self.label!r}): give two token positions and a text, such as "
                "Span(0, 1, 'person')"
            )
        for name in ("start", "end"):  # numbers of numpy and torch have no form in JSON
            object.__setattr__(self, name, index(getattr(self, name)))
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"Span(start={self.start}, end={self.end}): needs 0 <= start < end; end is exclusive, "
                "so one token at position i is Span(i, i + 1)"
            )

    def text(self, tokens: tuple[str, ...]) -> str:
        """The span's tokens joined by spaces."""
        return " ".join(tokens[self.start : self.end])


@dataclass(frozen=True)
class Relation:
    """A directed relation between two labelled spans of one sentence."""

    head: Span
    tail: Span
    label: str

    def __post_init__(self) -> None:
        as_records((self.head, self.tail), Span, "head and tail")


@dataclass(frozen=True)
class Turn:
    """One utterance of a dialogue; `speaker` is "user" or "agent"."""

    speaker: str
    text: str

    def __post_init__(self) -> None:
        if self.speaker not in ("user", "agent"):
            raise ValueError(f"Turn(speaker={self.speaker!r}): the speaker is 'user' or 'agent'")


@dataclass(frozen=True, order=True)
class SlotValue:
    """One entry of a dialogue state, e.g. SlotValue("hotel", "price range", "cheap")."""

    domain: str
    slot: str
    value: str


def _span_key(span: Span) -> tuple[int, int, str]:
    return (span.start, -span.end, span.label)


def _as_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    found = None if isinstance(tokens, str) or not isinstance(tokens, Iterable) else tuple(tokens)
    if found is None or not all(isinstance(token, str) for token in found):
        raise TypeError(f"tokens={tokens!r}: give a sequence of texts; `tokenize` splits a raw sentence")
    return found


TOKENS = "; positions are those of tokens, and `from_offsets` takes characters"


def as_records(values: Any, kind: type[R], what: str, positions: str = TOKENS) -> tuple[R, ...]:
    """The values, which are to be records of one kind; TypeError else, which says what `positions` of spans count."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{what}={values!r}: give a sequence of {kind.__name__}")
    values = tuple(values)
    for value in values:
        if not isinstance(value, kind):
            given = value if isinstance(value, (tuple, list)) else ("...",)
            parts = value.items() if isinstance(value, Mapping) else ()
            written = ", ".join([*(f"{key}={part!r}" for key, part in parts)] or map(repr, given))
            hint = positions if kind is Span else ""
            raise TypeError(f"{what}: {value!r} is a {type(value).__name__}; write {kind.__name__}({written}){hint}")
    return values


def _as_spans(spans: Any, what: str) -> tuple[Span, ...]:
    return tuple(sorted(set(as_records(spans, Span, what)), key=_span_key))


_MARKS = str.maketrans("[]", "  ")


def without_marks(text: str, tokens: Sequence[str]) -> str:
    """A text with a space in place of each bracket that marks a span in it; as it is, if the tokens have brackets.

    Every character stays in its place.
    """
    return text if _without_space(text) == _without_space("".join(tokens)) else text.translate(_MARKS)


def _without_space(text: str) -> str:
    return "".join(text.split())


def _check_text(text: str, tokens: tuple[str, ...]) -> None:
    if text and _without_space("".join(tokens)) != _without_space(text):
        raise ValueError(
            f"text={text!r} does not consist of the tokens {tokens!r}; give the text that they were split from, or none"
        )


def _check_inside(spans: tuple[Span, ...], tokens: tuple[str, ...], what: str) -> None:
    for span in spans:
        if span.end > len(tokens):
            raise ValueError(f"{what} {span} ends after the last of the {len(tokens)} tokens")


class Record(Protocol):
    """What every record has in common."""

    @property
    def id(self) -> str:
        """Name of the example, unique in its data set where the format has one."""


class TokenRecord(Record, Protocol):
    """A record about one tokenised sentence."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The sentence."""


@dataclass(frozen=True)
class NerExample:
    """A sentence and its entities; entities may nest."""

    tokens: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    id: str = field(default="", compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        object.__setattr__(self, "spans", _as_spans(self.spans, "spans"))
        _check_inside(self.spans, self.tokens, "entity")
        _check_text(self.text, self.tokens)


@dataclass(frozen=True)
class JointExample:
    """A sentence, its entities, and the relations between them."""

    tokens: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    relations: tuple[Relation, ...] = ()
    id: str = field(default="", compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        object.__setattr__(self, "spans", _as_spans(self.spans, "spans"))
        relations = sorted(
            set(as_records(self.relations, Relation, "relations")),
            key=lambda r: (*_span_key(r.head), *_span_key(r.tail), r.label),
        )
        object.__setattr__(self, "relations", tuple(relations))
        _check_inside(self.spans, self.tokens, "entity")
        _check_text(self.text, self.tokens)
        known = set(self.spans)
        for relation in self.relations:
            for span in (relation.head, relation.tail):
                if span not in known:
                    raise ValueError(f"relation {relation.label!r} uses {span}, which is not among the entities")


@dataclass(frozen=True)
class RelationExample:
    """A sentence, a head and a tail entity, and the relation that holds; label None = not known.

    In a `text`, brackets may mark head and tail; offsets count them.
    """

    tokens: tuple[str, ...]
    head: Span
    tail: Span
    label: str | None = None
    id: str = field(default="", compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        _check_inside(as_records((self.head, self.tail), Span, "head and tail"), self.tokens, "entity")
        _check_text(without_marks(self.text, self.tokens), self.tokens)


@dataclass(frozen=True)
class SrlExample:
    """A sentence, one predicate of it, and that predicate's arguments (ARG0, R-ARG1, C-ARG1, ...).

    In a `text`, brackets may mark the predicate; offsets count them.
    """

    tokens: tuple[str, ...]
    predicate: Span
    arguments: tuple[Span, ...] = ()
    id: str = field(default="", compare=False)
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        object.__setattr__(self, "arguments", _as_spans(self.arguments, "arguments"))
        _check_inside(as_records((self.predicate,), Span, "predicate"), self.tokens, "predicate")
        _check_inside(self.arguments, self.tokens, "argument")
        _check_text(without_marks(self.text, self.tokens), self.tokens)


@dataclass(frozen=True)
class DstExample:
    """A dialogue up to a user turn, and the belief state after it (cumulative)."""

    turns: tuple[Turn, ...]
    state: tuple[SlotValue, ...] = ()
    id: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", as_records(self.turns, Turn, "turns"))
        object.__setattr__(self, "state", tuple(sorted(set(as_records(self.state, SlotValue, "state")))))
        seen: dict[tuple[str, str], str] = {}
        for entry in self.state:
            if (entry.domain, entry.slot) in seen:
                raise ValueError(
                    f"the slot {entry.domain} {entry.slot} has two values, "
                    f"{seen[entry.domain, entry.slot]!r} and {entry.value!r}; a state holds one per slot"
                )
            seen[entry.domain, entry.slot] = entry.value


T = TypeVar("T", NerExample, JointExample, RelationExample, SrlExample)


def nearest_tokens(count: int, anchors: Sequence[Span], length: int) -> list[int]:
    """Positions of the `count` tokens out of `length` that are nearest to the anchors, in order of the sentence."""

    def distance(position: int) -> int:
        return min(max(span.start - position, position + 1 - span.end, 0) for span in anchors)

    return sorted(sorted(range(length), key=distance)[:count])


def on_tokens(example: T, positions: Sequence[int], gap: str = "") -> T:
    """An example on some of its tokens, with `gap` where others are left out; what stands on those is dropped."""
    tokens: list[str] = []
    new: dict[int, int] = {}
    for number, position in enumerate(positions):
        if gap and number and positions[number - 1] + 1 < position:
            tokens.append(gap)
        new[position] = len(tokens)
        tokens.append(example.tokens[position])
    return _at(example, tokens, new)


def shifted(example: T, tokens: Sequence[str], by: int) -> T:
    """An example whose tokens stand in other tokens from position `by` on, as an example of these."""
    return _at(example, tokens, {position: position + by for position in range(len(example.tokens))})


def _at(example: T, tokens: Sequence[str], new: Mapping[int, int]) -> T:
    """An example with other tokens; `new` maps the positions that are kept."""

    def place(span: Span) -> Span | None:
        if any(position not in new for position in range(span.start, span.end)):
            return None
        return Span(new[span.start], new[span.end - 1] + 1, span.label)

    return moved(example, tokens, place)


def moved(example: T, tokens: Sequence[str], place: Callable[[Span], Span | None], text: str = "") -> T:
    """An example with other tokens, and `place` of each of its spans; what has lost a span is dropped."""

    def move(value: Any) -> Any:
        if isinstance(value, Span):
            return place(value)
        if isinstance(value, Relation):
            head, tail = move(value.head), move(value.tail)
            return head and tail and Relation(head, tail, value.label)
        if isinstance(value, tuple):
            return tuple(kept for kept in map(move, value) if kept is not None)
        return value

    changes = {part.name: move(getattr(example, part.name)) for part in fields(example) if part.name != "tokens"}
    if "text" in changes:
        changes["text"] = text
    return replace(example, tokens=tuple(tokens), **changes)
