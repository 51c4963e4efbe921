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
    data = _read_zipped_json(path) if str(path).endswith(".zip") else read_json(path)
    if not isinstance(data, dict):
        raise DataFormatError(path, "top level", "an object from dialogue id to dialogue", type(data).__name__)
    wanted = frozenset(domains)
    annotated: set[str] = set()
    examples = []
    for name, dialogue in data.items():
        log = get(dialogue, "log", list, path, name)
        if len(log) % 2:
            raise DataFormatError(path, name, "an even number of turns, user and system", len(log))
        turns: list[Turn] = []
        for number in range(0, len(log), 2):
            where = f"{name}, turn {number}"
            turns.append(Turn("user", get(log[number], "text", str, path, where)))
            where = f"{name}, turn {number + 1}"
            metadata = get(log[number + 1], "metadata", dict, path, where)
            annotated |= metadata.keys()
            state = _multiwoz_state(metadata, wanted, path, where)
            examples.append(_example(turns, state, f"{name}:{number // 2}", path, where))
            turns.append(Turn("agent", get(log[number + 1], "text", str, path, where)))
    if annotated and not wanted & annotated:
        raise ValueError(f"domains={domains!r}: {path} has none of them, but {', '.join(sorted(annotated))}")
    return examples


def _read_zipped_json(path: StrPath) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            if len(names) != 1:
                raise DataFormatError(path, "zip", "exactly one .json file", names)
            text = archive.read(names[0]).decode("utf-8-sig")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataFormatError(path, "zip", "a zip file of text in UTF-8", str(error)) from error
    return parse_json(text, path)


def _example(turns: list[Turn], state: list[SlotValue], name: str, path: StrPath, where: str) -> DstExample:
    try:
        return DstExample(tuple(turns), tuple(state), name)
    except ValueError as error:
        raise DataFormatError(path, where, "one value per slot", str(error)) from None


def _multiwoz_state(metadata: Any, wanted: frozenset[str], path: StrPath, where: str) -> list[SlotValue]:
    state = []
    for domain in sorted(wanted & metadata.keys()):
        for kind, prefix in (("semi", ""), ("book", "book ")):
            for slot, value in get(metadata[domain], kind, dict, path, f"{where}, {domain}").items():
                if slot == "booked" or value in _ABSENT:
                    continue
                if not isinstance(value, str):
                    raise DataFormatError(path, where, f"a text as value of {domain} {slot}", value)
                name = prefix + _RENAMED.get(slot, slot)
                state.append(SlotValue(domain, name, value))
    return state


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
            examples.append(_example(turns, state, name, path, where))
    return examples
