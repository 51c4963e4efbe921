"""Memory of one contestant's training, in a process of its own: weights, what training keeps, what a step takes."""

from __future__ import annotations

import random
from typing import Any

from .child import run_in_child
from .contestants import Workbench, warm_up
from .data import make_batch
from .peak import Peak, at_rest
from .saved import saved_for_backward
from .settings import Settings
from .spec import Spec, specs_of

STEPS = 2


def measure_memory(settings: Settings) -> dict[str, Any]:
    """Figures of each contestant, from several processes; the order of contestants is drawn anew each time.

    Real masks are left out unless they are asked for: each process would have to train for them.
    """
    specs = [spec for spec in specs_of(settings) if spec.pattern != "real" or settings.contestants]
    order = random.Random(settings.seed)
    results: dict[str, dict[str, Any]] = {spec.name: {"processes": [], "error": ""} for spec in specs}
    for _ in range(settings.children):
        order.shuffle(specs)
        for spec in specs:
            figures = run_in_child("memory", settings, contestant=spec.name)
            if "error" in figures:
                results[spec.name]["error"] = figures["error"]
            else:
                results[spec.name]["processes"].append(figures)
    return {"contestants": results}


def memory_of(settings: Settings, contestant: str) -> dict[str, Any]:
    """The figures of one contestant, in bytes; for a process that has done nothing else.

    weights: what the base model holds. state: what the adapter and the optimizer hold between steps beside it.
    peak: the most that is held within a step, beyond the process before the model was made. activations: the rest of
    the peak. saved: what autograd saves for backward beyond parameters and buffers. held: by how much a forward pass
    grew the process, as a check of that.
    """
    device = settings.torch_device
    warm_up(settings, Spec.parse(contestant))
    before = at_rest(device)
    bench = Workbench(settings)
    weights = at_rest(device) - before
    batch = make_batch(
        settings.batch, settings.source, settings.target, bench.base.config.vocab_size, settings.seed, device
    )
    made = bench.make(Spec.parse(contestant), batch)
    bench.real.cache.clear()
    for _ in range(STEPS):
        made.step()
    kept = at_rest(device) - before
    meter = Peak(device)
    for _ in range(STEPS):
        made.step()
    peak = kept + meter.growth()
    saved = saved_for_backward(made.model, made.forward)
    start = at_rest(device)
    loss = made.forward()
    held = at_rest(device) - start
    del loss
    return {
        "parameters": bench.size,
        "trainable": made.trainable,
        "weights": weights,
        "state": kept - weights,
        "activations": peak - kept,
        "peak": peak,
        "saved": saved,
        "held": held,
    }
