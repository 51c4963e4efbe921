"""Mask updates: their phases, their share of training and their memory; selection and Fisher information alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_fishdip import FishDipConfig

from ..features import collate
from ..memory import MemoryMeter, high_water
from .auto_update import measure_auto
from .internals import PHASES, Phases, num_active, top_k
from .measure import in_turns, seconds
from .models import TrainingStep, Workbench, adapted, make_optimizer
from .settings import Settings


def measure_update(settings: Settings) -> dict[str, Any]:
    bench = Workbench(settings)
    split, scores = split_updates(bench, settings.examples, settings.step_batch)
    selection = measure_selection(scores, settings)
    del scores
    fisher = [measure_fisher(bench, length) for length in settings.fisher_lengths]
    auto = measure_auto(bench, settings.step_batch)
    return {"parameters": bench.size, "split": split, "auto": auto, "selection": selection, "fisher": fisher}


def split_updates(bench: Workbench, num_examples: int, step_batch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Rounds of one mask update and a few training steps each.

    Returns:
        per round the seconds of the update (in all and by phase) and of the steps, the update's share of `interval`
        such steps, and how much memory grew in it; the most memory held meanwhile; and the scores of the last update.
    """
    own = bench.settings
    examples = bench.examples(num_examples, seed=1)
    model = adapted(bench.shared(), FishDipConfig(density=own.density))
    optimizer = make_optimizer(model)
    order = itertools.cycle(examples)
    batches = [bench.batch([next(order) for _ in range(step_batch)]) for _ in range(own.timed_steps)]
    steps = [TrainingStep(model, batch, optimizer) for batch in batches]
    warmup, most = max(1, own.warmup), 0
    names = ("update_seconds", "update_phases", "update_bytes", "step_seconds", "share")
    figures: dict[str, list[Any]] = {name: [] for name in names}
    scores: dict[str, Tensor] = {}
    for number in range(warmup + own.rounds):
        scores.clear()
        meter = MemoryMeter(bench.device)
        with Phases() as phases:
            spent = seconds(lambda: model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer))
        growth = meter.growth()
        scores, phases.scores = phases.scores, {}
        model.train()
        step_seconds = [seconds(step.step) for step in steps]
        most = max(most, high_water(bench.device))
        if number >= warmup:
            by_phase = {**phases.seconds, "rest": spent - sum(phases.seconds.values())}
            share = spent / (own.interval * median(step_seconds))
            for name, value in zip(names, (spent, by_phase, growth, step_seconds, share), strict=True):
                figures[name].append(value)
    conditions = {"examples": num_examples, "step_batch": step_batch, "interval": own.interval}
    return {**conditions, "phases": [*PHASES, "rest"], "most_bytes": most, **figures}, scores


def measure_selection(scores: Mapping[str, Tensor], settings: Settings) -> dict[str, Any]:
    """Seconds and extra bytes of our selection and of torch.topk, and whether both choose the same scores."""
    device = next(iter(scores.values())).device
    total = sum(score.numel() for score in scores.values())
    k = num_active(settings.density, total)

    def measured(way: Any) -> tuple[float, int]:
        meter = MemoryMeter(device)
        return seconds(partial(way, scores, k)), meter.growth()

    turns = {name: partial(measured, way) for name, way in {"ours": top_k, "topk": topk_of_all}.items()}
    found, _ = in_turns(turns, settings.rounds + 1, settings.seed)
    columns = {name: zip(*rows[1:], strict=True) for name, rows in found.items()}  # the first round does not count
    records = {name: dict(zip(("seconds", "bytes"), map(list, both), strict=True)) for name, both in columns.items()}
    chosen = [scores[name].flatten()[at] for name, at in top_k(scores, k).positions.items()]
    same = torch.equal(torch.cat(chosen).sort().values, topk_of_all(scores, k).values.sort().values)
    return {"parameters": total, "k": k, "same": same, **records}


def topk_of_all(scores: Mapping[str, Tensor], k: int) -> Any:
    return torch.topk(torch.cat([score.flatten() for score in scores.values()]), k)


def measure_fisher(bench: Workbench, length: int) -> dict[str, Any]:
    """Seconds for a few examples, in turns with one backward pass per example, and how far the results differ."""
    own = bench.settings
    examples = bench.examples(own.fisher_examples, seed=length, length=length)
    model = adapted(bench.shared(), FishDipConfig(density=own.density, sample_selection="all", delta_scale="none"))
    reference = bench.shared().requires_grad_(True)
    results: dict[str, dict[str, Tensor]] = {}

    def ours() -> float:
        with Phases() as phases:
            model.base_model.update_mask(examples, data_collator=collate)
        results["ours"] = phases.scores
        return phases.seconds["fisher"]

    def one_by_one() -> float:
        return seconds(lambda: results.update(one_by_one=squared_gradients(reference, bench, examples)))

    found, _ = in_turns({"ours": ours, "one_by_one": one_by_one}, own.rounds + 1, own.seed)
    spent = {name: values[1:] for name, values in found.items()}  # the first round does not count
    return {"length": length, **differences(results["ours"], results["one_by_one"]), **spent}


def squared_gradients(model: Any, bench: Workbench, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over examples of the squared gradients of -log p(y|x), by one backward pass for each."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for example in examples:
        batch = bench.batch([example])
        logits = model(**batch).logits.float()
        F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum").backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                total[name].addcmul_(gradient, gradient, value=1 / len(examples))
                parameter.grad = None
    return total


def differences(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Any]:
    """The largest relative difference of a tensor's norm, that tensor, and the largest difference of an entry relative
    to its tensor's largest one."""
    found = []
    for name, expected in reference.items():
        if float(expected.norm()):
            error = (ours[name] - expected).float()
            found.append((float(error.norm() / expected.norm()), float(error.abs().max() / expected.max()), name))
    norm, _, worst = max(found)
    return {"norm_difference": norm, "entry_difference": max(entry for _, entry, _ in found), "worst": worst}
