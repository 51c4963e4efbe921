"""In-context prediction: nothing is trained, the source shows solved examples before the query."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar, cast

from peft_fishdip.tasks import Decoded, Problem, Task, candidate_losses, evaluate, likelihood_accuracy
from peft_fishdip.tasks.base import Scores

E = TypeVar("E")


class InContextTask(Task[E]):
    """Another task whose sources begin with demonstrations, so that all of `peft_fishdip.tasks` works with it.

    Source: `Input: source of an example Output: its target Input: source of the query Output:`.

    Args:
        task: the task to be solved.
        examples: labelled examples to show. The seed draws k of them and their order, the same for each query.
        tokenizer: that of the model; counts tokens.
        max_length: tokens of a source, end mark included. A demonstration with which it would be longer is left out;
            a query that alone is longer is cut when it is tokenised.
        k: demonstrations at most; None for all.
        seed: draws them.
        slot: text that stands for the answer, in the query's source and before every target to be scored. A model
            that has only been pretrained to fill `<extra_id_0>` needs this here.

    Raises:
        ValueError: k or max_length is out of range, there are no examples, or one is unlabelled.
    """

    name: ClassVar[str] = "in-context"
    example_type: ClassVar[type] = object

    def __init__(
        self,
        task: Task[E],
        examples: Sequence[E],
        tokenizer: Any,
        *,
        max_length: int,
        k: int | None = None,
        seed: int = 0,
        slot: str = "",
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: must be at least 1")
        if k is not None and k < 0:
            raise ValueError(f"k={k}: must be 0 or more, or None for as many demonstrations as fit")
        if not examples and k != 0:
            raise ValueError("there are no examples to show; give some, or k=0 for none")
        self.task = task
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.slot = slot
        count = len(examples) if k is None else min(k, len(examples))
        chosen = [task.encode(example) for example in random.Random(seed).sample(list(examples), count)]
        self.shown = [f"Input: {source} Output: {target}" for source, target, _ in chosen]
        self.lengths = [self.num_tokens(text, special=False) for text in self.shown]

    @property
    def truncation_side(self) -> str:  # type: ignore[override]
        """That of the task."""
        return self.task.truncation_side

    def num_tokens(self, text: str, special: bool) -> int:
        return len(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def demonstrations(self, example: E) -> list[str]:
        """What stands before the query: of those drawn, in their order, each that still fits."""
        fitting: list[str] = []
        length = self.num_tokens(self.query(example), special=True)
        for text, size in zip(self.shown, self.lengths, strict=True):
            if length + size <= self.max_length:
                fitting.append(text)
                length += size
        while fitting and self.num_tokens(" ".join([*fitting, self.query(example)]), special=True) > self.max_length:
            fitting.pop()  # two texts together may have more tokens than each for itself
        return fitting

    def query(self, example: E) -> str:
        return f"Input: {self.task.source(example)} Output: {self.slot}".rstrip()

    def source(self, example: E) -> str:
        return " ".join([*self.demonstrations(example), self.query(example)])

    def target(self, example: E) -> tuple[str, list[Problem]]:
        text, problems = self.task.target(example)
        return self.in_slot(text), problems

    def candidate(self, example: E, label: str) -> str:
        """The target for any label, of a task that has these, such as RelationTask."""
        return self.in_slot(cast(Any, self.task).candidate(example, label))

    def in_slot(self, text: str) -> str:
        return f"{self.slot} {text}".lstrip()

    def from_text(self, text: str) -> E:
        return self.task.from_text(text)

    def as_example(self, item: E | str | Sequence[str]) -> E:
        return self.task.as_example(item)

    def decode(self, example: E | str | Sequence[str], text: str) -> Decoded[E]:
        return self.task.decode(example, text)

    def score(self, gold: Sequence[E], predicted: Sequence[Decoded[E]], *, reference: bool = False) -> Scores:
        return self.task.score(gold, predicted, reference=reference)


def in_context_sources(
    task: Task[E],
    train: Sequence[E],
    queries: Sequence[E],
    tokenizer: Any,
    k: int | None,
    max_length: int,
    seed: int,
    slot: str = "",
) -> list[str]:
    """Demonstrations and query, for every query; arguments as of InContextTask."""
    shown = InContextTask(task, train, tokenizer, max_length=max_length, k=k, seed=seed, slot=slot)
    return [shown.source(query) for query in queries]


def evaluate_in_context(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    train: Sequence[E],
    test: Sequence[E],
    *,
    max_length: int,
    k: int | None = None,
    seed: int = 0,
    slot: str = "",
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 512,
) -> Scores:
    """The task's scores, from generated text; with `labels`, the accuracy of the likeliest of these candidates.

    Args:
        model: an encoder-decoder model.
        train: what may be shown.
        test: what is asked, with labels to score by.
        max_length, k, seed, slot: as of InContextTask.
        labels: candidate labels of a RelationTask.
    """
    shown = InContextTask(task, train, tokenizer, max_length=max_length, k=k, seed=seed, slot=slot)
    if labels is None:
        return evaluate(
            model,
            tokenizer,
            shown,
            test,
            batch_size=batch_size,
            max_source_length=max_length,
            max_new_tokens=max_new_tokens,
        )
    relation: Any = shown
    examples: Sequence[Any] = test
    losses = candidate_losses(
        model, tokenizer, relation, examples, labels, batch_size=batch_size, max_length=max_length
    )
    return {"accuracy": likelihood_accuracy(losses, labels, [example.label for example in examples])}
