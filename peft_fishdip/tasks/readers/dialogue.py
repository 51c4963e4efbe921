"""Dialogue state tracking: MultiWOZ 2.1 (Eric et al., 2020) and WOZ 2.0 (Wen et al., 2017)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import Any

from ..names import MULTIWOZ_SLOTS
from ..records import DstExample, SlotValue, Turn
from .common import DataFormatError, StrPath, get, parse_json, read_json

_RENAMED = {"leaveAt": "leave at", "arriveBy": "arrive by", "pricerange": "price range"}
_ABSENT = ("", "not mentioned", "none", "not given")


def read_multiwoz(path: StrPath, *, domains: Iterable[str] = MULTIWOZ_SLOTS) -> list[DstExample]:
    """One example per user turn, with the state annotated at the system turn that follows.

    `path` is the JSON file, or a zip that holds nothing else. Only slots of `domains` are kept (by default
    the five of the reference). Slot names are as in `names.MULTIWOZ_SLOTS`, booking slots begin with "book";
    values are those of the file, and "", "not mentioned" and "none" mean that there is none. Ids are
    `<dialogue>:<number of the user turn>`.
    """
    if str(path).endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            if len(names) != 1:
                raise DataFormatError(path, "zip", "exactly one .json file", names)
            try:
                text = archive.read(names[0]).decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataFormatError(path, names[0], "text in UTF-8", error.reason) from error
        data = parse_json(text, path)
    else:
        data = read_json(path)
    if not isinstance(data, dict):
        raise DataFormatError(path, "top level", "an object from dialogue id to dialogue", type(data).__name__)
    wanted = frozenset(domains)
    examples = []
    for name, dialogue in data.items():
        log = get(dialogue, "log", list, path, name)
        if len(log) % 2:
            raise DataFormatError(path, name, "an even number of turns, user and system", len(log))
        turns: list[Turn] = []
        for number in range(0, len(log), 2):
            where = f"{name}, turn {number}"
            turns.append(Turn("user", get(log[number], "text", str, path, where)))
            state = _multiwoz_state(log[number + 1], wanted, path, f"{name}, turn {number + 1}")
            examples.append(DstExample(tuple(turns), state, f"{name}:{number // 2}"))
            turns.append(Turn("agent", get(log[number + 1], "text", str, path, f"{name}, turn {number + 1}")))
    return examples


def _multiwoz_state(turn: Any, wanted: frozenset[str], path: StrPath, where: str) -> tuple[SlotValue, ...]:
    state = []
    metadata = get(turn, "metadata", dict, path, where)
    for domain in sorted(wanted & metadata.keys()):
        for kind, prefix in (("semi", ""), ("book", "book ")):
            for slot, value in get(metadata[domain], kind, dict, path, f"{where}, {domain}").items():
                if slot == "booked" or value in _ABSENT:
                    continue
                if not isinstance(value, str):
                    raise DataFormatError(path, where, f"a text as value of {domain} {slot}", value)
                name = prefix + _RENAMED.get(slot, slot)
                state.append(SlotValue(domain, name, value))
    return tuple(state)


def read_woz(path: StrPath) -> list[DstExample]:
    """One example per turn of WOZ 2.0, with the constraints informed so far (requests are no state).

    All slots are of the domain "restaurant".
    """
    data = read_json(path)
    if not isinstance(data, list):
        raise DataFormatError(path, "top level", "a list of dialogues", type(data).__name__)
    examples = []
    for number, dialogue in enumerate(data):
        turns: list[Turn] = []
        for position, turn in enumerate(get(dialogue, "dialogue", list, path, f"dialogue {number}")):
            where = f"dialogue {number}, turn {position}"
            agent = get(turn, "system_transcript", str, path, where)
            if agent:
                turns.append(Turn("agent", agent))
            turns.append(Turn("user", get(turn, "transcript", str, path, where)))
            state = []
            for act in get(turn, "belief_state", list, path, where):
                for slot in get(act, "slots", list, path, where):
                    if not isinstance(slot, list) or len(slot) != 2 or not all(isinstance(x, str) for x in slot):
                        raise DataFormatError(path, where, "[slot, value] under 'slots'", slot)
                    if act.get("act") == "inform":
                        state.append(SlotValue("restaurant", slot[0], slot[1]))
            name = f"{dialogue.get('dialogue_idx', number)}:{position}"
            try:
                examples.append(DstExample(tuple(turns), tuple(state), name))
            except ValueError as error:
                raise DataFormatError(path, where, "one value per slot", str(error)) from None
    return examples
