"""Relation classification (FewRel): which relation holds between two marked entities?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp
from typing import ClassVar

from .base import Decoded, Problem, Scores, Task, check_lengths
from .brackets import write_brackets
from .grammar import Grammar, Option, Pieces, Written
from .labels import Labels
from .lengths import longest
from .records import RelationExample, Span, nearest_tokens, on_tokens
from .srl import split_marked
from .text import sentence


class RelationTask(Task[RelationExample]):
    """One relation between the head and the tail of a sentence.

    Source: `[ Born Bright ] is a [ Dido ] film . The relationship between [ Born Bright ] and [ Dido ] is`;
    target: `relationship between [ Born Bright ] and [ Dido ] = director`. Raw texts mark the head first and
    the tail second. Head and tail may nest, other than in the reference; where they cross, only the question
    names the second, and `encode` reports "crossing_span". Of a sentence that is too long, the parts around head and
    tail are kept, and the question always.
    """

    name: ClassVar[str] = "relation"
    example_type: ClassVar[type] = RelationExample
    truncation_side: ClassVar[str] = "left"

    def __init__(self, labels: Mapping[str, str] | Iterable[str]) -> None:
        self.labels = Labels(labels, "relation")

    def from_text(self, text: str) -> RelationExample:
        tokens, (head, tail) = split_marked(text, 2, "head and tail, as in '[ Ann ] lives in [ Oslo ]'")
        return RelationExample(tokens, head, tail, text=text)

    def source(self, example: RelationExample) -> str:
        marked, _ = _marked(example)
        return f"{marked} The relationship between {_pair(example)} is"

    def target(self, example: RelationExample) -> tuple[str, list[Problem]]:
        if example.label is None:
            raise ValueError(f"example {example.id!r} has no label, so there is no target to write")
        _, problems = _marked(example)
        return self.candidate(example, example.label), problems

    def candidate(self, example: RelationExample, label: str) -> str:
        """The target for any label, right or not."""
        return f"relationship between {_pair(example)} = {self.labels.name(label)}"

    def shorten(self, example: RelationExample, fits: Callable[[str], bool]) -> RelationExample:
        """Head, tail and as many tokens around them as fit beside the question; "..." for a gap between the two."""
        anchors = [example.head, example.tail]
        least = sum(any(span.start <= i < span.end for span in anchors) for i in range(len(example.tokens)))

        def part(count: int) -> RelationExample:
            return on_tokens(example, nearest_tokens(max(count, least), anchors, len(example.tokens)), gap="...")

        return part(longest(lambda count: fits(self.source(part(count))), len(example.tokens)))

    def restore(self, example: RelationExample, prediction: RelationExample) -> RelationExample:
        return replace(example, label=prediction.label)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.labels.check(write, "[ x ] and [ x ] = {} ")

    def decode(self, example: RelationExample | str | Sequence[str], text: str) -> Decoded[RelationExample]:
        example = self.as_example(example)
        _, equals, name = text.rpartition("=")
        name = " ".join(name.split())
        label = self.labels.label(name)
        problems = []
        if not equals:
            problems.append(Problem("format_error", "there is no '=' before the relation"))
        if label is None:
            problems.append(Problem("label_error", f"unknown relation {name!r}"))
        prediction = replace(example, label=label)
        return Decoded(prediction, tuple(problems), text)

    def grammar(self, example: RelationExample | str | Sequence[str], pieces: Pieces) -> RelationGrammar:
        return RelationGrammar(pieces, f"relationship between {_pair(self.as_example(example))} =", self.labels)

    def answers(self, example: RelationExample) -> tuple[str, ...]:
        return () if example.label is None else (example.label,)

    def score(
        self,
        gold: Sequence[RelationExample],
        predicted: Sequence[Decoded[RelationExample]],
        *,
        reference: bool = False,
    ) -> Scores:
        """Accuracy of the generated relation. With one relation per example, P = R = F1 = accuracy."""
        check_lengths(gold, predicted)
        right = sum(g.label == p.prediction.label for g, p in zip(gold, predicted, strict=True))
        return {"accuracy": right / len(gold) if gold else 0.0}


class RelationGrammar(Grammar):
    """A text and one of the labels' names."""

    def __init__(self, pieces: Pieces, text: str, labels: Labels) -> None:
        self.pieces = pieces
        self.start = 0
        self._options = [
            [Option(text, 1)],
            [Option(name, 2, ("label", label)) for label, name in labels.names.items()],
            [Option("", None, ("end",))],
        ]
        label = min(map(self.length, labels.names.values()), default=0)
        self._rest = [len(pieces.ids(text, first=True)) + label, label, 0]

    def options(self, state: int) -> list[Option]:
        return self._options[state]

    def rest(self, state: int) -> int:
        return self._rest[state]

    def scores(self, written: Sequence[Written], prediction: RelationExample) -> tuple[float, ...]:
        """Those of all labels add up to 1."""
        return (exp(sum(part.logp for part in written if part.event)),)


def _marked(example: RelationExample) -> tuple[str, list[Problem]]:
    return write_brackets(example.tokens, [(example.head, []), (example.tail, [])])


def _pair(example: RelationExample) -> str:
    def words(span: Span) -> str:
        return sentence(example.tokens[span.start : span.end])

    return f"[ {words(example.head)} ] and [ {words(example.tail)} ]"
