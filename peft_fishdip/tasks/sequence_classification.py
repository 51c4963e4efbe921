"""Relation classification with the sequence classifier of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .base import Decoded
from .records import RelationExample
from .relation import RelationTask


class SequenceClassificationTask:
    """A RelationTask as one class for each relation. The model reads the task's source, with marked entities.

    Attributes:
        task: whose records these are.
        classes: the labels, in order of their numbers.
    """

    def __init__(self, task: RelationTask) -> None:
        self.task = task
        self.classes = [*task.labels.names]

    def number(self, example: RelationExample) -> int:
        """Of an example's label.

        Raises:
            ValueError: it has none, or one that the task does not know.
        """
        if example.label is None:
            raise ValueError(f"example {example.id!r} has no label, so there is none to learn")
        self.task.labels.name(example.label)
        return self.classes.index(example.label)

    def decode(self, example: Any, logits: Tensor) -> Decoded[RelationExample]:
        """The prediction from the logits of the classes, (classes,), with its probability as the score."""
        example = self.task.as_example(example)
        label = self.classes[int(logits.argmax())]
        prediction = replace(example, label=label)
        score = float(logits.float().softmax(-1).max())
        return Decoded(prediction, (), self.task.target(prediction)[0], (score,))

    def losses(self, logits: Tensor, labels: Sequence[str]) -> Tensor:
        """-log p of these labels among each other, from logits (examples, classes): (examples, labels)."""
        numbers = []
        for label in labels:
            self.task.labels.name(label)
            numbers.append(self.classes.index(label))
        return -torch.log_softmax(logits[:, numbers].float(), -1)
