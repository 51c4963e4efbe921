"""Documents that are longer than what a model reads or writes, in windows that overlap.

A window begins and ends at a line or a sentence, where there is one, and never inside a word. Where a model was stopped
while it wrote, windows are halved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from .base import Decoded, Problem, Task
from .lengths import longest
from .merging import merge
from .places import as_read, part, ranges_in, word_edges
from .records import JointExample, NerExample

E = TypeVar("E")
LEAST_ROOM = 32
"""Windows of fewer tokens show too little of a document; it is cut instead."""
LEAST_WORDS = 16
"""Windows of fewer words are not halved."""
_ENDS = frozenset("।۔؟.!?…。！？｡")
_CLOSING = frozenset("\"'”’»›)]}」』）")


@dataclass(frozen=True)
class Windows(Generic[E]):
    """What a model reads of some examples: each as it is, or in windows.

    Attributes:
        examples: all, of which `ranges` has no windows for those that are read whole.
        ranges: of each example the windows, as its first token and the one after its last.
        parts: what is read, in order.
    """

    examples: Sequence[E]
    ranges: Sequence[Sequence[tuple[int, int]]]
    parts: Sequence[E]

    def merged(self, results: Sequence[Decoded[E]]) -> list[Decoded[E]]:
        """One prediction for each example, from those for the parts."""
        left = iter(results)
        found = []
        for example, ranges in zip(self.examples, self.ranges, strict=True):
            some = [*islice(left, len(ranges) or 1)]
            found.append(merge(example, ranges, some) if ranges else some[0])
        return found

    def halved(self, numbers: Collection[int], fits: Callable[[E], bool]) -> tuple[Windows[E], list[int | None]]:
        """The same with some parts in windows that are little more than half as long and overlap.

        Args:
            numbers: of these parts, for which `can_be_halved` holds.
            fits: whether a part can be read.

        Returns:
            The windows, and for each of their parts the number of the part here that it is; None if it is new.
        """
        ranges: list[list[tuple[int, int]]] = []
        parts: list[E] = []
        origins: list[int | None] = []
        number = 0
        for example, own in zip(self.examples, self.ranges, strict=True):
            document: Any = example
            found: list[tuple[tuple[int, int], E, int | None]] = []
            for start, end in own or [(0, len(document.tokens) if number in numbers else 0)]:
                here: Any = self.parts[number]
                if number in numbers:
                    num_words = len(word_edges(here)) - 1
                    for first, last in _ranges(here, fits, num_words // 2 + num_words // 8, True):
                        found.append(((start + first, start + last), part(here, first, last), None))
                else:
                    found.append(((start, end), here, number))
                number += 1
            found.sort(key=lambda each: each[0])
            ranges.append([place for place, _, _ in found] if own or len(found) > 1 else [])
            parts += [read for _, read, _ in found]
            origins += [origin for _, _, origin in found]
        logging.getLogger(__name__).info("%d texts were cut while they were written: read in halves", len(numbers))
        return Windows(self.examples, ranges, parts), origins

    def lost(self) -> list[Problem]:
        """The labelled spans and relations that stand in no window."""
        parts, problems = iter(self.parts), []
        for example, ranges in zip(self.examples, self.ranges, strict=True):
            some = [*islice(parts, len(ranges) or 1)]
            for name in ("spans", "relations") if ranges else ():
                whole: Any = getattr(example, name, ())
                count = len(whole) - sum(len(getattr(each, name, ())) for each in some)
                problems += [Problem("window_edge", f"one of the {name} reaches over the edge of a window")] * count
        return problems


def reads_windows(task: Task[Any], room: int) -> bool:
    """Whether a task can read a document in windows of so many tokens."""
    return task.splits_documents and room >= LEAST_ROOM


def can_be_halved(example: Any) -> bool:
    """Whether a part of a document has enough words to be read in two windows."""
    return len(word_edges(example)) > LEAST_WORDS


def unlabelled(example: E) -> E:
    """What a model may know of an example: neither its spans nor how they split the tokens of a text."""
    record: Any = example
    if isinstance(example, NerExample | JointExample):
        record = as_read(record)
    return cast(E, record)


def in_windows(
    task: Task[E],
    examples: Sequence[E],
    whole: Callable[[E], bool],
    fits: Callable[[E], bool],
    room: int,
    *,
    overlap: bool = True,
) -> Windows[E]:
    """Examples, in windows where they are too long and the task can do that.

    Args:
        task: whose examples these are.
        examples: without labels, or with labelled spans, in which no window ends if it can be helped.
        whole: whether an example can be read as it is.
        fits: whether a part of one can be read.
        room: most words of a window.
        overlap: whether windows share an eighth to a third of their words.
    """
    split = reads_windows(task, room)
    ranges = [[*_ranges(x, fits, room, overlap)] if split and not whole(x) else [] for x in examples]
    parts: list[E] = []
    for example, some in zip(examples, ranges, strict=True):
        document: Any = example
        places = ranges_in(document.text, document.tokens) if some and document.text else None
        parts += [part(document, start, end, places) for start, end in some] or [example]
    if count := sum(map(bool, ranges)):
        logging.getLogger(__name__).info(
            "%d of %d texts are too long to be read at once and are read in windows, %d in all",
            count,
            len(examples),
            sum(map(len, ranges)),
        )
    return Windows(examples, ranges, parts)


def _ranges(example: Any, fits: Callable[[Any], bool], room: int, overlap: bool) -> Iterator[tuple[int, int]]:
    """The windows of a document, in tokens."""
    edges = word_edges(example)
    places = ranges_in(example.text, example.tokens) if example.text else None
    ranks = [*_ranks(example, edges, places)]

    def best(low: int, high: int) -> int:
        """The last of the best edges from `low` to `high`."""
        return max(range(low, high + 1), key=lambda number: (ranks[number], number))

    first, last = 0, len(edges) - 1
    while True:
        start = edges[first]
        count = longest(lambda n: fits(part(example, start, edges[first + n], places)), min(room, last - first))  # noqa: B023
        if first + count == last:
            yield start, edges[last]
            return
        count = max(count, 1)
        end = best(first + (count + 1) // 2, first + count)
        yield start, edges[end]
        low, high = max(first + 1, end - count // 3), end - max(count // 8, 1)
        first = best(low, high) if overlap and low <= high else end


def _ranks(example: Any, edges: Sequence[int], places: Sequence[tuple[int, int]] | None) -> Iterator[int]:
    """How well a window may end before each of these tokens: 3 a line ends, 2 a sentence, 1 a word; 0 inside a span."""
    tokens = example.tokens
    spans = {position for span in example.spans for position in range(span.start + 1, span.end)}
    for edge in edges:
        between = example.text[places[edge - 1][1] : places[edge][0]] if places and 0 < edge < len(tokens) else ""
        if edge in spans:
            yield 0
        elif edge in (0, len(tokens)) or len(between.splitlines()) > 1:
            yield 3
        else:
            before = edge - 1
            while before > 0 and tokens[before] in _CLOSING:
                before -= 1
            yield 2 if tokens[before] and tokens[before][-1] in _ENDS and not tokens[edge][:1].islower() else 1
