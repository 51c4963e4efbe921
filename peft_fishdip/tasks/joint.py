"""Joint entity and relation extraction: `[ John Smith | person | works for = Acme ] works for ...`

A relation stands on its head and names its tail by the words of the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .base import Decoded, Problem, Scores, Task
from .bracket_grammar import BracketGrammar
from .brackets import LabelledBracket, read_brackets, readable, write_brackets
from .copying import is_name
from .grammar import Pieces
from .labels import Labels
from .lengths import shortened
from .metrics import items_f1
from .places import as_read, bounds, comparable, whole, words_read
from .records import JointExample, Relation, Span
from .text import fold, normalize, sentence, tokenize


class JointTask(Task[JointExample]):
    """Entities of a sentence and the relations between them.

    `encode` reports what NerTask does, "relation_of_lost_span" (its head or tail could not be written) and
    "ambiguous_tail" (the tail's words also name a nearer entity, so that reading the target gives another relation).
    In a raw text it reports "partial_tail", too: a tail after its head that begins within letters or digits, or ends
    within a word after more than 16 characters of it.
    """

    name: ClassVar[str] = "joint"
    example_type: ClassVar[type] = JointExample
    splits_documents: ClassVar[bool] = True

    def __init__(
        self,
        entity_labels: Mapping[str, str] | Iterable[str],
        relation_labels: Mapping[str, str] | Iterable[str],
    ) -> None:
        self.entity_labels = Labels(entity_labels, "entity type")
        self.relation_labels = Labels(relation_labels, "relation")

    def from_text(self, text: str) -> JointExample:
        return JointExample(tokenize(text), text=text)

    def from_tokens(self, tokens: Sequence[str]) -> JointExample:
        return JointExample(tuple(tokens))

    def source(self, example: JointExample) -> str:
        return sentence(words_read(example))

    def target(self, example: JointExample) -> tuple[str, list[Problem]]:
        kept, problems = readable(example)
        tags = {span: [self.entity_labels.name(span.label)] for span in kept.spans}
        for relation in kept.relations:
            tail = sentence(kept.tokens[relation.tail.start : relation.tail.end])
            tags[relation.head].append(f"{self.relation_labels.name(relation.label)} = {tail}")
        target, more = write_brackets(kept.tokens, list(tags.items()))
        problems += more
        lost = "has lost an entity"
        count = len(example.relations) - len(kept.relations)
        problems += [Problem("relation_of_lost_span", f"a relation {lost} inside a character")] * count
        if kept.relations:
            written, read = comparable(kept, self.decode(example, target).prediction)
            for relation, same in zip(kept.relations, written.relations, strict=True):
                if same.head not in read.spans or same.tail not in read.spans:
                    problems.append(Problem("relation_of_lost_span", f"{relation} {lost}"))
                elif same not in read.relations:
                    problems.append(Problem("ambiguous_tail", f"{relation} reads as one with another tail"))
                elif example.text and not _may_be_written(kept, relation):
                    tail = sentence(kept.tokens[relation.tail.start : relation.tail.end])
                    message = f"the tail {tail!r} is a part of a word after its head"
                    problems.append(Problem("partial_tail", f"{message}; only a model without a grammar can write it"))
        return target, problems

    def shorten(self, example: JointExample, fits: Callable[[str], bool]) -> JointExample:
        """The first tokens, as many as fit, and what stands on them."""
        return shortened(example, lambda part: fits(self.source(part)))

    def restore(self, example: JointExample, prediction: JointExample) -> JointExample:
        return whole(example, prediction)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.entity_labels.check(write)
        self.relation_labels.check(write, "[ x | x | {} = x ]")

    def decode(self, example: JointExample | str | Sequence[str], text: str) -> Decoded[JointExample]:
        example = as_read(self.as_example(example))
        tokens, found, problems = read_brackets(
            example.tokens, text, self.entity_labels, self.relation_labels, split=bool(example.text)
        )
        relations = _resolve_tails(found, problems, fold if example.text else normalize)
        prediction = JointExample(tokens, tuple(b.span for b in found), tuple(relations), example.id, example.text)
        return Decoded(prediction, tuple(problems), text)

    def grammar(self, example: JointExample | str | Sequence[str], pieces: Pieces) -> BracketGrammar:
        example = as_read(self.as_example(example))
        return BracketGrammar(
            pieces, example.tokens, self.entity_labels, self.relation_labels, split=bool(example.text)
        )

    def answers(self, example: JointExample) -> tuple[Span | Relation, ...]:
        return example.spans + example.relations

    def items(self, example: JointExample) -> dict[str, set[Any]]:
        return {"entity_f1": set(example.spans), "relation_f1": set(example.relations)}

    def score(
        self,
        gold: Sequence[JointExample],
        predicted: Sequence[Decoded[JointExample]],
        *,
        reference: bool = False,
    ) -> Scores:
        entities = items_f1(self, "entity_f1", gold, predicted)
        relations = items_f1(self, "relation_f1", gold, predicted)
        return entities.as_dict("entity_") | relations.as_dict("relation_")


def _may_be_written(example: JointExample, relation: Relation) -> bool:
    """Whether the grammar of the raw text has this tail: that of an earlier bracket, or a name that may follow."""

    def name(span: Span) -> str:
        return fold(sentence(example.tokens[span.start : span.end]))

    head, tail = relation.head, relation.tail
    if tail.start < head.end or any(span.end <= head.end and name(span) == name(tail) for span in example.spans):
        return True
    places = bounds(example.tokens)
    return is_name(words_read(example), places[tail.start], places[tail.end])


def _resolve_tails(
    found: list[LabelledBracket], problems: list[Problem], compared: Callable[[str], str]
) -> set[Relation]:
    """The relations of all brackets; a tail that names no entity, in words as they are compared, is an entity_error."""
    by_name: dict[str, list[Span]] = {}
    for bracket in found:
        by_name.setdefault(compared(bracket.name), []).append(bracket.span)
    relations: set[Relation] = set()
    for bracket in found:
        for label, name in bracket.relations:
            if compared(name) not in by_name:
                problems.append(Problem("entity_error", f"the tail {name!r} of {label!r} is no entity"))
                continue
            head = bracket.span
            # The nearest entity of that name, the head itself last; the next one if that relation is there already.
            tails = by_name[compared(name)]
            for tail in sorted(tails, key=lambda t: (t == head, min(abs(t.start - head.end), abs(head.start - t.end)))):
                relation = Relation(head, tail, label)
                if relation not in relations:
                    relations.add(relation)
                    break
    return relations
