"""In-context prediction: nothing is trained, the source shows solved examples before the query."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, cast

from peft_fishdip.tasks import Decoded, Problem, Task, candidate_losses, evaluate, likelihood_accuracy, task_type
from peft_fishdip.tasks.base import Scores
from peft_fishdip.tasks.families import CAUSAL
from peft_fishdip.tasks.lengths import source_room

E = TypeVar("E")

WHOLE = "{source}"
"""The template of a decoder-only model's prompts: the source as it is."""
SLOT = "<extra_id_0>"
"""Where the answer goes, if the model was pretrained to fill this."""


class InContextTask(Task[E]):
    """Another task whose sources begin with demonstrations, so that all of `peft_fishdip.tasks` works with it.

    Source: `Input: source of an example Output: its target Input: source of the query Output:`. A decoder-only model
    goes on as the examples do, with a further input after its answer, so each part has a line of its own for it, and
    its answer ends with the line.

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
        lines: whether each part has a line of its own.

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
        lines: bool = False,
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
        self.gap = "\n" if lines else " "
        count = len(examples) if k is None else min(k, len(examples))
        chosen = [task.encode(example) for example in random.Random(seed).sample(list(examples), count)]
        self.shown = [f"Input: {source}{self.gap}Output: {target}" for source, target, _ in chosen]
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
        while (
            fitting and self.num_tokens(self.gap.join([*fitting, self.query(example)]), special=True) > self.max_length
        ):
            fitting.pop()  # two texts together may have more tokens than each for itself
        return fitting

    def query(self, example: E) -> str:
        return f"Input: {self.task.source(example)}{self.gap}Output: {self.slot}".rstrip()

    def source(self, example: E) -> str:
        return self.gap.join([*self.demonstrations(example), self.query(example)])

    def target(self, example: E) -> tuple[str, list[Problem]]:
        text, problems = self.task.target(example)
        return self.in_slot(text), problems

    def candidate(self, example: E, label: str) -> str:
        """The target for any label, of a task that has these, such as RelationTask."""
        return self.in_slot(cast(Any, self.task).candidate(example, label))

    def in_slot(self, text: str) -> str:
        text = f"{self.slot} {text}"
        return text if self.gap == "\n" else text.lstrip()  # in a row of text, a space stands before the answer

    def from_text(self, text: str) -> E:
        return self.task.from_text(text)

    def as_example(self, item: E | str | Sequence[str]) -> E:
        return self.task.as_example(item)

    def decode(self, example: E | str | Sequence[str], text: str) -> Decoded[E]:
        return self.task.decode(example, text.strip().partition("\n")[0] if self.gap == "\n" else text)

    def items(self, example: E) -> Mapping[str, Set[Hashable]]:
        return self.task.items(example)

    def score(self, gold: Sequence[E], predicted: Sequence[Decoded[E]], *, reference: bool = False) -> Scores:
        return self.task.score(gold, predicted, reference=reference)


@contextmanager
def ending_at_lines(model: Any, tokenizer: Any) -> Iterator[None]:
    """Within, a decoder-only model that writes the end of a line has written its text.

    Where a tokenizer has no token for that, such as the one of T5, nothing changes.
    """
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if task_type(model) != CAUSAL or not ids or tokenizer.decode(ids[-1:]) != "\n":
        yield
        return
    before = model.generation_config.eos_token_id
    ends = before if isinstance(before, list) else [before]
    model.generation_config.eos_token_id = [*(end for end in ends if end is not None), ids[-1]]
    try:
        yield
    finally:
        model.generation_config.eos_token_id = before


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
        model: an encoder-decoder or a decoder-only model.
        train: what may be shown.
        test: what is asked, with labels to score by.
        max_length, k, seed, slot: as of InContextTask.
        labels: candidate labels of a RelationTask.
    """
    causal = task_type(model) == CAUSAL
    template = WHOLE if causal else None
    most = source_room(model, tokenizer, max_length, max_new_tokens)
    shown = InContextTask(task, train, tokenizer, max_length=most, k=k, seed=seed, slot=slot, lines=causal)
    if labels is None:
        with ending_at_lines(model, tokenizer):
            return evaluate(
                model,
                tokenizer,
                shown,
                test,
                template=template,
                batch_size=batch_size,
                max_source_length=most,
                max_new_tokens=max_new_tokens,
            )
    relation: Any = shown
    examples: Sequence[Any] = test
    losses = candidate_losses(
        model, tokenizer, relation, examples, labels, template=template, batch_size=batch_size, max_length=most
    )
    return {"accuracy": likelihood_accuracy(losses, labels, [example.label for example in examples])}
