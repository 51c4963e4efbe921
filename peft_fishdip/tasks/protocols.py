"""Low-resource protocols: nested fractions, N-way K-shot episodes, and the meta-training split.

Everything follows from the seed alone, by the same calls to `random` as in the reference, so that the same
examples are drawn; `write_ids` keeps a record of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

from .checks import check_items, shown
from .readers.common import DataFormatError, read_json
from .records import Record, RelationExample

R = TypeVar("R", bound=Record)


def fraction_indices(size: int, fraction: float, seed: int) -> list[int]:
    """Positions of a random `fraction` of `size` examples, in the order drawn.

    As the reference: shuffle all positions by the seed, take the first round(fraction * size). Fractions
    of one seed are therefore nested. Raises ValueError where nothing would be left.
    """
    if not isinstance(size, int):
        raise TypeError(f"size={shown(size)}: give the number of examples")
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction!r}: give a share above 0 and up to 1, e.g. 0.01 for 1 %")
    count = round(fraction * size)
    if count < 1:
        raise ValueError(f"fraction={fraction!r} of {size} examples rounds to none; take a larger one")
    indices = list(range(size))
    _generator(seed).shuffle(indices)
    return indices[:count]


def _generator(seed: int) -> random.Random:
    if not isinstance(seed, int):
        raise TypeError(f"seed={seed!r}: give an integer, so that the same examples can be drawn again")
    return random.Random(seed)


@dataclass(frozen=True)
class Episode:
    """One N-way K-shot task: its relations, and disjoint support (K each) and query examples."""

    labels: tuple[str, ...]
    support: tuple[RelationExample, ...]
    query: tuple[RelationExample, ...]


def sample_episode(
    examples: Iterable[RelationExample], *, num_ways: int, num_shots: int, num_queries: int = 5, seed: int
) -> Episode:
    """Draw `num_ways` relations, and `num_shots` + `num_queries` examples of each.

    Raises ValueError where there are fewer.
    """
    for name, value, least in (("num_ways", num_ways, 1), ("num_shots", num_shots, 1), ("num_queries", num_queries, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}")
    by_label = _by_label(examples)
    if num_ways > len(by_label):
        raise ValueError(f"num_ways={num_ways}, but the examples have only {len(by_label)} relations")
    generator = _generator(seed)
    labels = generator.sample(list(by_label), num_ways)
    support: list[RelationExample] = []
    query: list[RelationExample] = []
    for label in labels:
        if num_shots + num_queries > len(by_label[label]):
            raise ValueError(
                f"num_shots={num_shots} and num_queries={num_queries}, but the relation {label!r} has only "
                f"{len(by_label[label])} examples"
            )
        drawn = generator.sample(by_label[label], num_shots + num_queries)
        support += drawn[:num_shots]
        query += drawn[num_shots:]
    return Episode(tuple(labels), tuple(support), tuple(query))


def meta_split(
    examples: Iterable[RelationExample], *, num_test_relations: int, seed: int
) -> tuple[list[RelationExample], list[RelationExample]]:
    """Examples for meta-training and for episodes, with no relation in common.

    FewRel comes split by relation (train_wiki for meta-training, val_wiki for episodes); this is for data
    that does not. Relations are drawn by the seed.
    """
    by_label = _by_label(examples)
    if not isinstance(num_test_relations, int) or not 0 < num_test_relations < len(by_label):
        raise ValueError(
            f"num_test_relations={num_test_relations!r}: leave at least one of the {len(by_label)} relations on each "
            "side"
        )
    test = set(_generator(seed).sample(list(by_label), num_test_relations))
    sides: tuple[list[RelationExample], list[RelationExample]] = ([], [])
    for label, group in by_label.items():
        sides[label in test].extend(group)
    return sides


def _by_label(examples: Iterable[RelationExample]) -> dict[str, list[RelationExample]]:
    check_items("examples", examples, "a list of RelationExample")
    groups: dict[str, list[RelationExample]] = {}
    for example in examples:
        if example.label is None:
            raise ValueError(f"example {example.id!r} has no label")
        groups.setdefault(example.label, []).append(example)
    return groups


def write_ids(path: str | PathLike[str], examples: Iterable[Record]) -> None:
    """Write the ids of chosen examples as a JSON list, in order."""
    ids = [example.id for example in examples]
    _check_ids(ids)
    Path(path).write_text(json.dumps(ids, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def select_ids(path: str | PathLike[str], examples: Sequence[R]) -> list[R]:
    """The examples whose ids `write_ids` wrote, in that order; ValueError where one is missing."""
    ids = read_json(path)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise DataFormatError(path, "top level", "a list of ids as texts", ids)
    _check_ids(ids)
    _check_ids([example.id for example in examples])
    by_id = {example.id: example for example in examples}
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise ValueError(f"{path}: {len(missing)} ids are not among the examples, the first is {missing[0]!r}")
    return [by_id[name] for name in ids]


def _check_ids(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if not name or name in seen:
            raise ValueError(f"the id {name!r} is {'given twice' if name else 'empty'}; ids must name examples")
        seen.add(name)
