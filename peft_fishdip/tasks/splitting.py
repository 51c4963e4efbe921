"""From spans of characters to spans of tokens, and tokens with the white space between them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from .records import Span
from .text import token_ranges

Range = tuple[int, int]


def tokens_and_spans(
    text: str, spans: Sequence[Span], ranges: Iterable[Range] | None = None
) -> tuple[tuple[str, ...], list[Range], list[Span]]:
    """Tokens of a text, where they stand in it, and spans of characters as spans of these tokens.

    `ranges` are the tokens (by default those of `tokenize`); a token in which a span begins or ends is split there, so
    that every span is represented exactly. No span may begin or end with white space.
    """
    cuts = sorted({place for span in spans for place in (span.start, span.end)})
    finer: list[Range] = []
    for start, end in token_ranges(text) if ranges is None else ranges:
        for cut in cuts[bisect_right(cuts, start) : bisect_left(cuts, end)]:
            finer.append((start, cut))
            start = cut
        finer.append((start, end))
    first = {start: number for number, (start, end) in enumerate(finer) if start < end}
    last = {end: number + 1 for number, (start, end) in enumerate(finer) if start < end}
    found = [Span(first[span.start], last[span.end], span.label) for span in spans]
    return tuple(text[start:end] for start, end in finer), finer, found


def with_white_space(text: str, ranges: Iterable[Range]) -> list[tuple[int, int, bool]]:
    """Tokens as spaCy and Prodigy have them, as start, end, and whether one space follows.

    One space after a token belongs to it; other white space is a token of its own.
    """
    found: list[tuple[int, int, bool]] = []
    done = 0
    for start, end in (*ranges, (len(text), len(text))):
        if found and text[done : done + 1] == " " and done < start:
            found[-1] = (*found[-1][:2], True)
            done += 1
        if done < start:
            found.append((done, start, False))
        if start < end:
            found.append((start, end, False))
        done = end
    return found
