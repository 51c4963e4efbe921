"""Fisher information of a few examples, against one backward pass per example."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_fishdip import FishDipConfig

from .clock import seconds
from .contestants import Workbench, adapted
from .data import Example, collate, make_examples
from .phases import Phases


def measure_fisher(bench: Workbench, length: int) -> dict[str, Any]:
    """Seconds of both ways, in turns, on examples of `length` source and target tokens, and how far they differ."""
    own = bench.settings
    examples = make_examples(own.fisher_examples, length, length, bench.base.config.vocab_size, own.seed + length)
    config = FishDipConfig(density=own.density, sample_selection="all")
    model = adapted(bench.shared(), config)
    reference = bench.shared().requires_grad_(True)
    seconds_of: dict[str, list[float]] = {"ours": [], "one_by_one": []}
    ours: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}

    def one_by_one() -> None:
        total.clear()
        total.update(squared_gradients(reference, examples, bench.device))

    for number in range(own.rounds + 1):
        for name in sorted(seconds_of, reverse=number % 2 == 1):
            if name == "ours":
                with Phases(bench.device) as phases:
                    model.base_model.update_mask(examples, data_collator=collate)
                spent, ours = phases.seconds["fisher"], phases.scores
            else:
                spent = seconds(one_by_one, bench.device)
            if number:  # the first round does not count
                seconds_of[name].append(spent)
    norm, entry, worst = differences(ours, {name: value / len(examples) for name, value in total.items()})
    return {"length": length, "norm_difference": norm, "entry_difference": entry, "worst": worst, **seconds_of}


def squared_gradients(model: Any, examples: list[Example], device: torch.device) -> dict[str, Tensor]:
    """The sum over examples of squared gradients of -log p(y|x): one forward and backward pass for each."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for example in examples:
        batch = {key: value.to(device) for key, value in collate([example]).items()}
        logits = model(**batch).logits.float()
        F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum").backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                total[name].addcmul_(gradient, gradient)
                parameter.grad = None
    return total


def differences(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> tuple[float, float, str]:
    """Over all tensors the largest relative differences: of norms, of single entries to the tensor's largest one,
    and the tensor with the first."""
    worst, norm, entry = "", 0.0, 0.0
    for name, expected in reference.items():
        error = (ours[name] - expected).float()
        scale, largest = float(expected.norm()), float(expected.max())
        if scale == 0:
            continue
        if not float(error.norm()) / scale <= norm:
            norm, worst = float(error.norm()) / scale, name
        entry = max(entry, float(error.abs().max()) / largest)
    return norm, entry, worst
