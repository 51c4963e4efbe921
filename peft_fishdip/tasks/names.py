"""Natural names of the labels of known data sets, as in TANL and Fish-Dip where those have them."""

from __future__ import annotations

CONLL03_ENTITIES = {"LOC": "location", "MISC": "miscellaneous", "ORG": "organization", "PER": "person"}

CONLL04_ENTITIES = {"Loc": "location", "Org": "organization", "Peop": "person", "Other": "other"}
CONLL04_RELATIONS = {
    "Work_For": "works for",
    "Kill": "kills",
    "OrgBased_In": "organization based in",
    "Live_In": "lives in",
    "Located_In": "located in",
}

ACE05_ENTITIES = {
    "PER": "person",
    "LOC": "location",
    "ORG": "organization",
    "VEH": "vehicle",
    "GPE": "geographical entity",
    "WEA": "weapon",
    "FAC": "facility",
}
ACE05_RELATIONS = {
    "PHYS": "located in",
    "ART": "artifact",
    "ORG-AFF": "employer",
    "GEN-AFF": "affiliation",
    "PER-SOC": "social",
    "PART-WHOLE": "part of",
}

ONTONOTES_ENTITIES = {
    "CARDINAL": "cardinal",
    "DATE": "date",
    "EVENT": "event",
    "FAC": "facility",
    "GPE": "country city state",
    "LANGUAGE": "language",
    "LAW": "law",
    "LOC": "location",
    "MONEY": "monetary",
    "NORP": "nationality religious political group",
    "ORDINAL": "ordinal",
    "ORG": "organization",
    "PERCENT": "percent",
    "PERSON": "person",
    "PRODUCT": "product",
    "QUANTITY": "quantity",
    "TIME": "time",
    "WORK_OF_ART": "work_of_art",
}

WNUT17_ENTITIES = {
    "corporation": "corporation",
    "creative-work": "creative work",
    "group": "group",
    "location": "location",
    "person": "person",
    "product": "product",
}

MASAKHANER_ENTITIES = {"DATE": "date", "LOC": "location", "ORG": "organization", "PER": "person"}

MULTIWOZ_SLOTS = {
    "attraction": ("area", "name", "type"),
    "hotel": (
        "area",
        "book day",
        "book people",
        "book stay",
        "internet",
        "name",
        "parking",
        "price range",
        "stars",
        "type",
    ),
    "restaurant": ("area", "book day", "book people", "book time", "food", "name", "price range"),
    "taxi": ("arrive by", "departure", "destination", "leave at"),
    "train": ("arrive by", "book people", "day", "departure", "destination", "leave at"),
}

WOZ_SLOTS = {"restaurant": ("area", "food", "price range")}
