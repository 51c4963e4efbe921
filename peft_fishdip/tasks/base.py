"""What a task is: records into text and generated text into records.

A sixth task is one file with one subclass of `Task`; reading, generation, scoring, round-trip tables and
`datasets` conversion work with it as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from .checks import OF_A_ROW, check_lists
from .grammar import Grammar, Pieces
from .offsets import TextSpan, spans_of, to_offsets
from .records import JointExample, NerExample, RelationExample, SrlExample

E = TypeVar("E")


@dataclass(frozen=True)
class Problem:
    """Something that was met and cannot be carried over.

    From `encode`: "crossing_span", "blank_boundary", ... (each task documents its own).
    From `decode`, with the names of the reference: "format_error", "label_error", "entity_error",
    "wrong_reconstruction"; and "alignment_error" and "partial_token" for brackets that are left out because they
    stand on no word of the sentence, or begin or end inside a token.
    From readers of documents: "trimmed_span" and "offsets_converted", by which nothing is lost, and "blank_span",
    "discontinuous_span", "relation_of_lost_span", "relation_on_first_label" and "annotation_left_out".
    From `predict`: "source_cut" (the model has not read the whole source), "output_cut" (it was stopped before the end
    of its text, or would have written more) and "cut_into_windows" (it has read the whole source, but not at once).
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
    """What `decode` gives: a record of the task's type, the problems met, and the text they stand in.

    `scores` are probabilities, one for each of the task's `answers` in the prediction; `predict` adds them, and
    `confidence`: the probability of the whole labelled text per word of it (the geometric mean), which tells of answers
    that may be missing, too; of a text that was read in windows, the lowest one; None of a text that was cut.
    """

    prediction: E
    problems: tuple[Problem, ...]
    text: str
    scores: tuple[float, ...] = ()
    confidence: float | None = field(default=None, compare=False)

    @property
    def text_spans(self) -> list[TextSpan]:
        """The spans as characters of the raw text that was predicted, `text[start:end]`; see `to_offsets`.

        Entities, roles, or the head and then the tail of a relation, which have no scores, since they were given.
        """
        record = self.prediction
        if isinstance(record, RelationExample):
            return to_offsets(record)
        if not isinstance(record, NerExample | JointExample | SrlExample):
            kind = type(record).__name__
            raise TypeError(f"{kind} has no spans; text_spans are those of entities, roles, and heads and tails")
        return to_offsets(record, scores=self.scores[: len(spans_of(record))] or None)


class Task(ABC, Generic[E]):
    """One task in the augmented format. `E` is its record type."""

    name: ClassVar[str]
    example_type: ClassVar[type]
    truncation_side: ClassVar[str] = "right"
    """Which end of a source that is too long is cut off, where `shorten` cannot shorten it enough."""
    splits_documents: ClassVar[bool] = False
    """Whether a long text can be read in windows: the records are NerExamples or JointExamples."""

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
            f"got {type(item).__name__}{OF_A_ROW if isinstance(item, Mapping) else ''}"
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

    def grammar(self, example: E | str | Sequence[str], pieces: Pieces) -> Grammar | None:
        """What a model may write for an example, of which `decode` tells; with None, the default, anything.

        Every target is to be among it, and `decode` is to read all of it without problems.
        """
        return None

    def has_own_grammar(self) -> bool:
        """Whether `grammar` was written for this `target` and `decode`: a subclass may have changed these alone."""
        classes = type(self).__mro__
        grammar, target, decode = (
            next(i for i, kind in enumerate(classes) if name in vars(kind)) for name in ("grammar", "target", "decode")
        )
        return grammar <= min(target, decode)

    def answers(self, example: E) -> Sequence[Hashable]:
        """What an example says, piece by piece: spans and the like, each of which is right or wrong.

        By default nothing, and predictions then have no scores.
        """
        return ()

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
    """Refuse to score what are no lists, or lists that cannot belong together."""
    check_lists(gold=gold, predicted=predicted)
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold examples but {len(predicted)} predictions; pass one per example")
