"""The start-end notation of CoNLL-2005 and CoNLL-2012: `(ARG1*`, `*`, `*)`, `(V*)`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..records import Span
from ..tagging import TagError

_CELL = re.compile(r"(?P<open>(?:\([^()*]+)*)\*?(?P<close>(?:[^()*]*\))*)")


def bracket_spans(cells: Sequence[str]) -> list[Span]:
    """Spans of one column; TagError with the position where it is malformed."""
    spans = []
    opened: list[tuple[int, str]] = []
    for position, cell in enumerate(cells):
        match = _CELL.fullmatch(cell)
        if match is None or not cell:
            raise TagError(position, "brackets such as (ARG1*, * or *)", cell)
        opened += [(position, label) for label in match["open"].split("(")[1:]]
        for name in match["close"].split(")")[:-1]:
            if not opened:
                raise TagError(position, "an open bracket to close", cell)
            start, label = opened.pop()
            if name and name != label:
                raise TagError(position, f"the bracket of {label!r} to close first", cell)
            spans.append(Span(start, position + 1, label))
    if opened:
        raise TagError(opened[-1][0], "a bracket that is closed later in the sentence", cells[opened[-1][0]])
    return spans
