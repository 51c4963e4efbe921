"""Named entity recognition: `[ John Smith | person ] works for [ Acme | organization ] .`"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from .base import Decoded, Problem, Scores, Task
from .bracket_grammar import BracketGrammar
from .brackets import read_brackets, readable, write_brackets
from .grammar import Pieces
from .labels import Labels
from .lengths import shortened
from .metrics import items_f1
from .places import as_read, whole, words_read
from .records import NerExample, Span
from .text import sentence, tokenize


class NerTask(Task[NerExample]):
    """Entities of a sentence. `labels` maps the data set's labels to their natural names. Entities may nest; with
    `flat=True` a constrained model writes none inside another.

    A raw text is tokenised; a token in which a predicted entity begins or ends is split there.

    `encode` reports "crossing_span", "blank_boundary" and "lost_span" (of an example with a text, a span that begins or
    ends inside a character as it is normalised).
    """

    name: ClassVar[str] = "ner"
    example_type: ClassVar[type] = NerExample
    splits_documents: ClassVar[bool] = True

    def __init__(self, labels: Mapping[str, str] | Iterable[str], *, flat: bool = False) -> None:
        self.labels = Labels(labels, "entity type")
        self.flat = flat

    def from_text(self, text: str) -> NerExample:
        return NerExample(tokenize(text), text=text)

    def from_tokens(self, tokens: Sequence[str]) -> NerExample:
        return NerExample(tuple(tokens))

    def source(self, example: NerExample) -> str:
        return sentence(words_read(example))

    def target(self, example: NerExample) -> tuple[str, list[Problem]]:
        example, lost = readable(example)
        tagged = [(span, [self.labels.name(span.label)]) for span in example.spans]
        target, problems = write_brackets(example.tokens, tagged)
        return target, lost + problems

    def shorten(self, example: NerExample, fits: Callable[[str], bool]) -> NerExample:
        """The first tokens, as many as fit, and what stands on them."""
        return shortened(example, lambda part: fits(self.source(part)))

    def restore(self, example: NerExample, prediction: NerExample) -> NerExample:
        return whole(example, prediction)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.labels.check(write)

    def decode(self, example: NerExample | str | Sequence[str], text: str) -> Decoded[NerExample]:
        example = as_read(self.as_example(example))
        tokens, found, problems = read_brackets(example.tokens, text, self.labels, split=bool(example.text))
        prediction = NerExample(tokens, tuple(bracket.span for bracket in found), example.id, example.text)
        return Decoded(prediction, tuple(problems), text)

    def grammar(self, example: NerExample | str | Sequence[str], pieces: Pieces) -> BracketGrammar:
        example = as_read(self.as_example(example))
        return BracketGrammar(pieces, example.tokens, self.labels, split=bool(example.text), flat=self.flat)

    def answers(self, example: NerExample) -> tuple[Span, ...]:
        return example.spans

    def items(self, example: NerExample) -> dict[str, set[Span]]:
        return {"f1": set(example.spans)}

    def score(
        self, gold: Sequence[NerExample], predicted: Sequence[Decoded[NerExample]], *, reference: bool = False
    ) -> Scores:
        return items_f1(self, "f1", gold, predicted).as_dict()
