"""A few test examples with what a run predicted for them, as texts that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft_fishdip.tasks import Decoded, Task

from .in_context import InContextTask

MOST = 5
"""So many of a run."""
NO_LABEL = "(no label that the task knows)"

Prediction = dict[str, str]
"""`source`, what the model read without any demonstrations; `gold`, the target text; `predicted`, the same of what was
read from the model's text, or found by its tags."""


def first_predictions(
    task: Task[Any], gold: Sequence[Any], predicted: Sequence[Decoded[Any] | str]
) -> list[Prediction]:
    """Those of the first examples, which are the same for all methods that share a test set.

    Args:
        predicted: what was decoded, or of relations the label that was chosen.
    """
    own: Any = task.task if isinstance(task, InContextTask) else task
    return [
        {
            "source": own.source(example),
            "gold": target(own, example),
            "predicted": own.candidate(example, one) if isinstance(one, str) else target(own, one.prediction),
        }
        for example, one in zip(gold[:MOST], predicted[:MOST], strict=True)
    ]


def target(task: Task[Any], example: Any) -> str:
    """The text that says what is in an example."""
    try:
        return task.target(example)[0]
    except ValueError:  # of a prediction
        return NO_LABEL
