"""Sentences with people, organizations and places that nobody wrote: a data set that needs no download.

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
    "{Peop} works for {Org} in {Loc} .",
    "{Org} opened a new office in {Loc} last week .",
    "In {Loc} , {Peop} met the head of {Org} .",
    "{Peop} and {Peop} were born in {Loc} .",
    "The mayor of {Loc} thanked {Peop} for the help .",
    "{Org} said that {Peop} will leave at the end of the year .",
    "Yesterday {Peop} moved from {Loc} to {Loc} .",
    "Shares of {Org} fell after {Peop} sold the plant near {Loc} .",
    "The team of {Org} lost the game in {Loc} .",
    "{Peop} , who grew up in {Loc} , now leads {Org} .",
    "Nobody at {Org} wanted to talk about {Org} .",
    "It rained all day in {Loc} and {Loc} .",
    "Last year {Org} bought a small shop from {Peop} .",
    "A letter from {Peop} reached {Org} on Monday .",
    "The old bridge near {Loc} was closed again .",
    "Many friends of {Peop} came to see the show .",
)


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
        words = [name(rng) for _ in range(2 if label == "Peop" or rng.random() < 0.3 else 1)]
        spans.append(Span(len(tokens), len(tokens) + len(words), label))
        tokens.extend(words)
    return NerExample(tuple(tokens), tuple(spans), example_id)


def name(rng: random.Random) -> str:
    return "".join(syllables(rng)).capitalize()


def syllables(rng: random.Random) -> Iterator[str]:
    for _ in range(2):
        yield rng.choice(ONSETS) + rng.choice(VOWELS)
    yield rng.choice(CODAS)
