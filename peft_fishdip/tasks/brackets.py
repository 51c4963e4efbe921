"""The bracket language: `[ John Smith | person | works for = Acme ] works for [ Acme | organization ]`.

Format and parser follow TANL (Paolini et al., 2021), which Fish-Dip uses unchanged; the sentence's own
`[ ] | =` are escaped (see `text.escape`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import NamedTuple, TypeVar

from .alignment import character_ranges
from .base import Problem
from .labels import Labels
from .places import as_read, bounds, from_places, on_places
from .records import JointExample, NerExample, Span, moved
from .text import SPECIAL, escape, fold, reads_apart


@dataclass(frozen=True)
class Bracket:
    """One parsed bracket: its words, its `|`-separated tags (each split at ` = `), its place in the text."""

    name: str
    tags: tuple[tuple[str, ...], ...]
    start: int
    end: int


@dataclass(frozen=True)
class Parsed:
    """Sentence tokens of a bracketed text, and its brackets in the order in which they close."""

    tokens: tuple[str, ...]
    brackets: tuple[Bracket, ...]


@dataclass
class _Open:
    start: int
    name: list[str] = field(default_factory=list)
    tags: list[str] | None = None  # None until the first |


def parse(text: str) -> Parsed:
    """Parse any text; unmatched `]` and `|` are words, an unclosed `[` yields nothing."""
    for special in SPECIAL:
        text = text.replace(special, f" {special} ")
    tokens: list[str] = []
    brackets: list[Bracket] = []
    stack: list[_Open] = []
    for token in text.split():
        if token == "[":
            stack.append(_Open(len(tokens)))
        elif token == "]" and stack:
            top = stack.pop()
            groups = groupby(top.tags or (), key=lambda word: word == "|")
            tags = tuple(tuple(" ".join(words).split(" = ")) for is_bar, words in groups if not is_bar)
            brackets.append(Bracket(" ".join(top.name), tags, top.start, len(tokens)))
        elif token == "|" and stack:
            if stack[-1].tags is None:
                stack[-1].tags = []
            else:
                stack[-1].tags.append(token)
        else:
            # A word belongs to every bracket around it, up to one that already holds tags: from there on
            # it is part of that tag and not of the sentence.
            for bracket in reversed(stack):
                if bracket.tags is not None:
                    bracket.tags.append(token)
                    break
                bracket.name.append(token)
            else:
                tokens.append(token)
    return Parsed(tuple(tokens), tuple(brackets))


@dataclass(frozen=True)
class LabelledBracket:
    """A bracket found in the sentence: its span there, its words as generated, its (relation, tail) tags."""

    span: Span
    name: str
    relations: tuple[tuple[str, str], ...]


_NO_RELATIONS = Labels((), "relation", may_be_empty=True)


class Reading(NamedTuple):
    """What `read_brackets` finds: the sentence's tokens, the brackets on them, and the errors met."""

    tokens: tuple[str, ...]
    found: list[LabelledBracket]
    problems: list[Problem]


def read_brackets(
    tokens: Sequence[str],
    text: str,
    labels: Labels,
    relation_labels: Labels = _NO_RELATIONS,
    *,
    split: bool = False,
) -> Reading:
    """Brackets of a generated text on the sentence's tokens.

    Words are compared as a tokenizer normalises them. A span reaches from its first to its last aligned token. A
    bracket is dropped, with a problem, if none of its words is aligned, if it begins or ends inside a token, or if it
    has no known label; so is a tag after the label that is no `relation = tail` of a known relation. With `split`, a
    token in which a bracket begins or ends is split there instead.
    """
    problems: list[Problem] = []
    if text.count("[") != text.count("]"):
        problems.append(Problem("format_error", f"{text.count('[')} times '[' but {text.count(']')} times ']'"))
    parsed = parse(text)
    # A token of white space only has no word, one with white space inside has several.
    words = [(fold(word), position) for position, token in enumerate(tokens) for word in escape(token).split()]
    written = [fold(word) for word in parsed.tokens]
    if "".join(written) != "".join(word for word, _ in words):
        problems.append(Problem("wrong_reconstruction", "the text does not repeat the sentence"))
    ranges = character_ranges([word for word, _ in words], written)
    bounds, _ = _token_bounds(tokens)
    begins = {bounds[position]: position for position in range(len(tokens)) if bounds[position] < bounds[position + 1]}
    ends = {bounds[position + 1]: position + 1 for position in begins.values()}
    found: list[LabelledBracket] = []
    inside: set[int] = set()
    for bracket in parsed.brackets:
        placed = [place for place in ranges[bracket.start : bracket.end] if place is not None]
        if not placed:
            if bracket.start < bracket.end:
                message = f"no word of the bracket around {bracket.name!r} is aligned to the sentence"
                problems.append(Problem("alignment_error", message))
            continue
        if not bracket.tags or len(bracket.tags[0]) > 1:
            problems.append(Problem("format_error", f"the bracket around {bracket.name!r} has no label"))
            continue
        label = labels.label(bracket.tags[0][0])
        if label is None:
            problems.append(
                Problem("label_error", f"{bracket.name!r} has the unknown {labels.what} {bracket.tags[0][0]!r}")
            )
            continue
        start, end = placed[0][0], placed[-1][1]
        if start not in begins or end not in ends:
            inside |= {start, end}
            message = f"the bracket around {bracket.name!r} begins or ends inside a token and is left out"
            problems.append(Problem("partial_token", f"{message}; pass the raw text, or tokens that end there"))
            continue
        span = Span(begins[start], ends[end], label)
        relations = []
        for tag in bracket.tags[1:]:
            relation = relation_labels.label(tag[0])
            if len(tag) != 2:
                problems.append(Problem("format_error", f"{' = '.join(tag)!r} is not 'relation = tail'"))
            elif relation is None:
                problems.append(Problem("label_error", f"unknown relation {tag[0]!r}"))
            else:
                relations.append((relation, tag[1]))
        found.append(LabelledBracket(span, bracket.name, tuple(relations)))
    if split and inside:
        finer = _split_tokens(tokens, inside)
        if len(finer) > len(tokens):
            return read_brackets(finer, text, labels, relation_labels)
    return Reading(tuple(tokens), found, problems)


def _token_bounds(tokens: Sequence[str]) -> tuple[list[int], list[str]]:
    """Where tokens begin and end, in characters of the joined tokens as they are compared; and the tokens compared."""
    folded = [fold(escape(token)) for token in tokens]
    return [*accumulate(map(len, folded), initial=0)], folded


def _split_tokens(tokens: Sequence[str], places: Iterable[int]) -> list[str]:
    """Tokens, split at places that count characters as `read_brackets` compares them."""
    bounds, folded = _token_bounds(tokens)
    finer: list[str] = []
    for token, text, start in zip(tokens, folded, bounds, strict=False):
        rest, done = token, 0
        for place in sorted(place - start for place in places if 0 < place - start < len(text)):
            for cut in range(1, len(rest)):
                head, tail = fold(escape(rest[:cut])), fold(escape(rest[cut:]))
                if head and tail and done + len(head) == place and head + tail == text[done:]:
                    finer.append(rest[:cut])
                    rest, done = rest[cut:], place
                    break
        finer.append(rest)
    return finer


def write_brackets(tokens: Sequence[str], tagged: Iterable[tuple[Span, Sequence[str]]]) -> tuple[str, list[Problem]]:
    """Bracketed sentence with the tags (already escaped) of each span, and the spans it cannot hold.

    Brackets nest; of two spans that cross, the one that starts later is left out. Tokens of white space
    leave no trace in text, so a span that begins or ends with one is reported too.
    """
    order = sorted(tagged, key=lambda item: (item[0].start, -item[0].end))
    words = [escape(token) for token in tokens]
    problems: list[Problem] = []
    opening: dict[int, int] = {}
    closing: dict[int, list[str]] = {}
    enclosing: list[Span] = []
    kept: list[tuple[Span, Sequence[str]]] = []
    for span, tags in order:
        while enclosing and enclosing[-1].end <= span.start:
            enclosing.pop()
        blank = [not token.strip() for token in tokens[span.start : span.end]]
        if blank[0] or blank[-1]:
            problems.append(Problem("blank_boundary", f"{span} begins or ends with a token of white space"))
        if all(blank):
            continue
        if enclosing and enclosing[-1].end < span.end:
            problems.append(Problem("crossing_span", f"{span} crosses {enclosing[-1]} and is left out"))
        else:
            enclosing.append(span)
            kept.append((span, tags))
    for span, tags in reversed(kept):  # inner brackets close first
        opening[span.start] = opening.get(span.start, 0) + 1
        closing.setdefault(span.end, []).append(" | ".join(["", *tags])[1:] + " ]")
    parts: list[str] = []
    for position in range(len(words) + 1):
        parts += closing.get(position, ())
        parts += ["["] * opening.get(position, 0)
        parts += words[position : position + 1]
    return " ".join(" ".join(parts).split()), problems


E = TypeVar("E", NerExample, JointExample)


def readable(example: E) -> tuple[E, list[Problem]]:
    """An example without the spans that cannot be read back from a target over its text, and these as problems.

    The model reads whole words, and characters are compared as they are normalised: a span that ends between a letter
    and its combining mark ends inside a character.
    """
    if not example.text:
        return example, []
    words = as_read(example).tokens
    places, of_words = bounds(example.tokens), bounds(words)
    lost = []
    for span in example.spans:
        for place in (places[span.start], places[span.end]):
            number = bisect_right(of_words, place) - 1
            word, cut = (words[number], place - of_words[number]) if number < len(words) else ("", 0)
            if cut and not reads_apart(word, cut):
                lost.append(span)
                break
    if not lost:
        return example, []
    message = "begins or ends inside a character as it is normalised, and is left out; move it to the next character"
    kept = moved(example, example.tokens, lambda span: None if span in lost else span)
    return from_places(on_places(kept), words, example.text), [Problem("lost_span", f"{x} {message}") for x in lost]
