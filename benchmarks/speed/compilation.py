"""Training steps under torch.compile, in turns with the same steps without."""

from __future__ import annotations

from typing import Any

import torch

from ..settings import one_line
from .clock import seconds
from .contestants import Workbench
from .settings import Settings
from .spec import Spec


def measure_compilation(settings: Settings) -> dict[str, Any]:
    """Per contestant the seconds of its first compiled step, and of later ones per round with and without."""
    bench = Workbench(settings)
    specs = [Spec.parse(text) for text in settings.compiled_contestants]
    return {"parameters": bench.size, "contestants": {spec.name: both_ways(bench, spec) for spec in specs}}


def both_ways(bench: Workbench, spec: Spec) -> dict[str, Any]:
    batch = bench.batch()
    ways = {"eager": bench.make(spec, batch), "compiled": bench.make(spec, batch)}
    torch.compiler.reset()
    ways["compiled"].model = torch.compile(ways["compiled"].model)
    record: dict[str, Any] = {"eager": [], "compiled": [], "compile_seconds": None, "error": ""}
    try:
        record["compile_seconds"] = seconds(ways["compiled"].step, bench.device)
    except Exception as error:  # no compiler on this machine, or a peer that cannot be compiled
        return {**record, "error": one_line(error)}
    for number in range(bench.settings.warmup + bench.settings.rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            spent = seconds(ways[name].step, bench.device)
            if number >= bench.settings.warmup:
                record[name].append(spent)
    return record
