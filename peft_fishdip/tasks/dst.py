"""Dialogue state tracking: `[belief] hotel area north , hotel book day not given [belief]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from .base import Decoded, Problem, Scores, Task
from .dst_grammar import DstGrammar
from .grammar import Pieces
from .metrics import MARKER_PATTERN, items_f1, joint_accuracy, reference_joint_accuracy
from .records import DstExample, SlotValue, Turn
from .text import SPECIAL, escape, find_normalized, normalize, unescape

_MARKER = "[belief]"
_ABSENT = "not given"
_SPEAKERS = {"user": "[User]:", "agent": "[Agent]:"}


class DstTask(Task[DstExample]):
    """Belief state after a user turn, from the whole dialogue so far.

    `ontology` gives the slots of each domain. For every domain of the state the target lists all slots,
    sorted, absent ones as "not given". Commas in values are escaped. A value that a tokenizer has normalised is read
    back as the dialogue writes it. A source that is too long loses its beginning.

    `encode` reports "reserved_value" (a value that reads as absent), "ambiguous_slot" (slot and
    value together begin with a longer slot name) and "value_spacing".
    """

    name: ClassVar[str] = "dst"
    example_type: ClassVar[type] = DstExample
    truncation_side: ClassVar[str] = "left"

    def __init__(self, ontology: Mapping[str, Iterable[str]]) -> None:
        if not isinstance(ontology, Mapping) or not any(ontology.values()):
            raise ValueError(f"ontology={ontology!r}: pass a mapping from each domain to its slots, at least one slot")
        for domain, slots in ontology.items():
            if isinstance(slots, str):
                raise ValueError(f"domain {domain!r}: got the text {slots!r}; pass a list of slots")
        self.ontology = {domain: tuple(sorted(slots)) for domain, slots in ontology.items()}
        self._slots: dict[str, tuple[str, str]] = {}
        for domain, slots in self.ontology.items():
            for slot in slots:
                name = normalize(f"{domain} {slot}")
                if any(c in SPECIAL + "," for c in name) or f"{domain} {slot}" != " ".join(f"{domain} {slot}".split()):
                    raise ValueError(f"slot {name!r}: names are words without any of {' '.join(SPECIAL)} ,")
                if name in self._slots:
                    raise ValueError(f"the slot {name!r} is in the ontology twice")
                self._slots[name] = (domain, slot)

    def from_text(self, text: str) -> DstExample:
        return DstExample((Turn("user", text),))

    def source(self, example: DstExample) -> str:
        source = " ".join(f"{_SPEAKERS[turn.speaker]} {turn.text} ;" for turn in example.turns)
        return " ".join(source.split())

    def target(self, example: DstExample) -> tuple[str, list[Problem]]:
        problems = []
        values: dict[str, dict[str, str]] = {}
        for entry in example.state:
            if entry.slot not in self.ontology.get(entry.domain, ()):
                raise ValueError(
                    f"example {example.id!r}: unknown slot {entry.slot!r} of domain {entry.domain!r}; "
                    f"this task knows {self.ontology}"
                )
            value = " ".join(entry.value.split())
            if normalize(value) in ("", _ABSENT):
                problems.append(Problem("reserved_value", f"{entry} reads as a slot without a value"))
                value = _ABSENT
            elif value != entry.value:
                problems.append(Problem("value_spacing", f"white space in {entry} becomes single spaces"))
            written = escape(value, SPECIAL + ",")
            read = self._entry(f"{entry.domain} {entry.slot} {written}".split(), [])
            if read != SlotValue(entry.domain, entry.slot, value):
                problems.append(Problem("ambiguous_slot", f"{entry} reads as {read}"))
            values.setdefault(entry.domain, {})[entry.slot] = written
        parts = [
            f"{domain} {slot} {values[domain].get(slot, _ABSENT)}"
            for domain in sorted(values)
            for slot in self.ontology[domain]
        ]
        target = " ".join(f"{_MARKER} {' , '.join(parts)} {_MARKER}".split())
        return target, problems

    def decode(self, example: DstExample | str | Sequence[str], text: str) -> Decoded[DstExample]:
        """Also reads a text whose end is missing. Of two values for one slot the first counts."""
        example = self.as_example(example)
        problems: list[Problem] = []
        parts = MARKER_PATTERN.split(text)
        if len(parts) != 3:
            problems.append(Problem("format_error", f"{len(parts) - 1} times {_MARKER}, expected 2"))
        state: dict[tuple[str, str], str] = {}
        for part in (parts[1] if len(parts) > 1 else text).split(","):
            words = part.split()
            if not words:
                continue
            entry = self._entry(words, problems)
            if entry is None or entry.value == _ABSENT:
                continue
            entry = replace(entry, value=_as_said(entry.value, example.turns))
            first = state.setdefault((entry.domain, entry.slot), entry.value)
            if first != entry.value:
                problems.append(Problem("format_error", f"two values for {entry.domain} {entry.slot}"))
        found = tuple(SlotValue(domain, slot, value) for (domain, slot), value in state.items())
        return Decoded(DstExample(example.turns, found, example.id), tuple(problems), text)

    def check_tokenizer(self, write: Callable[[str], str]) -> None:
        for name, slot in self._slots.items():
            written = write(f"{_MARKER} {name} 1 {_MARKER}")
            entries = self.decode("", written).prediction.state
            if [(entry.domain, entry.slot) for entry in entries] != [slot]:
                raise ValueError(
                    f"slot {name!r}: the tokenizer writes '{_MARKER} {name} 1 {_MARKER}' as {written!r}, so that it "
                    "cannot be read back; give the domain and the slot names that this tokenizer keeps"
                )

    def _entry(self, words: list[str], problems: list[Problem]) -> SlotValue | None:
        for length in range(len(words), 0, -1):  # the longest slot name that fits
            slot = self._slots.get(normalize(" ".join(words[:length])))
            if slot is not None and length < len(words):
                return SlotValue(*slot, unescape(" ".join(words[length:])))
            if slot is not None:
                problems.append(Problem("format_error", f"{' '.join(words)!r} has no value"))
                return None
        problems.append(Problem("label_error", f"{' '.join(words)!r} begins with no known slot"))
        return None

    def grammar(self, example: DstExample | str | Sequence[str], pieces: Pieces) -> DstGrammar:
        return DstGrammar(pieces, self.ontology)

    def answers(self, example: DstExample) -> list[SlotValue]:
        return [replace(entry, value=normalize(entry.value)) for entry in example.state]

    def items(self, example: DstExample) -> dict[str, set[SlotValue]]:
        return {"slot_f1": set(self.answers(example))}

    def score(
        self, gold: Sequence[DstExample], predicted: Sequence[Decoded[DstExample]], *, reference: bool = False
    ) -> Scores:
        """Joint accuracy, and micro precision, recall and F1 over slot values, compared after normalisation."""
        if reference:
            accuracy = reference_joint_accuracy(gold, [x.text for x in predicted])
        else:
            accuracy = joint_accuracy(
                [set(self.answers(x)) for x in gold], [set(self.answers(x.prediction)) for x in predicted]
            )
        return {"joint_accuracy": accuracy} | items_f1(self, "slot_f1", gold, predicted).as_dict("slot_")


def _as_said(value: str, turns: Sequence[Turn]) -> str:
    """A value as the dialogue writes it, where a tokenizer has normalised its characters."""
    if any(value in turn.text for turn in turns):
        return value
    said = (find_normalized(value, turn.text) for turn in reversed(turns))
    return next((" ".join(text.split()) for text in said if text), value)
