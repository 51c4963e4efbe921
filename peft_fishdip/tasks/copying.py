"""The words of a sentence as a model copies them, and where spans on them begin and end."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from .grammar import Pieces
from .records import Span
from .text import escape, fold

_JOINER = "\u200d"


class SentenceParts:
    """Parts of a sentence, each of which begins or ends no token or one: a token is one part, or with `split` several.

    Places are numbers of parts. Tokens that the tokenizer leaves out belong to the part after them.

    Attributes:
        count: of the parts.
        unwritten: text of tokens that are left out after the last part.
    """

    def __init__(self, pieces: Pieces, tokens: Sequence[str], split: bool = False) -> None:
        self.pieces = pieces
        self._parts: list[str] = []
        self._tokens: list[tuple[int, int]] = []  # of each part, the first and the last token that belong to it
        self._bounds: list[tuple[int, int]] = []  # of each part, where its token begins and ends
        waiting: list[tuple[int, str]] = []
        for number, token in enumerate(tokens):
            text = " ".join(escape(token).split())
            if not text:
                continue
            waiting.append((number, text))
            if not pieces.ids(text):
                continue
            some = [text]
            if split and all(pieces.ids(escape(part)) for part in parts_of(token)):
                some = [escape(part) for part in parts_of(token)]
            start = len(self._parts)
            self._parts += [" ".join(text for _, text in [*waiting[:-1], (number, some[0])]), *some[1:]]
            self._tokens += [(waiting[0][0], number), *[(number, number)] * (len(some) - 1)]
            self._bounds += [(start, start + len(some))] * len(some)
            waiting = []
        self.unwritten = " ".join(text for _, text in waiting)
        self.count = len(self._parts)
        whole = [self.ids_of(start, end) if start == i else 0 for i, (start, end) in enumerate(self._bounds)]
        self._lengths = [*accumulate(whole, initial=0)]

    def ids_of(self, start: int, end: int) -> int:
        """How many tokens of the tokenizer a piece of one token has."""
        return len(self.pieces.ids(self.text(start, end)))

    def text(self, start: int, end: int) -> str:
        """What parts say: of one token without spaces between them."""
        text = ""
        for part in range(start, end):
            text += (" " if text and self._bounds[part][0] == part else "") + self._parts[part]
        return text

    def is_inside(self, place: int) -> bool:
        """Whether a place is inside a token."""
        return 0 < place < self.count and self._bounds[place][0] != place

    def ends(self, place: int) -> Iterator[int]:
        """Places up to which the token at a place may be written in one piece."""
        yield from range(self._bounds[place][1], place, -1)

    def length(self, start: int, end: int) -> int:
        """How many tokens of the tokenizer the parts have that begin at a place and end with a token."""
        if not self.is_inside(start):
            return self._lengths[end] - self._lengths[start]
        next_token = self._bounds[start][1]
        return self.ids_of(start, next_token) + self._lengths[end] - self._lengths[next_token]

    def spans(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], Span]:
        """Spans, without label, of places in tokens; those tokens are split inside which a place begins or ends."""
        cuts = sorted({place for pair in places for place in pair if self.is_inside(place)})

        def span(start: int, end: int) -> Span:
            first, last = self._tokens[start][0], self._tokens[end - 1][1]
            return Span(first + bisect_right(cuts, start), last + bisect_right(cuts, end - 1) + 1)

        return {place: span(*place) for place in places}


def parts_of(token: str) -> list[str]:
    """Letters, digits and single marks of a token; the token itself if `brackets` could not tell these apart."""
    parts: list[str] = []
    before = ""
    for character in token:
        category = unicodedata.category(character)
        joined = category[0] == "M" or category == "Cf" or (parts[-1:] and parts[-1].endswith(_JOINER))
        kind = before if joined else category[0]
        if parts and (joined or (kind == before and kind in "LN")):
            parts[-1] += character
        else:
            parts.append(character)
        before = kind
    heads = [*accumulate(parts)]
    whole = fold(escape(token))
    apart = all(fold(escape(head)) + fold(escape(token[len(head) :])) == whole for head in heads)
    return parts if apart and not any(part.isspace() for part in parts) else [token]
