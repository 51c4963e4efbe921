"""Updates of the mask: where their time goes, their share of training, their memory; selection and Fisher alone."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from peft_fishdip import FishDipConfig

from .clock import seconds
from .contestants import Contestant, Workbench, adapted, make_optimizer
from .data import collate, make_examples
from .fisher import measure_fisher
from .peak import Peak, high_water
from .phases import PHASES, Phases
from .selection import measure_selection
from .settings import Settings
from .spec import Spec


def measure_update(settings: Settings) -> dict[str, Any]:
    bench = Workbench(settings)
    split, scores = split_updates(bench, settings.examples, settings.step_batch)
    selection = measure_selection(scores, settings.density, settings.rounds)
    del scores
    fisher = [measure_fisher(bench, length) for length in settings.fisher_lengths]
    return {"parameters": bench.size, "split": split, "selection": selection, "fisher": fisher}


def split_updates(
    bench: Workbench, num_examples: int, step_batch: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Rounds of one update and a few training steps each.

    Returns:
        Per round the seconds of an update, whole and by phase, seconds of the steps, share of the update in `interval`
        such steps, peak growth of memory in an update; the most memory the process held meanwhile; and the scores that
        the last update chose from.
    """
    own, vocabulary = bench.settings, bench.base.config.vocab_size
    examples = make_examples(num_examples, own.source, own.target, vocabulary, own.seed + 1, own.shortest)
    model = adapted(bench.shared(), fishdip_config(own, num_examples))
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad])
    batches = [
        {key: value.to(bench.device) for key, value in collate(chosen).items()}
        for chosen in (
            [examples[(step * step_batch + i) % len(examples)] for i in range(step_batch)]
            for step in range(own.timed_steps)
        )
    ]
    scores: dict[str, torch.Tensor] = {}
    most, warmup = 0, max(1, own.warmup)
    figures: dict[str, list[Any]] = {
        name: [] for name in ("update_seconds", "update_phases", "update_bytes", "step_seconds", "share")
    }
    for number in range(warmup + own.rounds):
        meter = Peak(bench.device)
        with Phases(bench.device) as phases:
            spent = seconds(
                lambda: model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer), bench.device
            )
        growth = meter.growth()
        if number == warmup + own.rounds - 1:
            scores = phases.scores
        phases.scores = {}  # else they would be there in the next update too
        model.train()
        steps = [
            seconds(Contestant(Spec("fishdip"), model, batch, optimizer, autocast=own.autocast).step, bench.device)
            for batch in batches
        ]
        most = max(most, high_water(bench.device))
        if number >= warmup:
            figures["update_seconds"].append(spent)
            figures["update_phases"].append({**phases.seconds, "rest": spent - sum(phases.seconds.values())})
            figures["update_bytes"].append(growth)
            figures["step_seconds"].append(steps)
            figures["share"].append(spent / (own.interval * median(steps)))
    settings = {"examples": num_examples, "step_batch": step_batch, "interval": own.interval}
    return {**settings, "phases": [*PHASES, "rest"], "most_bytes": most, **figures}, scores


def fishdip_config(settings: Settings, num_examples: int) -> Any:
    """As a user would have it; of very few examples, all score the parameters."""
    few = num_examples < 3
    return FishDipConfig(density=settings.density, num_samples=num_examples if few else 0.1)
