"""Named entity recognition: `[ John Smith | person ] works for [ Acme | organization ] .`"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from .base import Decoded, Problem, Scores, Task
from .brackets import read_brackets, write_brackets
from .labels import Labels
from .lengths import longest
from .metrics import items_f1
from .records import NerExample, Span, on_tokens, shifted
from .text import sentence, tokenize


class NerTask(Task[NerExample]):
    """Entities of a sentence. `labels` maps the data set's labels to their natural names.

    A raw text is tokenised; a token in which a predicted entity begins or ends is split there.

    `encode` reports "crossing_span" and "blank_boundary".
    """

    name: ClassVar[str] = "ner"
    example_type: ClassVar[type] = NerExample

    def __init__(self, labels: Mapping[str, str] | Iterable[str]) -> None:
        self.labels = Labels(labels, "entity type")

    def from_text(self, text: str) -> NerExample:
        return NerExample(tokenize(text))

    def from_tokens(self, tokens: Sequence[str]) -> NerExample:
        return NerExample(tuple(tokens))

    def source(self, example: NerExample) -> str:
        return sentence(example.tokens)

    def target(self, example: NerExample) -> tuple[str, list[Problem]]:
        tagged = [(span, [self.labels.name(span.label)]) for span in example.spans]
        return write_brackets(example.tokens, tagged)

    def shorten(self, example: NerExample, fits: Callable[[str], bool]) -> NerExample:
        """The first tokens, as many as fit, and what stands on them."""
        count = longest(lambda n: fits(sentence(example.tokens[:n])), len(example.tokens))
        return on_tokens(example, range(count))

    def restore(self, example: NerExample, prediction: NerExample) -> NerExample:
        return shifted(prediction, example.tokens, 0)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.labels.check(write)

    def decode(self, example: NerExample | str | Sequence[str], text: str) -> Decoded[NerExample]:
        raw, example = isinstance(example, str), self.as_example(example)
        tokens, found, problems = read_brackets(example.tokens, text, self.labels, split=raw)
        prediction = NerExample(tokens, tuple(bracket.span for bracket in found), example.id)
        return Decoded(prediction, tuple(problems), text)

    def items(self, example: NerExample) -> dict[str, set[Span]]:
        return {"f1": set(example.spans)}

    def score(
        self, gold: Sequence[NerExample], predicted: Sequence[Decoded[NerExample]], *, reference: bool = False
    ) -> Scores:
        return items_f1(self, "f1", gold, predicted).as_dict()
