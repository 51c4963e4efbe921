"""Spans as places in the characters of a sentence, which stay the same however its tokens are split.

Places do not count white space, so that they mean the same in a raw text and in the tokens split from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from .records import JointExample, NerExample, Span, moved
from .text import token_ranges, tokenize

T = TypeVar("T", NerExample, JointExample)


def bounds(tokens: Sequence[str]) -> list[int]:
    """Where each token begins, and where the last one ends, as places."""
    return [*accumulate((len("".join(token.split())) for token in tokens), initial=0)]


def split_tokens(tokens: Sequence[str], cuts: Iterable[int]) -> list[str]:
    """Tokens without white space, split at these places."""
    at, finer = sorted(set(cuts)), []
    for token, (start, end) in zip(tokens, pairwise(bounds(tokens)), strict=True):
        inside = [cut - start for cut in at[bisect_left(at, start + 1) : bisect_left(at, end)]]
        finer += [token[i:j] for i, j in pairwise([0, *inside, len(token)])]
    return finer


def on_places(example: T) -> T:
    """An example whose tokens are the single characters of its sentence. Spans of white space alone are dropped."""
    places = bounds(example.tokens)

    def place(span: Span) -> Span | None:
        start, end = places[span.start], places[span.end]
        return Span(start, end, span.label) if start < end else None

    return moved(example, "".join("".join(example.tokens).split()), place)


def from_places(example: T, tokens: Sequence[str], text: str) -> T:
    """The inverse of `on_places`: tokens are split where spans begin and end inside."""
    finer = split_tokens(tokens, (place for span in example.spans for place in (span.start, span.end)))
    places = bounds(finer)
    begins = {place: position for position, (place, end) in enumerate(pairwise(places)) if place < end}
    ends = {place: position for position, (start, place) in enumerate(pairwise(places), 1) if start < place}
    return moved(example, finer, lambda span: Span(begins[span.start], ends[span.end], span.label), text)


def comparable(gold: Any, found: Any) -> tuple[Any, Any]:
    """Two examples of one sentence on the same tokens; those of other tasks as they are.

    Raises:
        ValueError: they are about different sentences.
    """
    if not isinstance(gold, NerExample | JointExample) or not isinstance(found, NerExample | JointExample):
        return gold, found
    if gold.tokens == found.tokens:
        return gold, found
    if type(gold) is not type(found):
        raise TypeError(f"a prediction of {type(found).__name__} cannot be compared with a {type(gold).__name__}")
    one: Any = on_places(gold)  # type: ignore[type-var]  # of one type, checked above
    other: Any = on_places(found)  # type: ignore[type-var]
    if one.tokens != other.tokens:
        raise ValueError(
            f"the prediction for {' '.join(found.tokens)!r} cannot be compared with the example "
            f"{' '.join(gold.tokens)!r}, another sentence; pass predictions in the order of their examples"
        )
    return one, other


def as_read(example: T) -> T:
    """What is known of an example before its labels: no spans, and the tokens of `tokenize` where it has a text."""
    return moved(example, words_read(example), lambda _: None, example.text)


def words_read(example: T) -> Sequence[str]:
    """The words of the source: tokens of the text, where there is one, which do not show where labelled spans end."""
    return tokenize(example.text) if example.text else example.tokens


def part(example: T, start: int, end: int, ranges: Sequence[tuple[int, int]] | None = None) -> T:
    """Tokens `start` to `end` of an example, with their text; what does not stand on these alone is dropped.

    `ranges` are those of `ranges_in`, where they are known already.
    """
    tokens = example.tokens[start:end]
    text = ""
    if example.text and tokens:
        ranges = ranges or ranges_in(example.text, example.tokens)
        text = example.text[ranges[start][0] : ranges[end - 1][1]]

    def place(span: Span) -> Span | None:
        inside = start <= span.start and span.end <= end
        return Span(span.start - start, span.end - start, span.label) if inside else None

    return moved(example, tokens, place, text)


def whole(example: T, prediction: T) -> T:
    """A prediction for the first tokens of an example, as one for the whole example."""
    return from_places(on_places(prediction), as_read(example).tokens, example.text)


def ranges_in(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where each token stands in the raw text, in Python's characters (code points).

    Raises:
        ValueError: the tokens do not stand there, one after the other, with nothing but white space between them.
    """
    ranges, place = [], 0
    for number, token in enumerate(tokens):
        start = place
        while not text.startswith(token, start) and text[start : start + 1].isspace():
            start += 1
        if not text.startswith(token, start):
            found = text[start : start + max(len(token), 10)]
            raise ValueError(
                f"token {number}, {token!r}, does not stand at character {start} of the text, which reads {found!r} "
                "there; give the text that the tokens were split from"
            )
        place = start + len(token)
        ranges.append((start, place))
    if text[place:].strip():
        raise ValueError(f"the text goes on with {text[place : place + 20]!r} after the last token; give all tokens")
    return ranges


def word_edges(example: NerExample | JointExample) -> list[int]:
    """Positions of tokens at which a word of the source begins, and the number of tokens."""
    positions: Iterable[int] = range(len(example.tokens))
    if example.text:
        starts = {start for start, _ in token_ranges(example.text)}
        ranges = ranges_in(example.text, example.tokens)
        positions = (position for position, (start, _) in enumerate(ranges) if start in starts)
    return [*positions, len(example.tokens)]
