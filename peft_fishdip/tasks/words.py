"""Records as words under labels, for the tasks that spans of words can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from .base import Problem, Task
from .dst import DstTask
from .ner import NerTask
from .places import as_read, word_edges, words_read
from .records import DstExample, NerExample, SlotValue, Span, SrlExample, nearest_tokens
from .srl import SrlTask
from .text import fold, token_ranges

E = TypeVar("E")


class Words(Protocol[E]):
    """What a model reads and labels in the examples of a task.

    Attributes:
        labels: of the spans.
    """

    labels: list[str]

    def words(self, example: E) -> list[str]:
        """What the model reads."""

    def spans(self, example: E) -> tuple[list[Span], list[Problem]]:
        """What there is to find, and what spans cannot say. Raises ValueError for a label that the task lacks."""

    def found(self, example: E, spans: Sequence[Span]) -> E:
        """The example with these spans in place of its own."""

    def by_importance(self, example: E) -> list[int]:
        """All positions of words; where there are too many words, the last of these are not read."""


class SentenceWords:
    """The words of a sentence, and its entities.

    `spans` reports "partial_word" for one that begins or ends inside a word of the raw text.
    """

    def __init__(self, task: NerTask) -> None:
        self.task = task
        self.labels = [*task.labels.names]

    def words(self, example: NerExample) -> list[str]:
        return [*words_read(example)]

    def spans(self, example: NerExample) -> tuple[list[Span], list[Problem]]:
        for span in example.spans:
            self.task.labels.name(span.label)
        word = {token: number for number, token in enumerate(word_edges(example))}
        inside = [span for span in example.spans if span.start not in word or span.end not in word]
        whole = [Span(word[x.start], word[x.end], x.label) for x in example.spans if x not in inside]
        return whole, [Problem("partial_word", f"{span} begins or ends inside a word") for span in inside]

    def found(self, example: NerExample, spans: Sequence[Span]) -> NerExample:
        return replace(as_read(example), spans=tuple(spans))

    def by_importance(self, example: NerExample) -> list[int]:
        return [*range(len(words_read(example)))]


class PredicateWords:
    """The tokens of a sentence with brackets around the predicate, and its arguments."""

    def __init__(self, task: SrlTask) -> None:
        self.task = task
        self.labels = [*task.labels.names]

    def words(self, example: SrlExample) -> list[str]:
        start, end = example.predicate.start, example.predicate.end
        return [*example.tokens[:start], "[", *example.tokens[start:end], "]", *example.tokens[end:]]

    def spans(self, example: SrlExample) -> tuple[list[Span], list[Problem]]:
        for span in example.arguments:
            self.task.labels.name(span.label)
        places = self.places(example)
        return [Span(places[x.start], places[x.end - 1] + 1, x.label) for x in example.arguments], []

    def places(self, example: SrlExample) -> list[int]:
        """Of each token, its position among the words."""
        start, end = example.predicate.start, example.predicate.end
        return [i + (i >= start) + (i >= end) for i in range(len(example.tokens))]

    def found(self, example: SrlExample, spans: Sequence[Span]) -> SrlExample:
        token = {place: i for i, place in enumerate(self.places(example))}
        inside = [([token[i] for i in range(x.start, x.end) if i in token], x.label) for x in spans]
        return replace(example, arguments=tuple(Span(x[0], x[-1] + 1, label) for x, label in inside if x))

    def by_importance(self, example: SrlExample) -> list[int]:
        places, predicate = self.places(example), example.predicate
        tokens = len(places)
        order: list[int] = []
        for count in range(1, tokens + 1):
            order += set(nearest_tokens(count, [predicate], tokens)) - set(order)
        brackets = [predicate.start, predicate.end + 1]
        return [*brackets, *(places[i] for i in order)]


class Spoken(NamedTuple):
    """A word of a dialogue, and the place in its turn's text."""

    word: str
    turn: int
    start: int
    end: int


class DialogueWords:
    """The words of all turns, each after its speaker, and the values of slots that are said there.

    A value is sought from the end of the dialogue. `spans` reports "unspoken_value" for one that is nowhere said, such
    as "yes", or in no place that is free; an encoder cannot learn these.
    """

    def __init__(self, task: DstTask) -> None:
        slots = [(domain, slot) for domain, slots in task.ontology.items() for slot in slots]
        self.slots = {f"{domain}-{slot}": (domain, slot) for domain, slot in slots}
        self.labels = [*self.slots]
        if len(self.labels) < len(slots):
            raise ValueError("two slots of the ontology have the same name with their domain before it; rename one")

    def spoken(self, example: DstExample) -> Iterator[Spoken]:
        for number, turn in enumerate(example.turns):
            yield Spoken(f"{turn.speaker}:", number, 0, 0)
            for start, end in token_ranges(turn.text):
                yield Spoken(turn.text[start:end], number, start, end)

    def words(self, example: DstExample) -> list[str]:
        return [spoken.word for spoken in self.spoken(example)]

    def spans(self, example: DstExample) -> tuple[list[Span], list[Problem]]:
        spoken = [*self.spoken(example)]
        spans: list[Span] = []
        problems = []
        for entry in example.state:
            label = f"{entry.domain}-{entry.slot}"
            if label not in self.slots:
                known = ", ".join(self.labels)
                raise ValueError(f"example {example.id!r}: unknown slot {label!r}; this task knows {known}")
            taken = {i for span in spans for i in range(span.start, span.end)}
            place = last_place(entry.value, spoken, taken)
            if place is None:
                problems.append(Problem("unspoken_value", f"{entry} stands nowhere in the dialogue, or not by itself"))
            else:
                spans.append(Span(*place, label))
        return sorted(spans, key=lambda span: span.start), problems

    def found(self, example: DstExample, spans: Sequence[Span]) -> DstExample:
        """Of several values of a slot, the last one counts."""
        spoken = [*self.spoken(example)]
        state = {}
        for span in spans:
            first, last = spoken[span.start], spoken[span.end - 1]
            if first.turn == last.turn and first.end and self.slots.get(span.label):
                value = " ".join(example.turns[first.turn].text[first.start : last.end].split())
                state[span.label] = SlotValue(*self.slots[span.label], value)
        return replace(example, state=tuple(state.values()))

    def by_importance(self, example: DstExample) -> list[int]:
        return [*reversed(range(len(self.words(example))))]


def last_place(value: str, spoken: Sequence[Spoken], taken: set[int]) -> tuple[int, int] | None:
    """Where a value stands last, as the positions of its first word and after its last, on words that are not taken."""
    wanted = fold(value).casefold()
    for start in reversed(range(len(spoken))):
        read = ""
        for end in range(start, len(spoken)):
            if end in taken or spoken[end].turn != spoken[start].turn or not spoken[end].end:
                break
            read += fold(spoken[end].word).casefold()
            if read == wanted:
                return start, end + 1
            if not wanted.startswith(read):
                break
    return None


def words_of(task: Task[Any]) -> Words[Any]:
    """What a model reads and labels for a task.

    Raises:
        ValueError: spans of words cannot say what the task is about.
    """
    if isinstance(task, NerTask):
        return SentenceWords(task)
    if isinstance(task, SrlTask):
        return PredicateWords(task)
    if isinstance(task, DstTask):
        return DialogueWords(task)
    raise ValueError(
        f"the task {task.name!r} cannot be written as tags of words, so an encoder cannot do it; take a model that "
        "writes text, such as T5 or a causal LM, or NerTask for the entities alone"
    )
