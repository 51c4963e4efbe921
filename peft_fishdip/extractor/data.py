"""Labelled examples from files and documents, and how they are divided for a test."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, cast

from ..config import is_count
from ..tasks.checks import check_items, check_records, shown
from ..tasks.formats.document import Document
from ..tasks.formats.read import read
from ..tasks.records import JointExample, NerExample

Example: TypeAlias = NerExample | JointExample
Data: TypeAlias = str | PathLike[str] | Iterable[Document | Example]
"""A file in any format of `read`, or documents or records."""


def load_examples(data: Data, **options: Any) -> list[Example]:
    """Records of entities, with relations where any has one.

    Raises:
        TypeError: the data is neither the name of a file nor a list.
        ValueError: there is no example, or the file holds records of another task.
        OSError: the file cannot be read.
    """
    name, given = "documents", cast(Iterable[Any], data)
    if isinstance(data, str | PathLike):
        name, given = str(data), load_file(data, **options)
    elif isinstance(data, Mapping | Document | NerExample | JointExample) or not isinstance(data, Iterable):
        raise TypeError(
            f"documents={shown(data)}: give the name of a file, or a list of documents or records (Document, "
            "NerExample, JointExample), even if it is a single one"
        )
    examples = [item.to_example() if isinstance(item, Document) else item for item in given]
    for number, example in enumerate(examples):
        if not isinstance(example, NerExample | JointExample):
            raise ValueError(
                f"{name}: record {number} is a {type(example).__name__}; give texts with labelled spans "
                "(Document, NerExample), or with spans and relations between them (JointExample)"
            )
    if not examples:
        raise ValueError(f"{name}: there is no example; give a file with annotated texts")
    joint = any(getattr(example, "relations", ()) for example in examples)
    return [as_kind(example, JointExample if joint else NerExample) for example in examples]


def unlabelled_texts(unlabelled: object, rounds: object) -> list[str] | None:
    """The texts for self-training; None for none.

    Raises:
        TypeError: they are no list of texts.
        ValueError: there is no such number of rounds.
    """
    if not is_count(rounds):
        raise ValueError(f"rounds={shown(rounds)}: give a whole number above 0")
    if unlabelled is None:
        return None
    check_items("unlabelled", unlabelled, "a list of texts; put the one text into a list")
    texts = [*cast(Iterable[Any], unlabelled)]
    check_records("unlabelled", texts, str)
    return texts


def load_file(path: str | PathLike[str], **options: Any) -> Sequence[Any]:
    """Documents or records of a file or folder."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    loaded = read(path, **options)
    return loaded.documents or loaded.examples


def as_kind(example: Example, kind: type[Any]) -> Example:
    """A record as one with or without a list of relations."""
    if isinstance(example, kind):
        return example
    return cast(Example, kind(example.tokens, example.spans, id=example.id, text=example.text))


def labels_of(examples: Iterable[Example]) -> set[str]:
    """Of spans."""
    return {span.label for example in examples for span in example.spans}


def relations_of(examples: Iterable[Example]) -> set[str]:
    """Labels of relations."""
    return {relation.label for example in examples for relation in getattr(example, "relations", ())}


def overlaps(examples: Iterable[Example]) -> bool:
    """Whether any two spans of an example have a token in common."""
    return any(after.start < before.end for x in examples for before, after in pairwise(x.spans))


def held_out(examples: Sequence[Example], share: float, seed: int) -> list[int]:
    """Positions of a random share of the examples, for a test.

    Equal texts stay on one side, and so does the last example that has some label, which is needed for training.
    """
    size, left = round(share * len(examples)), Counter[str]()
    for group in _groups(examples):
        left.update(_labels(examples, group))
    chosen: list[int] = []
    for group in _shuffled(examples, seed):
        own = _labels(examples, group)
        if len(chosen) + len(group) <= size and all(left[label] > 1 for label in own):
            left.subtract(own)
            chosen += group
    return sorted(chosen)


def folds(examples: Sequence[Example], number: int, seed: int) -> list[list[int]]:
    """Positions of the examples of each fold, at random; equal texts are in one fold.

    Raises:
        ValueError: there are fewer different texts than folds.
    """
    groups = _shuffled(examples, seed)
    if len(groups) < number:
        raise ValueError(f"{number} folds of {len(groups)} different texts: choose at most {len(groups)} folds")
    found = [sorted(i for group in groups[fold::number] for i in group) for fold in range(number)]
    lonely = [label for label in sorted(labels_of(examples)) if sum(_has(examples, fold, label) for fold in found) == 1]
    if lonely:
        warnings.warn(
            f"all examples of {', '.join(map(repr, lonely))} are in one fold, whose model has not seen any: its score "
            "for them is 0; annotate more of them",
            stacklevel=2,
        )
    return found


def _has(examples: Sequence[Example], positions: Iterable[int], label: str) -> bool:
    return any(label in labels_of([examples[i]]) for i in positions)


def _labels(examples: Sequence[Example], positions: Iterable[int]) -> set[str]:
    some = [examples[i] for i in positions]
    return labels_of(some) | relations_of(some)


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Positions of equal texts."""
    found: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        found.setdefault(" ".join(" ".join(example.tokens).split()), []).append(position)
    return [*found.values()]


def _shuffled(examples: Sequence[Example], seed: int) -> list[list[int]]:
    groups = _groups(examples)
    random.Random(seed).shuffle(groups)
    return groups
