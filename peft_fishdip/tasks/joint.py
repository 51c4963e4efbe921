"""Joint entity and relation extraction: `[ John Smith | person | works for = Acme ] works for ...`

A relation stands on its head and names its tail by the words of the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .base import Decoded, Problem, Scores, Task
from .brackets import LabelledBracket, read_brackets, write_brackets
from .labels import Labels
from .lengths import longest
from .metrics import items_f1
from .records import JointExample, Relation, Span, on_tokens, shifted
from .text import normalize, sentence, tokenize


class JointTask(Task[JointExample]):
    """Entities of a sentence and the relations between them.

    `encode` reports "crossing_span", "blank_boundary", "relation_of_lost_span" (its head or tail could not
    be written) and "ambiguous_tail" (the tail's words also name a nearer entity, so that reading the target
    gives another relation).
    """

    name: ClassVar[str] = "joint"
    example_type: ClassVar[type] = JointExample

    def __init__(
        self,
        entity_labels: Mapping[str, str] | Iterable[str],
        relation_labels: Mapping[str, str] | Iterable[str],
    ) -> None:
        self.entity_labels = Labels(entity_labels, "entity type")
        self.relation_labels = Labels(relation_labels, "relation")

    def from_text(self, text: str) -> JointExample:
        return JointExample(tokenize(text))

    def from_tokens(self, tokens: Sequence[str]) -> JointExample:
        return JointExample(tuple(tokens))

    def source(self, example: JointExample) -> str:
        return sentence(example.tokens)

    def target(self, example: JointExample) -> tuple[str, list[Problem]]:
        tags = {span: [self.entity_labels.name(span.label)] for span in example.spans}
        for relation in example.relations:
            tail = sentence(example.tokens[relation.tail.start : relation.tail.end])
            tags[relation.head].append(f"{self.relation_labels.name(relation.label)} = {tail}")
        target, problems = write_brackets(example.tokens, list(tags.items()))
        if example.relations:
            kept = self.decode(example, target).prediction
            for relation in example.relations:
                if relation.head not in kept.spans or relation.tail not in kept.spans:
                    problems.append(Problem("relation_of_lost_span", f"{relation} has lost an entity"))
                elif relation not in kept.relations:
                    problems.append(Problem("ambiguous_tail", f"{relation} reads as one with another tail"))
        return target, problems

    def shorten(self, example: JointExample, fits: Callable[[str], bool]) -> JointExample:
        """The first tokens, as many as fit, and what stands on them."""
        count = longest(lambda n: fits(sentence(example.tokens[:n])), len(example.tokens))
        return on_tokens(example, range(count))

    def restore(self, example: JointExample, prediction: JointExample) -> JointExample:
        return shifted(prediction, example.tokens, 0)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        self.entity_labels.check(write)
        self.relation_labels.check(write, "[ x | x | {} = x ]")

    def decode(self, example: JointExample | str | Sequence[str], text: str) -> Decoded[JointExample]:
        raw, example = isinstance(example, str), self.as_example(example)
        tokens, found, problems = read_brackets(
            example.tokens, text, self.entity_labels, self.relation_labels, split=raw
        )
        relations = _resolve_tails(found, problems)
        prediction = JointExample(tokens, tuple(b.span for b in found), tuple(relations), example.id)
        return Decoded(prediction, tuple(problems), text)

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


def _resolve_tails(found: list[LabelledBracket], problems: list[Problem]) -> set[Relation]:
    """The relations of all brackets; a tail that names no entity is an entity_error."""
    by_name: dict[str, list[Span]] = {}
    for bracket in found:
        by_name.setdefault(normalize(bracket.name), []).append(bracket.span)
    relations: set[Relation] = set()
    for bracket in found:
        for label, name in bracket.relations:
            if normalize(name) not in by_name:
                problems.append(Problem("entity_error", f"the tail {name!r} of {label!r} is no entity"))
                continue
            head = bracket.span
            # The nearest entity of that name, the head itself last; the next one if that relation is there already.
            tails = by_name[normalize(name)]
            for tail in sorted(tails, key=lambda t: (t == head, min(abs(t.start - head.end), abs(head.start - t.end)))):
                relation = Relation(head, tail, label)
                if relation not in relations:
                    relations.add(relation)
                    break
    return relations
