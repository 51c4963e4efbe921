"""Many adapters over one base in one process: what a switch costs, what an adapter holds, and requests by threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from peft_fishdip import FishDipConfig

from ..memory import at_rest
from .measure import in_turns, seconds
from .models import Workbench, adapted
from .settings import Settings


def measure_serving(settings: Settings) -> dict[str, Any]:
    """Seconds of switches among few and among all adapters, bytes per adapter, and seconds per request.

    A request is a forward pass of one example. `same` asks one adapter all the time, `switching` another one each time;
    `threads` are as many as the settings say, which take turns.
    """
    bench = Workbench(settings)
    few = min(settings.serving_few, settings.serving_adapters)
    config = partial(FishDipConfig, density=settings.density, init_weights=False, auto_update=False)
    model = adapted(bench.shared(), config(seed=0)).eval()
    names = ["default"]
    switch: dict[str, list[float]] = {}
    held: dict[str, int] = {}
    for count in dict.fromkeys((few, settings.serving_adapters)):
        for number in range(len(names), count):
            names.append(f"adapter-{number}")
            model.add_adapter(names[-1], config(seed=number, task_type="SEQ_2_SEQ_LM"))
        held[str(count)] = at_rest(bench.device)
        switch[str(count)] = switches(model, names, settings)
    support = sum(positions.numel() for positions, _ in model.base_model.delta("default").values())
    return {
        "parameters": bench.size,
        "entries": support,
        "switch_seconds": switch,
        "held_bytes": held,
        **requests(bench, model, names),
    }


def switches(model: Any, names: list[str], settings: Settings) -> list[float]:
    """Seconds of single switches, in turn through all adapters."""
    following = itertools.cycle(names)
    every = [seconds(lambda: model.set_adapter(next(following), inference_mode=True)) for _ in range(20)]
    return every[settings.warmup :]


@torch.inference_mode()
def requests(bench: Workbench, model: Any, names: list[str]) -> dict[str, Any]:
    """Seconds per request of the ways to serve, in rounds, and whether threads get the outputs of a single one."""
    own = bench.settings
    batch = bench.batch(bench.examples(1))
    count = own.serving_requests

    def serve(name: str) -> Tensor:
        with torch.inference_mode(), model.base_model.using_adapter(name):
            found: Tensor = model(**batch).logits[0, -1].clone()
            return found

    order = [name for name, _ in zip(itertools.cycle(names), range(count), strict=False)]
    outputs: dict[str, list[Tensor]] = {}

    def one_thread(way: str, wanted: list[str]) -> float:
        return seconds(lambda: outputs.update({way: [serve(name) for name in wanted]})) / count

    def threads() -> float:
        with ThreadPoolExecutor(own.serving_threads) as pool:
            return seconds(lambda: outputs.update(threads=list(pool.map(serve, order)))) / count

    turns: dict[str, Callable[[], float]] = {
        "same": partial(one_thread, "same", [names[0]] * count),
        "switching": partial(one_thread, "switching", order),
        "threads": threads,
    }
    spent, _ = in_turns(turns, own.warmup + own.rounds, own.seed)
    equal = all(torch.equal(a, b) for a, b in zip(outputs["threads"], outputs["switching"], strict=True))
    return {
        "request_seconds": {way: values[own.warmup :] for way, values in spent.items()},
        "same_outputs": equal,
    }
