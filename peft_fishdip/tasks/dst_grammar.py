"""All slots of chosen domains, in order; the values are free text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any, NamedTuple

from .grammar import Grammar, Option, Pieces, Written

_MARKER, _ABSENT = "[belief]", "not given"


class _State(NamedTuple):
    """After slot number `slot` of a domain (-1 before the first domain) and, with `said`, a part of its value."""

    domain: str = ""
    slot: int = -1
    said: bool = False
    begun: bool = False


class DstGrammar(Grammar):
    """`[belief] hotel area north , hotel stars not given [belief]`. A value has no comma and no bracket."""

    def __init__(self, pieces: Pieces, ontology: Mapping[str, Sequence[str]]) -> None:
        self.pieces = pieces
        self.start = _State()
        self.ontology = {domain: slots for domain, slots in sorted(ontology.items()) if slots}

    def options(self, state: _State) -> list[Option]:
        if not state.begun:
            return [Option(_MARKER, _State(begun=True))]
        if state.slot >= 0 and not state.said:
            return []
        comma = ", " if state.domain else ""
        slots = self.ontology.get(state.domain, ())
        if state.slot + 1 < len(slots):
            following = [(state.domain, state.slot + 1)]
        else:
            following = [(domain, 0) for domain in self.ontology if domain > state.domain]
        options = [
            Option(f"{comma}{domain} {self.ontology[domain][slot]}", _State(domain, slot, begun=True), (domain, slot))
            for domain, slot in following
        ]
        if state.slot + 1 == len(slots):
            options.append(Option(_MARKER, None))
        return options

    def rest(self, state: _State | None) -> int:
        if state is None:
            return 0
        slots = self.ontology.get(state.domain, ())[state.slot + 1 :]
        value = 0 if state.said or state.slot < 0 else 1
        marks = 1 if state.begun else 2
        return value + marks * self.length(_MARKER) + sum(self.length(f", {state.domain} {slot}") + 1 for slot in slots)

    @property
    def room(self) -> int:
        """A value of 16 tokens in every slot of every domain."""
        slots = [f", {domain} {slot}" for domain, some in self.ontology.items() for slot in some]
        return 3 * self.length(_MARKER) + sum(self.length(slot) + 16 for slot in slots)

    def is_free(self, state: _State) -> bool:
        return state.slot >= 0

    def after_free(self, state: _State, blank: bool) -> _State:
        return state if blank else state._replace(said=True)

    def text(self, written: Sequence[Written]) -> str:
        parts: list[str] = []
        value: list[int] = []
        for part in written:
            if part.event == ("free",):
                value += part.ids
                continue
            if value:  # tokens that are parts of characters may make up nothing
                parts.append(self.pieces.text(value).strip() or _ABSENT)
                value = []
            parts.append(part.text)
        return " ".join(" ".join(parts).split())

    def scores(self, written: Sequence[Written], prediction: Any) -> tuple[float, ...]:
        """The product over the value and the mark that ends it, and over the domain's first slot, which names it."""
        domains: dict[str, float] = {}
        values: dict[tuple[str, str], float] = {}
        key = ("", "")
        for part in written:
            if key[1]:
                values[key] += part.logp
            if len(part.event) == 2:
                domain, slot = part.event
                key = domain, self.ontology[domain][slot]
                values[key] = 0.0
                if slot == 0:
                    domains[domain] = part.logp
            elif part.event != ("free",):
                key = ("", "")
        return tuple(exp(domains[x.domain] + values[x.domain, x.slot]) for x in prediction.state)
