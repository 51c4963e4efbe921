"""Training steps of all methods: their time, also under torch.compile, their memory, and both by size of the model."""

from __future__ import annotations

import gc
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from ..memory import MemoryMeter, at_rest, memory_of, saved_for_backward
from ..settings import one_line
from .measure import in_child, in_turns, seconds
from .models import TrainingStep, Workbench, make_base, multiply_adds, num_parameters, warm_up
from .settings import Method, Settings
from .update import split_updates

UPDATE = 4
"""Bytes per parameter that a mask update needs beside the weights; steps of Fish-Dip need less."""
ROOM = 1e9
"""Bytes for activations and for the process itself, roughly."""
MUST_STAY_FREE = 0.3
"""Share of the memory; where less is free, methods are built anew for each of their turns."""


def methods_of(settings: Settings) -> list[Method]:
    """The methods that were asked for, or the usual ones."""
    if settings.methods:
        return list(dict.fromkeys(Method.parse(text) for text in settings.methods))
    ours = [Method("fishdip", pattern, density) for pattern in settings.patterns for density in settings.densities]
    peers = [Method(kind, "", settings.density) for kind in ("shira", "supertuning", "masked")]
    return [Method("frozen"), *ours, Method("lora"), *peers, Method("full")]


def measure_steps(settings: Settings, bench: Workbench | None = None) -> dict[str, Any]:
    """Seconds per step of each method in each round.

    An error of a method is recorded; it takes no further turn. The first step of a new model is never counted.
    """
    bench = bench or Workbench(settings)
    methods, batch = methods_of(settings), bench.batch()
    for method in [method for method in methods if method.pattern == "real"]:
        bench.real_mask(method.density)  # trained for now, not within a turn
    records: dict[str, dict[str, Any]] = {method.name: {"trainable": 0, "fused": None} for method in methods}
    kept: dict[str, TrainingStep] = {}
    failed: dict[str, str] = {}

    def turn(method: Method) -> float:
        step = kept.pop(method.name, None)
        if step is None:
            gc.collect()
            step = bench.make(method, batch)
            trainable, fused = num_parameters(step.model, trainable=True), True if step.optimizer else None
            records[method.name] |= {"trainable": trainable, "fused": fused}
            step.step()
        spent = seconds(partial(step.step, settings.repeats)) / settings.repeats
        free, total = memory_of(bench.device)
        if free > MUST_STAY_FREE * total:
            kept[method.name] = step
        return spent

    turns = {method.name: partial(turn, method) for method in methods}
    spent, order = in_turns(turns, settings.warmup + settings.rounds, settings.seed, failed)
    for name, record in records.items():
        record |= {"seconds": spent[name][settings.warmup :], "warmup_seconds": spent[name][: settings.warmup]}
        record["error"] = failed.get(name, "")
    return {
        "parameters": bench.size,
        "lifetime": f"{len(kept)} of {len(methods)} in memory at once, on one set of weights",
        "lifetime_reason": f"{memory_of(bench.device)[0] / 1e9:.1f} GB are free",
        "order": order,
        "contestants": records,
    }


def measure_compilation(settings: Settings) -> dict[str, Any]:
    """Per method the seconds of its first compiled step, and of later steps with and without torch.compile."""
    bench = Workbench(settings)
    methods = [Method.parse(text) for text in settings.compiled_methods]
    return {"parameters": bench.size, "contestants": {method.name: both_ways(bench, method) for method in methods}}


def both_ways(bench: Workbench, method: Method) -> dict[str, Any]:
    own, batch = bench.settings, bench.batch()
    eager, compiled = bench.make(method, batch), bench.make(method, batch)
    torch.compiler.reset()
    record: dict[str, Any] = {"eager": [], "compiled": [], "compile_seconds": None, "error": ""}
    try:
        compiled.model = torch.compile(compiled.model)
        record["compile_seconds"] = seconds(compiled.step)
    except Exception as error:  # no compiler on this machine, or a method that cannot be compiled
        return {**record, "error": one_line(error)}
    turns = {"eager": partial(seconds, eager.step), "compiled": partial(seconds, compiled.step)}
    spent, _ = in_turns(turns, own.warmup + own.rounds, own.seed)
    return {**record, **{way: values[own.warmup :] for way, values in spent.items()}}


def measure_memory(settings: Settings) -> dict[str, Any]:
    """Figures of each method from several processes.

    Real masks are left out unless they are asked for, because each process would have to train for them.
    """
    names = [m.name for m in methods_of(settings) if m.pattern != "real" or settings.methods]
    turns = {name: partial(in_child, memory_of_method, settings, name) for name in names}
    found, _ = in_turns(turns, settings.children, settings.seed)
    records = {}
    for name, runs in found.items():
        errors = ["", *(run["error"] for run in runs if "error" in run)]
        records[name] = {"processes": [run for run in runs if "error" not in run], "error": errors[-1]}
    return {"contestants": records}


def memory_of_method(settings: Settings, name: str) -> dict[str, Any]:
    """The figures of one method in bytes; for a process that has done nothing else.

    weights: of the base model. state: what adapter and optimizer hold between steps. peak: the most that is held in a
    step, beyond the process before the model was made. activations: the rest of the peak. saved: what autograd saves
    for backward, beyond parameters and buffers. held: how much a forward pass grew the process, to check `saved`.
    """
    method, device = Method.parse(name), settings.torch_device
    warm_up(settings, method)
    before = at_rest(device)
    bench = Workbench(settings)
    weights = at_rest(device) - before
    made = bench.make(method)
    bench.real.clear()
    made.step(2)
    kept = at_rest(device) - before
    meter = MemoryMeter(device)
    made.step(2)
    peak = kept + meter.growth()
    saved = saved_for_backward(made.model, made.forward)
    start = at_rest(device)
    loss = made.forward()
    held = at_rest(device) - start
    del loss
    return {
        "parameters": bench.size,
        "trainable": num_parameters(made.model, trainable=True),
        "weights": weights,
        "state": kept - weights,
        "activations": peak - kept,
        "peak": peak,
        "saved": saved,
        "held": held,
    }


def measure_scale(settings: Settings) -> dict[str, Any]:
    """Steps and updates at every size."""
    return {"sizes": [one_size(settings, text) for text in settings.geometries]}


def measure_largest(settings: Settings) -> dict[str, Any]:
    """One step and one update of Fish-Dip on short examples, after one of each; what counts is the memory."""
    tokens, method = settings.largest_tokens, Method("fishdip", "uniform", settings.density).name
    short: dict[str, Any] = {"batch": 1, "source": tokens, "target": tokens, "rounds": 1, "warmup": 1}
    own = replace(settings, **short, timed_steps=1, scale_examples=3, scale_methods=(method,))
    return {"settings": asdict(own), "size": one_size(own, settings.largest)}


def one_size(settings: Settings, text: str) -> dict[str, Any]:
    """Steps of the methods that fit into memory, and updates, in a new process; or why this size was left out."""
    geometry, _, dtype = text.partition(":")
    own = replace(settings, geometry=geometry, dtype=dtype or settings.dtype)
    with torch.device("meta"):
        size, item = num_parameters(make_base(geometry, own.torch_dtype)), own.torch_dtype.itemsize
    record: dict[str, Any] = {"geometry": geometry, "dtype": own.dtype, "parameters": size}
    need, (free, _) = size * (item + UPDATE) + ROOM, memory_of(own.torch_device)
    if need > free:
        return {**record, "skipped": f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"}
    dense = 4 * size * item + ROOM > free  # weights, gradients and the two moments of AdamW
    left_out = [name for name in own.scale_methods if dense and Method.parse(name).kind in ("full", "masked")]
    own = replace(own, methods=tuple(name for name in own.scale_methods if name not in left_out))
    return {**record, "left_out": left_out, **in_child(figures_of_size, own)}


def figures_of_size(settings: Settings) -> dict[str, Any]:
    """The figures of one size; for a process that has done nothing else."""
    for name in settings.methods:
        warm_up(settings, Method.parse(name))
    before = at_rest(settings.torch_device)
    bench = Workbench(settings)
    figures = {"weights": at_rest(settings.torch_device) - before, "steps": measure_steps(settings, bench)}
    split, _ = split_updates(bench, settings.scale_examples, settings.batch)
    return {"multiply_adds": multiply_adds(bench.base, bench.batch()), **figures, "update": split}
