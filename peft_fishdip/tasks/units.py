"""What offsets of a text count: code points, as in Python, UTF-16 units, as in JavaScript and Java, and others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import regex

_SIZES: dict[str, Callable[[str], int]] = {
    "characters": lambda character: 1,
    "utf-16": lambda character: 1 + (character > "\uffff"),
    "utf-8": lambda character: len(character.encode("utf-8", "surrogatepass")),
}
CODE_UNITS = (*_SIZES,)
"""Units in which every character begins somewhere."""
UNITS = (*CODE_UNITS, "graphemes")


def check_unit(unit: str) -> None:
    """Raise ValueError for a unit that is not known."""
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r}: choose one of {', '.join(map(repr, UNITS))}")


def positions(text: str, unit: str) -> list[int]:
    """Of each character of a text the offset in `unit` at which it begins, and the offset of the end of the text.

    Characters in which no unit begins, such as combining marks where graphemes are counted, have -1.
    """
    if unit == "graphemes":
        found: list[int] = []
        for number, grapheme in enumerate(regex.findall(r"\X", text)):
            found += [number, *[-1] * (len(grapheme) - 1)]
        return [*found, max(found, default=-1) + 1]
    return [*accumulate(map(_SIZES[unit], text), initial=0)]


def to_code_points(text: str, unit: str) -> dict[int, int]:
    """From offsets in `unit` to code points; offsets inside a character are missing."""
    return {offset: index for index, offset in enumerate(positions(text, unit)) if offset >= 0}
