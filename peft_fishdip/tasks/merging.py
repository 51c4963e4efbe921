"""Predictions for windows of a document, put together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate
from math import inf
from typing import Any, NamedTuple

from .base import Decoded, Problem
from .places import as_read, bounds, from_places, on_places
from .records import Relation, Span


class Found(NamedTuple):
    """A span of a document, in places, as some of its windows have it."""

    span: Span
    windows: frozenset[int]
    score: float | None
    distance: float


class Edges:
    """Where the windows of a document begin and end, in places. They are in order of their begins."""

    def __init__(self, places: Sequence[int], ranges: Sequence[tuple[int, int]]) -> None:
        self.windows = [(places[start], places[end]) for start, end in ranges]
        self.starts = [start for start, _ in self.windows]
        self.reach = [*accumulate((end for _, end in self.windows), max)]  # of halved windows, ends are not in order
        self.end = places[-1]

    def distance(self, window: int, start: int, end: int) -> float:
        """From the nearest edge beyond which the document goes on."""
        left, right = self.windows[window]
        return min(start - left if left else inf, right - end if right < self.end else inf)

    def best(self, *spans: Span) -> int:
        """The window in which some spans stand farthest from an edge, of those that hold them all."""
        start, end = min(span.start for span in spans), max(span.end for span in spans)
        some = range(bisect_left(self.reach, end), bisect_right(self.starts, start))
        holding = (window for window in some if end <= self.windows[window][1])
        return max(holding, key=lambda window: self.distance(window, start, end))


def merge(document: Any, ranges: Sequence[tuple[int, int]], results: Sequence[Decoded[Any]]) -> Decoded[Any]:
    """The prediction for a document from those for its windows, which are `ranges` of its tokens.

    A span is taken from the window in which it stands farthest from an edge; where spans have scores, from any window.
    Of spans of different windows that overlap, the one with the higher score is kept, or else the one farther from an
    edge; a span at an edge may be the rest of a longer one, and comes last. A relation is taken from the window in
    which head and tail stand farthest from an edge.
    """
    document = as_read(document)
    edges = Edges(bounds(document.tokens), ranges)
    found: dict[Span, Found] = {}
    relations: dict[Relation, float | None] = {}
    for window, result in enumerate(results):
        moved = _in_document(result.prediction, edges.windows[window][0])
        answers = len(moved.spans) + len(moved.relations)
        scores: Sequence[float | None] = result.scores if len(result.scores) == answers else [None] * answers
        for span, score in zip(moved.spans, scores, strict=False):
            here = Found(span, frozenset([window]), score, edges.distance(window, span.start, span.end))
            found[span] = _both(found[span], here) if span in found else here
        of_relations = zip(moved.relations, scores[len(moved.spans) :], strict=True)
        relations.update((x, score) for x, score in of_relations if edges.best(x.head, x.tail) == window)
    kept = _chosen(found.values(), edges)
    changes: dict[str, Any] = {"spans": tuple(kept)}
    if relations:
        changes["relations"] = tuple(x for x in relations if x.head in kept and x.tail in kept)
    prediction = replace(on_places(document), **changes)
    told = Problem("cut_into_windows", f"too long for the model at once: read in {len(ranges)} windows that overlap")
    problems = dict.fromkeys([told, *(problem for result in results for problem in result.problems)])
    found_scores = [kept[span].score for span in prediction.spans]
    found_scores += [relations[relation] for relation in getattr(prediction, "relations", ())]
    known = tuple(score for score in found_scores if score is not None)
    confidences = [result.confidence for result in results if result.confidence is not None]
    return replace(
        results[0],
        prediction=from_places(prediction, document.tokens, document.text),
        problems=tuple(problems),
        text="\n".join(result.text for result in results),
        scores=known if len(known) == len(found_scores) else (),
        confidence=min(confidences) if len(confidences) == len(results) else None,
    )


class _Moved(NamedTuple):
    spans: list[Span]
    relations: list[Relation]


def _in_document(prediction: Any, by: int) -> _Moved:
    """Spans and relations of a prediction for a window that begins at place `by`, in places of the document."""
    places = bounds(prediction.tokens)

    def move(span: Span) -> Span:
        return Span(by + places[span.start], by + places[span.end], span.label)

    relations = [Relation(move(x.head), move(x.tail), x.label) for x in getattr(prediction, "relations", ())]
    return _Moved([move(span) for span in prediction.spans], relations)


def _both(one: Found, other: Found) -> Found:
    scores = [score for score in (one.score, other.score) if score is not None]
    windows, distance = one.windows | other.windows, max(one.distance, other.distance)
    return Found(one.span, windows, max(scores, default=None), distance)


def _chosen(found: Collection[Found], edges: Edges) -> dict[Span, Found]:
    """The spans that are kept; see `merge`."""
    by_score = all(each.score is not None for each in found)
    if not by_score:
        found = [each for each in found if edges.best(each.span) in each.windows]

    def order(each: Found) -> tuple[bool, float, float]:
        return each.distance > 0, (by_score and each.score) or 0.0, each.distance

    kept: dict[Span, Found] = {}
    taken: dict[int, list[frozenset[int]]] = defaultdict(list)  # the windows of what is kept at each place
    for each in sorted(found, key=order, reverse=True):
        places = range(each.span.start, each.span.end)
        if not any(each.windows.isdisjoint(windows) for place in places for windows in taken[place]):
            kept[each.span] = each
            for place in places:
                taken[place].append(each.windows)
    return kept
