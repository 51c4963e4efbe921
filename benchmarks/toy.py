"""Generated sentences with people, organizations and places: a data set that needs no download.

Names are put together from syllables, so that those of the test sentences are new, and the same name may be a person's
or a place's: the words around it tell.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from peft_fishdip.tasks import NerExample, Span

LABELS = {"Peop": "person", "Org": "organization", "Loc": "location"}

ONSETS = ("b", "d", "k", "l", "m", "n", "r", "s", "t", "v")
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("", "", "n", "s")

TEMPLATES = (
    "{Peop} works for {Org} .",
    "{Org} has an office in {Loc} .",
    "{Peop} met {Peop} in {Loc} .",
    "{Peop} was born in {Loc} .",
    "The mayor of {Loc} thanked {Peop} .",
    "{Org} said {Peop} will leave .",
    "{Peop} moved from {Loc} to {Loc} .",
    "{Peop} sold {Org} to {Org} .",
    "The team of {Org} lost in {Loc} .",
    "{Peop} now leads {Org} .",
    "Nobody at {Org} wanted to talk .",
    "It rained all day in {Loc} .",
    "{Org} bought a shop in {Loc} .",
    "A letter from {Peop} reached {Org} .",
    "The bridge near {Loc} was closed .",
    "Friends of {Peop} came to {Loc} .",
)


TRAIN, TEST = 480, 60
"""Sentences of the two parts."""


def sentences(count: int, seed: int) -> list[NerExample]:
    """`count` labelled sentences; the same for the same seed."""
    rng = random.Random(seed)
    return [sentence(rng, f"{seed}-{i}") for i in range(count)]


def sentence(rng: random.Random, example_id: str) -> NerExample:
    tokens: list[str] = []
    spans: list[Span] = []
    for word in rng.choice(TEMPLATES).split():
        label = word.strip("{}")
        if label not in LABELS:
            tokens.append(word)
            continue
        words = [name(rng) for _ in range(2 if rng.random() < 0.2 else 1)]
        spans.append(Span(len(tokens), len(tokens) + len(words), label))
        tokens.extend(words)
    return NerExample(tuple(tokens), tuple(spans), example_id)


def name(rng: random.Random) -> str:
    return "".join(syllables(rng)).capitalize()


def syllables(rng: random.Random) -> Iterator[str]:
    for _ in range(2):
        yield rng.choice(ONSETS) + rng.choice(VOWELS)
    yield rng.choice(CODAS)
