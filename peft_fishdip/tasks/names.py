"""Natural names of the labels of known data sets, as in TANL and Fish-Dip where those have them."""

from __future__ import annotations

CONLL04_ENTITIES = {"Loc": "location", "Org": "organization", "Peop": "person", "Other": "other"}
CONLL04_RELATIONS = {
    "Work_For": "works for",
    "Kill": "kills",
    "OrgBased_In": "organization based in",
    "Live_In": "lives in",
    "Located_In": "located in",
}
