"""What a task is: records into text and generated text into records.

A sixth task is one file with one subclass of `Task`; reading, generation, scoring, round-trip tables and
`datasets` conversion work with it as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

E = TypeVar("E")


@dataclass(frozen=True)
class Problem:
    """Something that was met and cannot be carried over.

    From `encode`: "crossing_span", "blank_boundary", ... (each task documents its own).
    From `decode`, with the names of the reference: "format_error", "label_error", "entity_error",
    "wrong_reconstruction"; and "alignment_error" and "partial_token" for brackets that are left out because they
    stand on no word of the sentence, or begin or end inside a token.
    From `predict`: "source_cut" (the model has not read the whole source) and "output_cut" (it was stopped before
    the end of its text).
    """

    kind: str
    message: str


class Encoded(NamedTuple):
    """What `encode` gives: text for the encoder, text for the decoder, and what they could not carry."""

    source: str
    target: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Decoded(Generic[E]):
    """What `decode` gives: a record of the task's type, the problems met, and the text they stand in."""

    prediction: E
    problems: tuple[Problem, ...]
    text: str


class Task(ABC, Generic[E]):
    """One task in the augmented format. `E` is its record type."""

    name: ClassVar[str]
    example_type: ClassVar[type]
    truncation_side: ClassVar[str] = "right"
    """Which end of a source that is too long is cut off, where `shorten` cannot shorten it enough."""

    @abstractmethod
    def from_text(self, text: str) -> E:
        """An unlabelled record from a raw text."""

    def from_tokens(self, tokens: Sequence[str]) -> E:
        """An unlabelled record from a tokenised sentence, for the tasks where that is enough."""
        raise TypeError(
            f"the task {self.name!r} needs a {self.example_type.__name__} or a raw text, got {type(tokens).__name__}"
        )

    def as_example(self, item: E | str | Sequence[str]) -> E:
        """A record of this task from a record, a raw text or tokens."""
        if isinstance(item, self.example_type):
            return cast(E, item)
        if isinstance(item, str):
            return self.from_text(item)
        if isinstance(item, Sequence):
            return self.from_tokens(item)
        raise TypeError(
            f"the task {self.name!r} takes {self.example_type.__name__} records, raw texts or tokens, "
            f"got {type(item).__name__}"
        )

    @abstractmethod
    def source(self, example: E) -> str:
        """What the model reads; labels of the example, if any, are not looked at."""

    @abstractmethod
    def target(self, example: E) -> tuple[str, list[Problem]]:
        """What the model is to write, and what of the example that text cannot carry.

        Raises ValueError for a label the task does not know.
        """

    def encode(self, example: E) -> Encoded:
        """Source and target text of an example, and the problems met. Raises as `target` does."""
        if not isinstance(example, self.example_type):
            kind = self.example_type.__name__
            raise TypeError(f"the task {self.name!r} encodes {kind} records, got {type(example).__name__}")
        target, problems = self.target(example)
        return Encoded(self.source(example), target, tuple(problems))

    def shorten(self, example: E, fits: Callable[[str], bool]) -> E:
        """The part of an example that the model is to read where the whole source is too long.

        `fits` says whether a source is short enough. By default the example itself: the source is then cut off at
        `truncation_side`, and the prediction is read as one for the whole example.
        """
        return example

    def restore(self, example: E, prediction: E) -> E:
        """A prediction for what `shorten` made of an example, as one for the whole example."""
        return prediction

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        """Refuse, with ValueError, a tokenizer that changes names of labels so that they cannot be read back.

        `write` gives a text as it comes out of the tokenizer's pieces. By default nothing is checked.
        """

    @abstractmethod
    def decode(self, example: E | str | Sequence[str], text: str) -> Decoded[E]:
        """Typed prediction in a generated text. Never raises for what a model may generate.

        `example` is what the text was generated for: a record (its labels are ignored), a raw text, or
        tokens where the task is about nothing but a sentence.
        """

    @abstractmethod
    def score(self, gold: Sequence[E], predicted: Sequence[Decoded[E]], *, reference: bool = False) -> Scores:
        """The task's metrics, by name; values lie between 0 and 1.

        `reference=True` gives the numbers of the reference implementation where they differ.
        """

    def items(self, example: E) -> Mapping[str, Set[Hashable]]:
        """What the F1 scores of `score` compare: a set of items by the metric's name; empty for a task without any.

        An F1 is the one of `micro_f1` over these sets of all examples.
        """
        return {}


Scores = Mapping[str, float]


def check_lengths(gold: Sequence[Any], predicted: Sequence[Any]) -> None:
    """Refuse to score lists that cannot belong together."""
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold examples but {len(predicted)} predictions; pass one per example")
