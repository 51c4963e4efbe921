"""Invented sentences as a user would label them: mail, news and notes with people, organizations and places.

A sentence is a clause, often with words before or after it, and its names come from lists. Sentences to test on have
names of their own, so that a model cannot know them by heart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from peft_fishdip.tasks import NerExample, Span

LABELS = {"Peop": "person", "Org": "organization", "Loc": "location"}


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


OPENINGS = (
    "On Monday",
    "Last week",
    "Two years ago",
    "After a long talk",
    "According to {Peop}",
    "In the meantime",
    "Before the holidays",
    "In a letter to {Peop}",
    "At the office in {Loc}",
    "To everyone's surprise",
    "This spring",
    "As far as we know",
)
CLAUSES = (
    "{Peop} started a new job at {Org}",
    "the board of {Org} met in {Loc} and elected {Peop} as its chairman",
    "{Org} will close three of its branches in {Loc}",
    "{Peop} and {Peop} opened a small hotel near {Loc}",
    "the contract was signed by {Peop} , who works for {Org}",
    "the river has flooded the lower streets of {Loc}",
    "{Org} hired {Peop} to run its office in {Loc}",
    "{Peop} asked the council of {Loc} to repair the old bridge",
    "shares of {Org} fell by four percent",
    "{Peop} drove from {Loc} to {Loc} in a single day",
    "a spokesman for {Org} denied that the company had been sold",
    "{Peop} teaches history at a school in {Loc}",
    "the meeting between {Org} and {Org} ended without a result",
    "the invoice from {Org} has not been paid",
    "two engineers of {Org} were sent to {Loc}",
    "{Peop} called about the order and would like to hear from {Peop}",
    "the parcel for {Peop} was returned to {Loc}",
    "{Org} moved its warehouse from {Loc} to {Loc}",
    "{Peop} complained that {Org} had not answered",
    "the flight to {Loc} was late , so {Peop} took the train",
    "{Peop} left {Org} and now works for {Org}",
    "the museum in {Loc} bought two drawings by {Peop}",
    "nobody at {Org} knew where {Peop} was",
    "{Peop} was born in {Loc} and studied law in {Loc}",
    "the roof of the station in {Loc} is being repaired",
    "the new director , {Peop} , came from {Org}",
    "{Org} sponsors the summer concert in {Loc}",
    "please send the minutes to {Peop} and to {Org}",
    "the printer did not work and the meeting began late",
    "it rained all week , and the harvest was poor",
    "nobody answered the telephone",
    "the soup was cold , but the bread was very good",
)
ENDINGS = (
    "before the end of the month",
    "after the report",
    "as {Peop} had expected",
    "for the third time this year",
    "without saying why",
    "because of the strike at {Org}",
    "according to a newspaper in {Loc}",
    "for less than we had thought",
    "and nobody was told",
    "said {Peop} of {Org}",
)

FIRST_NAMES = words("""
Ann Bo Clara David Eva Frank Greta Hugo Irene Jonas Karin Liam Maria Nora Omar Paula Quentin Rosa Samuel Tomas Ursula
Victor Wanda Yuki Zoe Adam Bela Carmen Dario Elsa Felix Gloria Hanna Ivan Julia Karl Lena Marco Nina Oscar Peter Rita
""")
LAST_NAMES = words("""
Lee Dahl Jensen Novak Holm Pinto Weber Marsh Okoro Torres Brandt Lund Amsel Quinn Haddad Tanaka Reed Vos Petrov Ford
Berg Costa Moreau Miller Sato Keller Rossi Nowak Silva Hansen Mehta Duarte Fischer Walsh Lopez Young Baker Stone Ahmed
Fontana Lindgren Carter Popescu Murphy Schmidt Ortega
""")
PLACES = words("""
Oslo Turku Bergen Vienna Lisbon Dundee Brno Cork Lagos Aarhus Sienna Malmo Hamburg Quito Leipzig Galway Tromso Sapporo
Riga Ghent Durham Varna Krakow Aberdeen Porto Lyon Dresden Utrecht Bristol Tartu Gdansk Bilbao Zagreb Nantes Trieste
Salzburg Izmir Haifa Tampere Basel Verona Leeds Szeged Linz Perth Denver Boston Kyoto Lima Nairobi
""")
COMPANY_WORDS = words("""
Northwind Harbour Acme Silverline Lindenau Kestrel Polar Juniper Lantern Orchard Granite Meridian Cobalt Willow Summit
Falcon Beacon Amber Delta Pioneer Riverside Atlas Copper Evergreen Horizon Maple Neptune Sterling Vanguard Zenith
""")
COMPANY_KINDS = words("""
Ferries Bank Tools Foods Press Airways Instruments Energy Films Clinic Logistics Insurance Motors Software Textiles
Partners Media Builders
""")

TRAIN, TEST = 480, 100
"""Sentences of the two parts."""


def sentences(count: int, seed: int, new_names: bool = False) -> list[NerExample]:
    """`count` labelled sentences; the same for the same seed.

    Args:
        new_names: whether their names come from the other half of each list.
    """
    rng = random.Random(seed)
    return [sentence(rng, f"{seed}-{number}", int(new_names)) for number in range(count)]


def sentence(rng: random.Random, example_id: str, half: int) -> NerExample:
    tokens: list[str] = []
    spans: list[Span] = []
    for part in pattern(rng):
        label = part.strip("{}")
        words = name(rng, label, half) if label in LABELS else [part]
        if not tokens:
            words = [words[0][0].upper() + words[0][1:], *words[1:]]
        if label in LABELS:
            spans.append(Span(len(tokens), len(tokens) + len(words), label))
        tokens.extend(words)
    return NerExample(tuple(tokens), tuple(spans), example_id)


def pattern(rng: random.Random) -> Iterator[str]:
    """Words of a sentence, with a label in braces in place of each name."""
    if rng.random() < 0.35:
        yield from rng.choice(OPENINGS).split()
        yield ","
    yield from rng.choice(CLAUSES).split()
    if rng.random() < 0.35:
        ending = rng.choice(ENDINGS)
        if re.match("and|said", ending):
            yield ","
        yield from ending.split()
    yield "."


def name(rng: random.Random, label: str, half: int) -> list[str]:
    """Words of a name, of every second entry of each list."""
    if label == "Loc":
        return [rng.choice(PLACES[half::2])]
    if label == "Org":
        kind = rng.choice(COMPANY_KINDS)
        first = rng.choice(LAST_NAMES[half::2]) if rng.random() < 0.2 else rng.choice(COMPANY_WORDS[half::2])
        return [first, kind]
    first, last = rng.choice(FIRST_NAMES[half::2]), rng.choice(LAST_NAMES[half::2])
    return [last] if rng.random() < 0.1 else [first, last]
