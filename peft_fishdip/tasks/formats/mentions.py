"""Offsets of a file whose unit is told by the words that stand at them."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Problem
from ..readers.common import DataFormatError, StrPath
from ..units import to_code_points

Mention = tuple[int, int, "str | None"]


def mentions_in_code_points(
    text: str, mentions: Sequence[Mention], path: StrPath, where: str
) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Offsets that count code points, of mentions given as (start, end, their words in the file or None).

    The words tell what the offsets count. If they fit no unit, raises DataFormatError with the first that differs.
    Offsets out of range are returned as they are.
    """
    given = [(start, end) for start, end, _ in mentions]
    if all(_fits(text, start, end, words) for start, end, words in mentions):
        return given, []
    words = [mention[2] for mention in mentions]
    for unit in ("utf-16", "utf-8") if any(words) and not text.isascii() else ():
        known = to_code_points(text, unit)
        moved = [(known.get(start, -1), known.get(end, -1)) for start, end in given]
        if all(_fits(text, *pair, word) for pair, word in zip(moved, words, strict=True)):
            return moved, [Problem("offsets_converted", f"{where}: the offsets count {unit.upper()} units")]
    for start, end, word in mentions:
        if 0 <= start < end <= len(text) and not _fits(text, start, end, word):
            raise DataFormatError(path, where, f"the words {text[start:end]!r} that stand at {start} to {end}", word)
    return given, []


def _fits(text: str, start: int, end: int, words: str | None) -> bool:
    if not 0 <= start < end <= len(text):
        return False
    return words is None or _plain(words) == _plain(text[start:end])


def _plain(words: str) -> str:
    """Words in which white space does not count, since formats write line breaks as spaces or as \\n."""
    return "".join(words.replace("\\n", " ").split())
