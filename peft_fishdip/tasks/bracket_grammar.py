"""The sentence as it stands, with brackets around spans of its tokens: NER, SRL, and entities with relations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise, starmap
from math import exp, inf
from typing import Any, NamedTuple

from .copying import LONGEST_PART, SentenceParts
from .grammar import IMPOSSIBLE, Grammar, Option, Pieces, Written
from .labels import Labels
from .records import Span, SrlExample
from .text import fold, normalize, sentence

Place = tuple[int, int]
"""Words from the first number to before the second."""

_TEXT, _LABEL, _TAGS, _RELATION, _TAIL = "text", "label", "tags", "relation", "tail"
_MOST_TRIES = 500
MOST_AT_ONE_WORD = 4
"""How many brackets may begin at one word: a model that has lost its way writes one after another."""


class _State(NamedTuple):
    """Where the writer is.

    Attributes:
        part: in the sentence, before a label, after a label or tail, before a relation, or inside a tail.
        place: how many words of the sentence are written.
        open: first words of the open brackets, the innermost last.
        closed: places of the brackets that are closed.
        due: the names of tails that no closed bracket has yet, each with the place planned for its bracket.
        tags: relations and names of tails that the innermost bracket has already.
        relation: of the tail that is being written.
        runs: places of the words of this tail so far; none before its first word.
        torn: whether a bracket must follow, because only a part of a token is written.
    """

    part: str = _TEXT
    place: int = 0
    open: tuple[int, ...] = ()
    closed: frozenset[Place] = frozenset()
    due: tuple[tuple[str, Place], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    relation: str = ""
    runs: tuple[Place, ...] = ()
    torn: bool = False


class BracketGrammar(Grammar):
    """Brackets nest, unless without relations they are `flat`, hold a known label, and begin and end with tokens that
    leave a trace in text.

    A relation's tail is the words of a bracket: of one that is closed, or of one that can still follow, and then does:
    a place is kept for its bracket until one of that name is closed.
    """

    def __init__(
        self,
        pieces: Pieces,
        tokens: Sequence[str],
        labels: Labels,
        relations: Labels | None = None,
        *,
        split: bool = False,
        flat: bool = False,
    ) -> None:
        self.pieces = pieces
        self.flat = flat
        self.start = _State()
        self.labels = labels.names
        self.relations = relations.names if relations else {}
        self.parts = SentenceParts(pieces, tokens, split)
        self.count = self.parts.count
        self._compared = fold if split else normalize  # without spaces, which do not show where tokens were split
        self.closing = self.length("|") + min(map(self.length, self.labels.values()), default=0) + self.length("]")
        self.name = lru_cache(maxsize=None)(self._name)
        self._find = lru_cache(maxsize=None)(self._occurrences)
        self._goals = lru_cache(maxsize=None)(self._goal)
        self._after = lru_cache(maxsize=None)(self._after_bracket)

    def _name(self, place: Place) -> str:
        """The words of a bracket or tail as they are compared."""
        return self._compared(self.parts.text(*place))

    @property
    def room(self) -> int:
        """A bracket with the longest label around each word, and a relation in it."""
        names = [self.labels.values(), [f"| {name} =" for name in self.relations.values()]]
        tags = sum(max(map(self.length, some), default=0) for some in names)
        each = self.length("[") + self.length("|") + tags + self.length("]")
        copies = 2 if self.relations else 1
        return copies * self.parts.length(0, self.count) + self.parts.num_words * each + 8

    def options(self, state: _State) -> list[Option]:
        return [*getattr(self, f"_in_{state.part}")(state)]

    def _in_text(self, state: _State) -> Iterator[Option]:
        place, top = state.place, state.open[-1] if state.open else None
        if top is not None and top < place:
            yield Option("|", state._replace(part=_LABEL, torn=False), ("close",))
        if place < self.count:
            for end in () if state.torn else self.parts.ends(place):
                torn = self.parts.is_inside(end)
                if (then := self._with_due(state._replace(place=end, torn=torn))) is not None:
                    yield Option(self.parts.text(place, end), then, ("copy", end), is_default=True)
            opened = state._replace(open=(*state.open, place), torn=False)
            nests = self.flat and state.open
            may_open = self.labels and not nests and state.open.count(place) < MOST_AT_ONE_WORD
            if may_open and (then := self._with_due(opened)) is not None:
                yield Option("[", then, ("open",))
        elif top is None:
            yield Option(self.parts.unwritten, None)

    def _in_label(self, state: _State) -> Iterator[Option]:
        then = state._replace(part=_TAGS)
        for label, name in self.labels.items():
            yield Option(name, then, ("label", label))

    def _in_tags(self, state: _State) -> Iterator[Option]:
        if (then := self._after(state)) is not None:
            yield Option("]", then, ("end",))
        if self.relations:
            yield Option("|", state._replace(part=_RELATION), ("relation", None))

    def _in_relation(self, state: _State) -> Iterator[Option]:
        for label, name in self.relations.items():
            yield Option(f"{name} =", state._replace(part=_TAIL, relation=label), ("relation", label))

    def _in_tail(self, state: _State) -> Iterator[Option]:
        if state.runs and self._allows(state, state.runs[0]):
            yield from self._in_tags(self._with_tail(state))
        following: dict[str, list[Place]] = {}
        for start, end in state.runs or self._starts(state):
            for then in self._ends(state, start, end) if end < self.count else ():
                if self._goals(state._replace(runs=()), (start, then)):
                    following.setdefault(self.parts.text(end, then), []).append((start, then))
        for words, runs in following.items():
            yield Option(words, state._replace(runs=tuple(runs)), ("tail", words))

    def rest(self, state: _State | None) -> int:
        if state is None:
            return 0
        if state.part == _TEXT:
            missing = {start for _, (start, _) in state.due if start >= state.place}
            more = sum(
                max(0, sum(start == place[0] for _, place in state.due) - state.open.count(start)) for start in missing
            )
            more += state.torn and bool(state.due or not state.open)  # those that are open may be kept for tails
            brackets = (len(state.open) + more) * self.closing + more * self.length("[")
            cuts = sorted({cut for _, place in state.due for cut in place if cut > state.place})
            return sum(starmap(self.parts.length, pairwise([state.place, *cuts, self.count]))) + brackets
        bracket = self._innermost(state)
        after = self._after(state)
        if state.part == _LABEL:
            return self.closing - self.length("|") + (IMPOSSIBLE if after is None else self.rest(after))
        if state.part == _TAGS:
            return self.length("]") + (IMPOSSIBLE if after is None else self.rest(after))
        if state.part == _RELATION:
            relation = min(self.length(f"{name} =") for name in self.relations.values())
            return relation + self.rest(state._replace(part=_TAIL))
        if not state.runs:  # the bracket's own words can always be the tail
            return self.parts.length(*bracket) + self.length("]") + (IMPOSSIBLE if after is None else self.rest(after))
        return min(
            self.parts.length(run[1], end) + self.rest(self._with_tail(state._replace(runs=((run[0], end),))))
            for run in state.runs
            if (end := self._goals(state._replace(runs=()), run))
        )

    def _innermost(self, state: _State) -> Place:
        return state.open[-1], state.place

    def _after_bracket(self, state: _State) -> _State | None:
        """The state after the innermost bracket is closed."""
        place = self._innermost(state)
        if not self.relations:
            return _State(place=state.place, open=state.open[:-1])
        name = self.name(place)
        due = tuple(item for item in state.due if item[0] != name)
        then = _State(place=state.place, open=state.open[:-1], closed=state.closed | {place}, due=due)
        return self._with_due(then)

    # Tails

    def _starts(self, state: _State) -> list[Place]:
        """Where a tail may begin, without words yet."""
        heads = self.parts.heads
        known = {self._innermost(state)[0], *(start for start, _ in state.closed), *state.open}
        return [(start, start) for start in sorted(known | {*heads[bisect_left(heads, state.place) :]})]

    def _ends(self, state: _State, start: int, end: int) -> Iterator[int]:
        """Up to where a tail that begins at `start` may be written next, of the token that follows `end`."""
        known = {last for first, last in (self._innermost(state), *state.closed) if first == start}
        for then in self.parts.ends(end):
            if then - end <= LONGEST_PART or not self.parts.is_inside(then) or then in known:
                yield then

    def _with_tail(self, state: _State) -> _State:
        """The state after a tail, which must be allowed."""
        name, after, due = self.name(state.runs[0]), self._after(state), state.due
        if after is not None and not self._stands(state, name):
            due = self._planned(after, [*(kept for kept, _ in after.due), name]) or due
        tags = (*state.tags, (state.relation, name))
        return state._replace(part=_TAGS, tags=tags, relation="", runs=(), due=due)

    def _stands(self, state: _State, name: str) -> bool:
        """Whether a bracket of that name is closed, is being closed, or has a place that is kept for it."""
        places = {self._innermost(state), *state.closed}
        return any(name == kept for kept, _ in state.due) or any(self.name(place) == name for place in places)

    def _allows(self, state: _State, run: Place) -> bool:
        """Whether a tail may be these words."""
        name = self.name(run)
        if name == self.name(self._innermost(state)):
            return True
        tag = state.relation, name
        if not name or (tag in state.tags and state.tags.count(tag) >= MOST_AT_ONE_WORD * len(self._find(name))):
            return False  # there are no more entities of that name
        after = self._after(state)
        if after is None or self._stands(state, name):
            return after is not None
        if run[0] >= after.place and _fits(after, [*(place for _, place in after.due), run]):
            return True
        return self._planned(after, [*(kept for kept, _ in after.due), name]) is not None

    def _goal(self, state: _State, run: Place) -> int | None:
        """The nearest end at which these words, and those after them, may be a tail."""
        ends = range(run[1], self.count + 1)
        return next((end for end in ends if self._allows(state, (run[0], end))), None)

    def _occurrences(self, name: str) -> list[Place]:
        """Places of a name, the last one first."""
        sentence, starts, ends = self._sentence
        found, at = list[Place](), sentence.find(name)
        while at >= 0:
            start, end = starts.get(at), ends.get(at + len(name))
            if start is not None and end is not None and self.name((start, end)) == name:
                found.append((start, end))
            at = sentence.find(name, at + 1)
        return found[::-1]

    @cached_property
    def _sentence(self) -> tuple[str, Mapping[int, int], Mapping[int, int]]:
        """What the parts say as it is compared, and the parts that begin and end at its characters."""
        text, starts, ends = "", dict[int, int](), dict[int, int]()
        for i in range(self.count):
            text += " " if text and self._compared is normalize else ""
            starts[len(text)] = i
            text += self.name((i, i + 1))
            ends[len(text)] = i + 1
        return text, starts, ends

    # Places that are kept for the names of tails

    def _with_due(self, state: _State) -> _State | None:
        """The state with places that can still be reached; None if there are none for all names."""
        if not state.due or _fits(state, [place for _, place in state.due]):
            return state
        due = self._planned(state, [name for name, _ in state.due])
        return None if due is None else state._replace(due=due)

    def _planned(self, state: _State, names: Sequence[str]) -> tuple[tuple[str, Place], ...] | None:
        """A place for the bracket of each name; None if none is found in a limited number of tries."""
        tries = 0

        def choose(chosen: list[Place]) -> list[Place] | None:
            nonlocal tries
            if len(chosen) == len(names):
                return chosen
            for place in self._find(names[len(chosen)]):
                tries += 1
                if tries > _MOST_TRIES:
                    return None
                if _fits(state, [*chosen, place]) and (found := choose([*chosen, place])) is not None:
                    return found
            return None

        found = choose([])
        return None if found is None else tuple(zip(names, found, strict=True))

    # What was written

    def scores(self, written: Sequence[Written], prediction: Any) -> tuple[float, ...]:
        spans, relations = self._found(written)
        answers: Sequence[Span] = prediction.arguments if isinstance(prediction, SrlExample) else prediction.spans
        found = [exp(spans[span]) for span in answers]
        for relation in getattr(prediction, "relations", ()):
            tail = sentence(prediction.tokens[relation.tail.start : relation.tail.end])
            tag = relations[relation.head, relation.label, self._compared(tail)]
            found.append(exp(tag + spans[relation.head] + spans[relation.tail]))
        return tuple(found)

    def _found(self, written: Sequence[Written]) -> tuple[Mapping[Span, float], Mapping[tuple[Span, str, str], float]]:
        """Log-probabilities of spans, and of relations by head, label and name of the tail."""
        found: list[tuple[Place, str, float, list[tuple[str, list[str], float]]]] = []
        relations: dict[tuple[Span, str, str], float] = {}
        open_brackets: list[tuple[int, float]] = []
        tags: list[tuple[str, list[str], float]] = []
        place, label = 0, ""
        for part in written:
            kind = part.event[0] if part.event else ""
            if kind == "copy":
                place = part.event[1]
            elif kind == "open":
                open_brackets.append((place, 0.0))
            elif kind == "label":
                label = part.event[1]
            elif kind == "relation" and part.event[1] is None:
                tags.append(("", [], 0.0))
            elif kind == "relation":
                tags[-1] = (part.event[1], [], tags[-1][2])
            elif kind == "tail":
                tags[-1][1].append(part.event[1])
            if kind in ("copy", "open", "close", "label") and open_brackets:
                start, logp = open_brackets.pop()
                open_brackets.append((start, logp + part.logp))
            elif kind in ("relation", "tail"):
                tags[-1] = (*tags[-1][:2], tags[-1][2] + part.logp)
            elif kind == "end":
                start, logp = open_brackets.pop()
                found.append(((start, place), label, logp, tags))
                tags = []
        spans: dict[Span, float] = {}
        unlabelled = self.parts.spans([place for place, *_ in found])
        for bracket, label, logp, some in found:
            span = replace(unlabelled[bracket], label=label)
            spans[span] = max(spans.get(span, -inf), logp)
            for relation, words, tag in some:
                key = span, relation, self._compared(" ".join(words))
                relations[key] = max(relations.get(key, -inf), tag)
        return spans, relations


def _fits(state: _State, places: Sequence[Place]) -> bool:
    """Whether a bracket can stand at each of these places, beside those that are open."""
    for start, end in places:
        if start < state.place:
            can_close = end > state.place or (end == state.place and state.open[-1:] != (state.place,))
            if not can_close or sum(start == other for other, _ in places) > state.open.count(start):
                return False
        if any(start < other < end < other_end for other, other_end in places):
            return False
        if sum(start == other for other, _ in places) > MOST_AT_ONE_WORD:
            return False
    return True
