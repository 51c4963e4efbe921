"""Training and test examples of a comparison."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_fishdip.tasks import DataFormatError, NerExample, NerTask, fraction_indices, read_conll04

from . import toy
from .settings import SettingsError

CONLL04_LABELS = {"Loc": "location", "Org": "organization", "Peop": "person", "Other": "other"}
TOY_TRAIN, TOY_TEST, TOY_UNLABELLED = 48, 60, 4000


@dataclass(frozen=True)
class Data:
    """A task with its examples."""

    name: str
    task: NerTask
    train: list[NerExample]
    """The few labelled examples, drawn by the seed."""
    test: list[NerExample]
    unlabelled: list[str]
    """Sentences of the training domain without labels: for the vocabulary and for the base model."""


def load_data(path: Path | None, fraction: float, seed: int, max_test: int | None) -> Data:
    """CoNLL04 entities from the folder `path`, or the generated sentences if there is none.

    Args:
        path: holds conll04_train.json and conll04_test.json.
        fraction: share of the training sentences that keep their labels (CoNLL04 only).
        seed: draws these.
        max_test: test on so many sentences, drawn once for all seeds.

    Raises:
        SettingsError: files are missing or malformed.
    """
    if path is None:
        unlabelled = [" ".join(example.tokens) for example in toy.sentences(TOY_UNLABELLED, seed=-1)]
        train = toy.sentences(TOY_TRAIN, seed=1000 + seed)
        test = toy.sentences(TOY_TEST, seed=-2)
        return Data("generated", NerTask(toy.LABELS), train, limited(test, max_test), unlabelled)
    try:
        train = entities(path / "conll04_train.json")
        test = entities(path / "conll04_test.json")
        chosen = [train[i] for i in fraction_indices(len(train), fraction, seed)]
    except (OSError, DataFormatError, ValueError) as error:
        raise SettingsError(f"--data {path}: {error}") from error
    unlabelled = [" ".join(example.tokens) for example in train]
    return Data("conll04", NerTask(CONLL04_LABELS), chosen, limited(test, max_test), unlabelled)


def entities(path: Path) -> list[NerExample]:
    """The sentences of a CoNLL04 file with their entities, without the relations."""
    return [NerExample(example.tokens, example.spans, example.id) for example in read_conll04(path)]


def limited(examples: Sequence[NerExample], count: int | None) -> list[NerExample]:
    if count is None or count >= len(examples):
        return list(examples)
    return random.Random(0).sample(list(examples), count)
