"""The examples of a self-training: labelled ones, some of them held out, and unlabelled texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..base import Task
from ..checks import check_items, check_unicode
from ..windows import unlabelled as without_labels

E = TypeVar("E")


@dataclass(frozen=True)
class Split(Generic[E]):
    """What is learnt from, what is held out, and the unlabelled texts, which are different from each other and from
    the labelled ones."""

    train: list[E]
    held_out: list[E]
    texts: list[E]


def split(
    task: Task[E], labelled: Sequence[E], unlabelled: Sequence[E | str | Sequence[str]], share: float, seed: int
) -> Split[E]:
    """Hold out a random share of the labelled examples, of those with answers (spans and the like) and of the others.

    Raises:
        TypeError: the unlabelled texts are a single one, or a dict.
        ValueError: there are too few labelled examples to hold any out, there is no unlabelled text, or one has single
            surrogates.
    """
    if isinstance(unlabelled, str):
        raise TypeError("self_train takes a list of unlabelled texts; put the one text into a list")
    check_items("unlabelled", unlabelled, "a list of texts, token lists or records")
    labelled = [task.as_example(example) for example in labelled]
    with_answers = [i for i, example in enumerate(labelled) if task.answers(example)]
    if len(with_answers) < 2:
        raise ValueError(
            f"{len(with_answers)} of {len(labelled)} labelled examples say anything (a span or the like); self-"
            "training holds some out and learns from the others, so give 2 or more, better 16 or more"
        )
    chosen: set[int] = set()
    generator = random.Random(seed)
    rest = sorted({*range(len(labelled))} - {*with_answers})
    for group, least in ((with_answers, 1), (rest, 0)):
        count = min(max(round(share * len(group)), least), len(group) - least)
        chosen.update(generator.sample(group, count))
    seen = {_words(task, example) for example in labelled}
    texts = []
    unread = [without_labels(task.as_example(text)) for text in unlabelled]
    check_unicode("unlabelled", map(task.source, unread))
    for example in unread:
        words = _words(task, example)
        if words and words not in seen:
            seen.add(words)
            texts.append(example)
    if not texts:
        raise ValueError(
            f"none of the {len(unlabelled)} unlabelled texts is new: leave self-training out, or give texts that are "
            "neither blank nor among the labelled ones"
        )
    train = [example for i, example in enumerate(labelled) if i not in chosen]
    return Split(train, [labelled[i] for i in sorted(chosen)], texts)


def _words(task: Task[Any], example: Any) -> str:
    return " ".join(task.source(example).split())
