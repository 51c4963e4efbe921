"""A few sentences of a data set to train on, and others to validate on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from peft_fishdip.tasks import (
    CONLL04_ENTITIES,
    MASAKHANER_ENTITIES,
    WNUT17_ENTITIES,
    NerExample,
    NerTask,
    read_conll,
    read_conll04,
)

from ..settings import SettingsError

FILES = {
    "conll04-ner": ("conll04/conll04_train.json", "conll04/conll04_dev.json"),
    "wnut17": ("wnut17/wnut17train.conll", "wnut17/emerging.dev.conll"),
    "masakhaner-swa": ("masakhaner/swa/train.txt", "masakhaner/swa/dev.txt"),
}
"""The training and the validation part of each data set; the test part is never read."""
NAMES = {"conll04-ner": CONLL04_ENTITIES, "wnut17": WNUT17_ENTITIES, "masakhaner-swa": MASAKHANER_ENTITIES}


@dataclass(frozen=True)
class Sentences:
    """A data set as some sentences to train on, and others to validate on."""

    task: NerTask
    train: list[NerExample]
    validation: list[NerExample]

    @property
    def tags(self) -> list[str]:
        """All BIO tags."""
        return ["O", *(f"{prefix}-{label}" for label in sorted(self.task.labels.names) for prefix in "BI")]


def load_sentences(name: str, root: Path, num_train: int, most_words: int, num_validation: int, seed: int) -> Sentences:
    """So many training sentences of at most `most_words` words, drawn by the seed, and the same validation sentences,
    of any length, for all seeds.

    Raises:
        SettingsError: the data set is missing or malformed, or has too few sentences.
    """
    try:
        train, validation = (read(root / file) for file in FILES[name])
    except (OSError, ValueError) as error:
        raise SettingsError(f"data set {name!r} of --data {root}: {error}") from error
    train = [example for example in train if len(example.tokens) <= most_words]
    if len(train) < num_train:
        raise SettingsError(f"data set {name!r} has {len(train)} short training sentences; {num_train} are needed")
    few = random.Random(0).sample(validation, min(num_validation, len(validation)))
    return Sentences(NerTask(NAMES[name]), random.Random(seed).sample(train, num_train), few)


def read(path: Path) -> list[NerExample]:
    if path.suffix == ".json":
        return [NerExample(example.tokens, example.spans) for example in read_conll04(path)]
    return list(read_conll(path))
