"""Labelled English sentences, and raw ones of the languages that are to be tagged without a label to train on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peft_fishdip.tasks import NerExample, NerTask

from ..recipe.sentences import FILES, Sentences, read
from ..settings import SettingsError

LABELS = {"LOC": "location", "ORG": "organization", "PER": "person"}
"""What the data sets have in common; spans of other types are left out, of the source and of the targets alike."""
COMMON = {
    "conll04-ner": {"Peop": "PER", "Loc": "LOC", "Org": "ORG"},
    "wnut17": {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG"},
}
"""By source, its labels and those of LABELS that they stand for."""
LANGUAGES = {"hau": "Hausa", "swa": "Swahili", "yor": "Yoruba"}
"""Of MasakhaNER."""


@dataclass(frozen=True)
class Target:
    """A language without training labels."""

    raw: list[list[str]]
    """The words of its training sentences, without their labels."""
    held_out: list[list[str]]
    """Those of some validation sentences."""
    validation: list[NerExample]
    """Labelled sentences to score on."""


def load_source(name: str, root: Path, num_train: int, most_words: int, num_validation: int, seed: int) -> Sentences:
    """So many labelled training sentences of the source, none longer than `most_words`, and validation sentences.

    Raises:
        SettingsError: the data set is missing or malformed, or has too few sentences.
    """
    train, validation = (mapped(read_part(root, file), COMMON[name]) for file in FILES[name])
    train = [example for example in train if len(example.tokens) <= most_words]
    if len(train) < num_train:
        raise SettingsError(f"data set {name!r} has {len(train)} short training sentences; {num_train} are needed")
    return Sentences(NerTask(LABELS), random.Random(seed).sample(train, num_train), some(validation, num_validation))


def load_target(language: str, root: Path, num_raw: int, num_validation: int, num_held_out: int, seed: int) -> Target:
    """So many raw sentences of a language, drawn by the seed, and the same validation sentences for all seeds.

    Raises:
        SettingsError: the data set is missing or malformed, or has too few sentences.
    """
    train, validation = (read_part(root, f"masakhaner/{language}/{part}.txt") for part in ("train", "dev"))
    if len(train) < num_raw:
        raise SettingsError(f"MasakhaNER {language!r} has {len(train)} training sentences; {num_raw} are needed")
    raw = [[*example.tokens] for example in random.Random(seed).sample(train, num_raw)]
    few = some(validation, num_validation)
    held_out = [[*example.tokens] for example in few[:num_held_out]]
    return Target(raw, held_out, mapped(few, {label: label for label in LABELS}))


def read_part(root: Path, file: str) -> list[NerExample]:
    try:
        return read(root / file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file!r} of --data {root}: {error}") from error


def mapped(examples: Sequence[NerExample], labels: Mapping[str, str]) -> list[NerExample]:
    """The examples with the common labels, without spans of other types."""
    return [
        replace(
            example,
            spans=tuple(replace(span, label=labels[span.label]) for span in example.spans if span.label in labels),
        )
        for example in examples
    ]


def some(examples: Sequence[NerExample], count: int) -> list[NerExample]:
    """So many at most, the same each time."""
    return random.Random(0).sample(examples, min(count, len(examples)))
