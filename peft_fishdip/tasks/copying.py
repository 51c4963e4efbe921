"""The words of a sentence as a model copies them, and where spans on them begin and end."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from .grammar import Pieces
from .records import Span
from .text import escape, reads_apart

LONGEST_PART = 16
"""Of a tail that ends inside a token: how many parts of the token it has at most, so that there are not too many."""


class SentenceParts:
    """Parts of a sentence, each of which begins or ends no token or one: a token is one part, or with `split` several.

    Places are numbers of parts. Tokens that the tokenizer leaves out belong to the part after them.

    Attributes:
        count: of the parts.
        unwritten: text of tokens that are left out after the last part.
        heads: places at which a name may begin that no bracket has yet.
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
            some = self._known(parts_of(token)) if split else [text]
            start = len(self._parts)
            self._parts += [" ".join(text for _, text in [*waiting[:-1], (number, some[0])]), *some[1:]]
            self._tokens += [(waiting[0][0], number), *[(number, number)] * (len(some) - 1)]
            self._bounds += [(start, start + len(some))] * len(some)
            waiting = []
        self.unwritten = " ".join(text for _, text in waiting)
        self.count = len(self._parts)
        self.heads = [
            i for i in range(self.count) if not self.is_inside(i) or begins_name(self._parts[i - 1], self._parts[i])
        ]
        whole = [self.ids_of(start, end) if start == i else 0 for i, (start, end) in enumerate(self._bounds)]
        self._lengths = [*accumulate(whole, initial=0)]

    def _known(self, parts: Iterable[str]) -> list[str]:
        """Parts as they are written, each of which the tokenizer has tokens for."""
        some: list[str] = []
        for part in map(escape, parts):
            if some and not (self.pieces.ids(part) and self.pieces.ids(some[-1])):
                some[-1] += part
            else:
                some.append(part)
        return some

    @property
    def num_words(self) -> int:
        """Of about eight characters each, where the text has no spaces between words."""
        return sum(1 + (end - start - 1) // 8 for i, (start, end) in enumerate(self._bounds) if start == i)

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
        """How many tokens of the tokenizer the parts have, written token by token."""
        if start == end:
            return 0
        first, last = self._bounds[start][1], self._bounds[end - 1][0]
        if end < first or (end == first and self.is_inside(start)):
            return self.ids_of(start, end)
        head = self.ids_of(start, first) if self.is_inside(start) else self._lengths[first] - self._lengths[start]
        if not self.is_inside(end):
            return head + self._lengths[end] - self._lengths[first]
        return head + self._lengths[last] - self._lengths[first] + self.ids_of(last, end)

    def spans(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], Span]:
        """Spans, without label, of places in tokens; those tokens are split inside which a place begins or ends."""
        cuts = sorted({place for pair in places for place in pair if self.is_inside(place)})

        def span(start: int, end: int) -> Span:
            first, last = self._tokens[start][0], self._tokens[end - 1][1]
            return Span(first + bisect_right(cuts, start), last + bisect_right(cuts, end - 1) + 1)

        return {place: span(*place) for place in places}


@lru_cache(maxsize=4096)
def parts_of(token: str) -> tuple[str, ...]:
    """A token, cut wherever `brackets` can tell its parts apart: not between a letter and an accent."""
    cuts = [0, *(place for place in range(1, len(token)) if reads_apart(token, place)), len(token)]
    return tuple(token[start:end] for start, end in pairwise(cuts))


def begins_name(before: str, after: str) -> bool:
    """Whether a name may begin between these parts of a token: not within a number, nor within letters that have cases.

    `non-EU`, `BerlinTeam`, and words of scripts that write prefixes or whole sentences without spaces are cut.
    """
    one, other = unicodedata.category(before[-1]), unicodedata.category(after[0])
    if other[0] == "M" or other == "Cf" or one[0] == other[0] == "N":
        return False
    return "Lo" in (one, other) or one[0] != "L" or other[0] != "L" or (one, other) == ("Ll", "Lu")


def is_name(words: Sequence[str], start: int, end: int) -> bool:
    """Whether a tail may be these characters of the joined words, if no bracket has that name yet."""
    ends = [*accumulate(map(len, words))]
    first, last = bisect_right(ends, start), bisect_left(ends, end)
    head, tail = start - ends[first] + len(words[first]), end - ends[last] + len(words[last])
    begins = head == 0 or begins_name(words[first][:head], words[first][head:])
    own = words[last][head if first == last else 0 : tail]
    return begins and (tail == len(words[last]) or len(parts_of(own)) <= LONGEST_PART)
