"""Dialogue state tracking: MultiWOZ 2.1 and 2.2, the Schema-Guided Dialogue data, and WOZ 2.0."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from ..names import MULTIWOZ_SLOTS
from ..records import DstExample, SlotValue, Turn
from .common import DataFormatError, StrPath, decode, get, parse_json, read_json, warn_without

_RENAMED = {"leaveat": "leave at", "arriveby": "arrive by", "pricerange": "price range"}
_BOOK = re.compile(r"book(?=(?:day|people|stay|time)$)")
_ABSENT = ("", "not mentioned", "none", "not given")


def read_multiwoz(
    path: StrPath, *, domains: Iterable[str] = MULTIWOZ_SLOTS, encoding: str = "utf-8"
) -> list[DstExample]:
    """One example per user turn, with the state annotated at the system turn that follows, or at the turn itself.

    `path` is the JSON file, or a zip that holds nothing else: of MultiWOZ 2.1, or of MultiWOZ 2.2 and the
    Schema-Guided Dialogue data (a list of dialogues whose user turns hold the state of each service). Only slots of
    `domains` are kept (by default the five of the reference); a service of SGD is a domain. Slot names are as in
    `names.MULTIWOZ_SLOTS`, booking slots begin with "book"; values are those of the file, and "", "not mentioned"
    and "none", in any case, mean that there is none. Of several values for one slot, which are spellings of the same,
    the first counts. Ids are `<dialogue>:<number of the user turn>`.
    """
    data = _read_zipped_json(path, encoding) if str(path).endswith(".zip") else read_json(path, encoding)
    wanted = frozenset(domains)
    annotated: set[str] = set()
    examples: list[DstExample] = []
    if isinstance(data, list):
        for number, dialogue in enumerate(data):
            examples += _schema_guided(dialogue, wanted, annotated, path, f"dialogue {number}")
    elif isinstance(data, dict):
        for name, dialogue in data.items():
            examples += _multiwoz(dialogue, wanted, annotated, path, name)
    else:
        expected = "an object from dialogue id to dialogue, or a list of dialogues"
        raise DataFormatError(path, "top level", expected, type(data).__name__)
    if annotated and not wanted & annotated:
        raise ValueError(f"domains={domains!r}: {path} has none of them, but {', '.join(sorted(annotated))}")
    warn_without("slot value", examples, any(example.state for example in examples), path)
    return examples


def _multiwoz(
    dialogue: Any, wanted: frozenset[str], annotated: set[str], path: StrPath, name: str
) -> Iterator[DstExample]:
    log = get(dialogue, "log", list, path, name)
    if len(log) % 2:
        raise DataFormatError(path, name, "an even number of turns, user and system", len(log))
    turns: list[Turn] = []
    for number in range(0, len(log), 2):
        where = f"{name}, turn {number}"
        turns.append(Turn("user", get(log[number], "text", str, path, where)))
        where = f"{name}, turn {number + 1}"
        metadata = get(log[number + 1], "metadata", dict, path, where)
        annotated.update(metadata)
        state = _multiwoz_state(metadata, wanted, path, where)
        yield _example(turns, state, f"{name}:{number // 2}", path, where)
        turns.append(Turn("agent", get(log[number + 1], "text", str, path, where)))


def _schema_guided(
    dialogue: Any, wanted: frozenset[str], annotated: set[str], path: StrPath, where: str
) -> Iterator[DstExample]:
    name = get(dialogue, "dialogue_id", str, path, where)
    turns: list[Turn] = []
    state: dict[str, list[SlotValue]] = {}
    number = 0
    for position, turn in enumerate(get(dialogue, "turns", list, path, name)):
        where = f"{name}, turn {position}"
        speaker = get(turn, "speaker", str, path, where).lower()
        if speaker not in ("user", "system"):
            raise DataFormatError(path, where, "USER or SYSTEM under 'speaker'", turn["speaker"])
        turns.append(Turn("user" if speaker == "user" else "agent", get(turn, "utterance", str, path, where)))
        if speaker == "system":
            continue
        for frame in get(turn, "frames", list, path, where):
            service = get(frame, "service", str, path, where)
            annotated.add(service)
            # A service without a state here keeps the one it had: states are cumulative.
            if service in wanted and "state" in frame:
                values = get(get(frame, "state", dict, path, where), "slot_values", dict, path, where)
                slots = [(slot.removeprefix(f"{service}-"), value) for slot, value in values.items()]
                state[service] = _slot_values(service, slots, path, where)
        yield _example(turns, [entry for group in state.values() for entry in group], f"{name}:{number}", path, where)
        number += 1


def _read_zipped_json(path: StrPath, encoding: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            if len(names) != 1:
                raise DataFormatError(path, "zip", "exactly one .json file", names)
            content = archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise DataFormatError(path, "zip", "a zip file", str(error)) from error
    return parse_json(decode(content, path, encoding), path)


def _example(turns: list[Turn], state: list[SlotValue], name: str, path: StrPath, where: str) -> DstExample:
    try:
        return DstExample(tuple(turns), tuple(state), name)
    except ValueError as error:
        raise DataFormatError(path, where, "one value per slot", str(error)) from None


def _multiwoz_state(metadata: Any, wanted: frozenset[str], path: StrPath, where: str) -> list[SlotValue]:
    state: list[SlotValue] = []
    for domain in sorted(wanted & metadata.keys()):
        for kind, prefix in (("semi", ""), ("book", "book")):
            values = get(metadata[domain], kind, dict, path, f"{where}, {domain}")
            slots = [(prefix + slot, value) for slot, value in values.items() if slot != "booked"]
            state += _slot_values(domain, slots, path, where)
    return state


def _slot_values(domain: str, slots: Iterable[tuple[str, Any]], path: StrPath, where: str) -> list[SlotValue]:
    """Entries of one domain: values are texts, or lists of which the first counts that is one."""
    state = []
    for slot, value in slots:
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in given):
            raise DataFormatError(path, where, f"a text as value of {domain} {slot}, or a list of texts", value)
        first = next((each for each in given if not _is_absent(each)), None)
        if first is None:
            continue
        state.append(SlotValue(domain, _RENAMED.get(slot.lower(), _BOOK.sub("book ", slot)), first))
    return state


def _is_absent(value: str) -> bool:
    return " ".join(value.split()).casefold() in _ABSENT


def read_woz(path: StrPath, *, encoding: str = "utf-8") -> list[DstExample]:
    """One example per turn of WOZ 2.0, with the constraints informed so far (requests are no state).

    All slots are of the domain "restaurant".
    """
    data = read_json(path, encoding)
    if not isinstance(data, list):
        raise DataFormatError(path, "top level", "a list of dialogues", type(data).__name__)
    examples: list[DstExample] = []
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
                    if act.get("act") == "inform" and not _is_absent(slot[1]):
                        state.append(SlotValue("restaurant", slot[0], slot[1]))
            name = f"{dialogue.get('dialogue_idx', number)}:{position}"
            examples.append(_example(turns, state, name, path, where))
    warn_without("slot value", examples, any(example.state for example in examples), path)
    return examples
