"""Offsets of a file whose unit is told by the words that stand at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from ..base import Problem
from ..readers.common import DataFormatError, StrPath
from ..units import CODE_UNITS, positions

Mention = tuple[int, int, "str | None"]
Pieces = Sequence[tuple[int, int]]
_MARK = "\ufeff"


def mentions_in_code_points(
    text: str, mentions: Sequence[Mention], path: StrPath, where: str
) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Offsets that count code points, of mentions given as (start, end, their words in the file or None).

    The words tell what the offsets count. If they fit no reading, raises DataFormatError with the first that differs.
    Offsets out of range are returned as they are.
    """
    found, problems = pieces_in_code_points(text, [([(start, end)], words) for start, end, words in mentions])
    for pieces, (_, _, words) in zip(found, mentions, strict=True):
        check_words(text, pieces, words, path, where)
    return [pieces[0] for pieces in found], problems


def pieces_in_code_points(
    text: str, mentions: Sequence[tuple[Pieces, str | None]], *, marked: bool = False, where: str = ""
) -> tuple[list[list[tuple[int, int]]], list[Problem]]:
    """The same of mentions in several pieces, without an error where nothing fits: offsets are then as they are given.

    Words of which others stand between the pieces need not fit, if those of all others do. `marked` texts had a byte
    order mark at their begin in the file.
    """
    given = [[*pieces] for pieces, _ in mentions]
    words = [word for _, word in mentions]
    readings = [*_readings(text, marked)] if any(words) else [("", dict(enumerate(range(len(text) + 1))))]
    for strict in (True, False) if any(len(pieces) > 1 for pieces in given) else (True,):
        for counted, known in readings:
            moved = [[(known.get(start, -1), known.get(end, -1)) for start, end in pieces] for pieces in given]
            if all(_fit(text, pieces, word, strict) for pieces, word in zip(moved, words, strict=True)):
                return moved, [Problem("offsets_converted", f"{where}: the offsets count {counted}")] if counted else []
    return given, []


def _readings(text: str, marked: bool) -> Iterator[tuple[str, Mapping[int, int]]]:
    """What offsets may count, and for each that is possible its code point; first the code points themselves."""
    marks = [("", 0, text)]
    if marked:
        marks.append(("the byte order mark", -1, _MARK + text))
    if text.startswith(_MARK):
        marks.append(("no byte order mark", 1, text[1:]))
    for mark, shift, counted in marks:
        for one in (False, True) if "\r\n" in text else (False,):
            for unit in CODE_UNITS[:1] if counted.isascii() else CODE_UNITS:
                name = f"{unit.upper()} units" if unit != CODE_UNITS[0] else ""
                names = [name, mark, "a line end of two characters as one" if one else ""]
                yield ", ".join(filter(None, names)), _code_points(counted, unit, one, shift)


def _code_points(text: str, unit: str, line_end_is_one: bool, shift: int) -> dict[int, int]:
    offsets = positions(text, unit)
    if line_end_is_one:
        pairs = [pair == ("\r", "\n") for pair in pairwise(text)]
        ended = accumulate(pairs, initial=0)  # pairs that begin before a character
        offsets = [offset - count for offset, count in zip(offsets, (*ended, sum(pairs)), strict=False)]
    found: dict[int, int] = {}
    for index, offset in enumerate(offsets):
        if index + shift >= 0:
            found.setdefault(offset, index + shift)
    return found


def check_words(text: str, pieces: Pieces, words: str | None, path: StrPath, where: str) -> None:
    """Raise DataFormatError for other words than stand in the text, unless the offsets are out of range."""
    start, end = pieces[0][0], pieces[-1][1]
    if _inside(text, pieces) and not _fit(text, pieces, words):
        raise DataFormatError(path, where, f"the words {text[start:end]!r} that stand at {start} to {end}", words)


def is_interrupted(text: str, pieces: Pieces) -> bool:
    """Does anything but white space stand between the pieces?"""
    return any(text[before[1] : after[0]].strip() for before, after in pairwise(pieces))


def _fit(text: str, pieces: Pieces, words: str | None, strict: bool = True) -> bool:
    if not _inside(text, pieces):
        return False
    if words is None or (not strict and is_interrupted(text, pieces)):
        return True
    return _plain(words) in (
        _plain(text[pieces[0][0] : pieces[-1][1]]),
        _plain("".join(text[start:end] for start, end in pieces)),
    )


def _inside(text: str, pieces: Pieces) -> bool:
    return all(0 <= start < end <= len(text) for start, end in pieces)


def _plain(words: str) -> str:
    """Words in which white space does not count, since formats write line breaks as spaces or as \\n."""
    return "".join(words.replace("\\n", " ").split())
