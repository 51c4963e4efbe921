"""Semantic role labelling, one predicate at a time: `[ The maker | ARG0 ] sold [ 1,214 cars | ARG1 ]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from .base import Decoded, Problem, Scores, Task
from .bracket_grammar import BracketGrammar
from .brackets import read_brackets, write_brackets
from .grammar import Pieces
from .labels import Labels
from .lengths import longest
from .metrics import Argument, joined_arguments, srl_f1
from .records import Span, SrlExample, nearest_tokens, on_tokens, shifted
from .text import sentence, tokenize


class SrlTask(Task[SrlExample]):
    """Arguments of one predicate, which the source marks: `The maker [ sold ] 1,214 cars`.

    Raw texts mark the predicate in the same way. `encode` reports "crossing_span" and "blank_boundary".
    """

    name: ClassVar[str] = "srl"
    example_type: ClassVar[type] = SrlExample

    def __init__(self, labels: Mapping[str, str] | Iterable[str]) -> None:
        self.labels = Labels(labels, "role")

    def from_text(self, text: str) -> SrlExample:
        tokens, marked = split_marked(text, 1, "the predicate, as in 'She [ sold ] the car'")
        return SrlExample(tokens, marked[0], text=text)

    def source(self, example: SrlExample) -> str:
        words = example.tokens
        start, end = example.predicate.start, example.predicate.end
        marked = f"{sentence(words[:start])} [ {sentence(words[start:end])} ] {sentence(words[end:])}"
        return " ".join(marked.split())

    def target(self, example: SrlExample) -> tuple[str, list[Problem]]:
        tagged = [(span, [self.labels.name(span.label)]) for span in example.arguments]
        return write_brackets(example.tokens, tagged)

    def shorten(self, example: SrlExample, fits: Callable[[str], bool]) -> SrlExample:
        """The predicate and the tokens around it, as many as fit, and the arguments on them."""

        def part(count: int) -> SrlExample:
            length, least = len(example.tokens), example.predicate.end - example.predicate.start
            return on_tokens(example, nearest_tokens(max(count, least), [example.predicate], length))

        return part(longest(lambda count: fits(self.source(part(count))), len(example.tokens)))

    def restore(self, example: SrlExample, prediction: SrlExample) -> SrlExample:
        whole = shifted(prediction, example.tokens, example.predicate.start - prediction.predicate.start)
        return replace(whole, text=example.text)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.labels.check(write)

    def decode(self, example: SrlExample | str | Sequence[str], text: str) -> Decoded[SrlExample]:
        example = self.as_example(example)
        _, found, problems = read_brackets(example.tokens, text, self.labels)
        prediction = replace(example, arguments=tuple(bracket.span for bracket in found))
        return Decoded(prediction, tuple(problems), text)

    def grammar(self, example: SrlExample | str | Sequence[str], pieces: Pieces) -> BracketGrammar:
        return BracketGrammar(pieces, self.as_example(example).tokens, self.labels)

    def answers(self, example: SrlExample) -> tuple[Span, ...]:
        return example.arguments

    def items(self, example: SrlExample) -> dict[str, set[Argument]]:
        return {"f1": joined_arguments(example.arguments)}

    def score(
        self, gold: Sequence[SrlExample], predicted: Sequence[Decoded[SrlExample]], *, reference: bool = False
    ) -> Scores:
        """Argument precision, recall and F1 of CoNLL-2005; see `metrics.srl_f1`."""
        found = [x.prediction.arguments for x in predicted]
        return srl_f1([x.arguments for x in gold], found, reference=reference).as_dict()


def split_marked(text: str, count: int, what: str) -> tuple[tuple[str, ...], list[Span]]:
    """Tokens of a raw text, and the spans of its `count` bracketed parts; ValueError otherwise."""
    parts = re.split(r"\[([^\[\]]*[^\[\]\s][^\[\]]*)\]", text)
    if len(parts) != 2 * count + 1 or any(c in part for part in parts for c in "[]"):
        raise ValueError(f"{text!r}: put brackets around {what}")
    tokens: list[str] = []
    marked = []
    for number, part in enumerate(parts):
        words = tokenize(part)
        if number % 2:
            marked.append(Span(len(tokens), len(tokens) + len(words)))
        tokens += words
    return tuple(tokens), marked
