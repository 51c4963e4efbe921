"""Checks of the examples that predictions are scored by, before anything is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import Task
from .checks import check_is_task


def check_gold(task: Task[Any], examples: Sequence[Any]) -> None:
    """Refuse examples that no prediction could be right for.

    Raises:
        TypeError: an example is no record of the task, such as a text.
        ValueError: an example has no label, or one that the task does not know.
    """
    check_is_task(task)
    kind = task.example_type.__name__
    if isinstance(examples, str) or not isinstance(examples, Sequence):
        raise TypeError(f"examples={examples!r}: give a list of {kind} with their labels")
    for number, example in enumerate(examples):
        if not isinstance(example, task.example_type):
            raise TypeError(
                f"example {number} is a {type(example).__name__}, {example!r}: give {kind} records with the labels "
                "that predictions are compared with; `predict` takes texts"
            )
        try:
            task.target(example)
        except ValueError as error:
            name = (
                f"example {number} ({identity!r})" if (identity := getattr(example, "id", "")) else f"example {number}"
            )
            remedy = "No prediction could be right there; correct the example, or add the label to the task"
            raise ValueError(f"{name}: {error}. {remedy}") from error
