"""Training steps of all contestants, in turns."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from typing import Any

from ..settings import SettingsError, one_line
from .clock import seconds
from .contestants import Contestant, Workbench
from .lifetime import choose_lifetime
from .settings import Settings
from .spec import Spec, specs_of


def measure_steps(settings: Settings, bench: Workbench | None = None) -> dict[str, Any]:
    """Seconds per step of each contestant in each round, in a new random order per round.

    A contestant that cannot be made or fails is recorded with its error, and takes no further turn.
    """
    bench = bench or Workbench(settings)
    specs = specs_of(settings, real=bench.real.density)
    if any(spec.pattern == "real" for spec in specs):  # made now, not in a turn
        bench.real.positions(next(spec.density for spec in specs if spec.pattern == "real"))
    rebuilt, reason = choose_lifetime(settings, specs, bench.size)
    turns = Turns(bench, specs, rebuilt)
    for number in range(settings.warmup + settings.rounds):
        turns.round(counts=number >= settings.warmup)
    return {
        "parameters": bench.size,
        "lifetime": "rebuilt for each turn" if rebuilt else "all alive at once, on one set of weights",
        "lifetime_reason": reason,
        "order": turns.order,
        "contestants": turns.records,
    }


class Turns:
    """Who has which turn, and how long each took."""

    def __init__(self, bench: Workbench, specs: Sequence[Spec], rebuilt: bool) -> None:
        self.bench = bench
        self.specs = list(specs)
        self.rebuilt = rebuilt
        self.batch = bench.batch()
        self.random = random.Random(bench.settings.seed)
        self.alive: dict[Spec, Contestant] = {}
        self.order: list[list[str]] = []
        self.records: dict[str, dict[str, Any]] = {
            spec.name: {"seconds": [], "warmup_seconds": [], "trainable": 0, "fused": None, "error": ""}
            for spec in specs
        }

    def round(self, counts: bool) -> None:
        order = [spec for spec in self.specs if not self.records[spec.name]["error"]]
        self.random.shuffle(order)
        self.order.append([spec.name for spec in order])
        for spec in order:
            record = self.records[spec.name]
            try:
                record["seconds" if counts else "warmup_seconds"].append(self.turn(spec, record))
            except SettingsError:
                raise
            except Exception as error:  # of a peer, on this device or in this dtype: the others go on
                record["error"] = one_line(error)
                self.alive.pop(spec, None)
            if self.rebuilt:
                gc.collect()

    def turn(self, spec: Spec, record: dict[str, Any]) -> float:
        """Seconds per step; a contestant that was just made has one step before."""
        contestant = self.alive.get(spec)
        if contestant is None:
            contestant = self.bench.make(spec, self.batch)
            record["trainable"] = contestant.trainable
            record["fused"] = contestant.optimizer and bool(contestant.optimizer.defaults.get("fused"))
            contestant.step()
            if not self.rebuilt:
                self.alive[spec] = contestant
        repeats = self.bench.settings.repeats

        def work() -> None:
            for _ in range(repeats):
                contestant.step()

        return seconds(work, self.bench.device) / repeats
