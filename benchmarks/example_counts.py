"""What each test example adds to the scores: from this, a report computes intervals.

A score is a ratio of sums over examples: an F1 is 2 * correct / (predicted + gold), an accuracy correct / examples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from peft_fishdip.tasks import Decoded, Task
from peft_fishdip.tasks.places import comparable

Counts = dict[str, str]
"""Of one metric, a number of each example, separated by spaces: `correct`, and of an F1 `predicted` and `gold`."""
Ratio: TypeAlias = NDArray[np.float64]
"""An example per row: its part of the numerator, and of the denominator."""
JOINT = "joint_accuracy"


def example_counts(
    task: Task[Any], gold: Sequence[Any], predicted: Sequence[Decoded[Any]], metrics: Collection[str]
) -> dict[str, Counts]:
    """The counts of those metrics that compare sets of items (`Task.items`), or whether all of these are right."""
    pairs = [comparable(example, one.prediction) for example, one in zip(gold, predicted, strict=True)]
    truth = [task.items(example) for example, _ in pairs]
    found = [task.items(prediction) for _, prediction in pairs]
    counts = {
        name: {
            "correct": joined(len(g[name] & p[name]) for g, p in zip(truth, found, strict=True)),
            "predicted": joined(len(items[name]) for items in found),
            "gold": joined(len(items[name]) for items in truth),
        }
        for name in (truth[0] if truth else ())
        if name in metrics
    }
    if JOINT in metrics:
        counts[JOINT] = right(g == p for g, p in zip(truth, found, strict=True))
    return counts


def right(answers: Iterable[bool]) -> Counts:
    """The counts of an accuracy."""
    return {"correct": joined(map(int, answers))}


def joined(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def ratio(counts: Mapping[str, str]) -> Ratio:
    """What the examples add to the numerator and the denominator of the score.

    Raises:
        ValueError: these are no counts, or not of the same number of examples.
    """
    columns = {name: np.array([int(word) for word in text.split()], dtype=np.float64) for name, text in counts.items()}
    if len({len(column) for column in columns.values()}) != 1 or not {"correct"} <= columns.keys():
        raise ValueError(f"counts of examples with the columns {', '.join(columns) or 'none'} of different lengths")
    if columns.keys() == {"correct"}:
        return np.stack([columns["correct"], np.ones_like(columns["correct"])], axis=1)
    if columns.keys() != {"correct", "predicted", "gold"}:
        raise ValueError(f"counts of examples have the columns {', '.join(columns)}; expected correct, predicted, gold")
    return np.stack([2 * columns["correct"], columns["predicted"] + columns["gold"]], axis=1)
