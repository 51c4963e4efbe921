"""A few annotated sentences of a data set to train on, and others to validate on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_fishdip.tasks import CONLL04_ENTITIES, CONLL04_RELATIONS, JointTask, NerTask, Task, read_conll04

from ..recipe.sentences import FILES, NAMES, read
from ..settings import SettingsError

JOINT = "conll04"


@dataclass(frozen=True)
class DataSet:
    """A task, and how its examples are read from a file; the test part is never read."""

    make_task: Callable[[], Task[Any]]
    read: Callable[[Path], Sequence[Any]]
    files: tuple[str, str]
    """The training and the validation part."""


def _entities(name: str) -> DataSet:
    return DataSet(lambda: NerTask(NAMES[name]), read, FILES[name])


DATA_SETS = {
    "conll04-ner": _entities("conll04-ner"),
    "wnut17": _entities("wnut17"),
    JOINT: DataSet(lambda: JointTask(CONLL04_ENTITIES, CONLL04_RELATIONS), read_conll04, FILES["conll04-ner"]),
}


@dataclass(frozen=True)
class Sentences:
    """A data set as some sentences to train on, and others to validate on."""

    task: Task[Any]
    train: list[Any]
    validation: list[Any]


def load_sentences(name: str, root: Path, num_train: int, most_words: int, num_validation: int, seed: int) -> Sentences:
    """So many training sentences of at most `most_words` words that have something to be found, drawn by the seed, and
    the same validation sentences, of any kind, for all seeds.

    Raises:
        SettingsError: the data set is missing or malformed, or has too few sentences.
    """
    data_set = DATA_SETS[name]
    task = data_set.make_task()
    try:
        train, validation = (data_set.read(root / file) for file in data_set.files)
    except (OSError, ValueError) as error:
        raise SettingsError(f"data set {name!r} of --data {root}: {error}") from error
    train = [example for example in train if len(example.tokens) <= most_words and task.answers(example)]
    if len(train) < num_train:
        raise SettingsError(f"data set {name!r} has {len(train)} short training sentences; {num_train} are needed")
    few = random.Random(0).sample([*validation], min(num_validation, len(validation)))
    return Sentences(task, random.Random(seed).sample(train, num_train), few)
