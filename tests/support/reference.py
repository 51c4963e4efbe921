"""Fish-Dip once more, the plain way: dense masks, dense masked gradients, dense optimizer state, one example at a time.

Nothing here is shared with the package. It is slow, holds many copies of the model, and is easy to check by reading.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from .models import padded


def example_loss(model: nn.Module, family: str, batch: dict[str, Tensor], mean: bool = False) -> Tensor:
    """-log p(y|x) of each row, from the logits, token by token."""
    logits = model(**batch).logits.double()
    labels = batch["labels"]
    if family == "bert":
        return torch.stack([-row.softmax(-1)[label].log() for row, label in zip(logits, labels, strict=True)])
    if family != "t5":
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = []
    for row, targets in zip(logits, labels, strict=True):
        tokens = [-row[i].log_softmax(-1)[target] for i, target in enumerate(targets.tolist()) if target != -100]
        total = torch.stack(tokens).sum()
        losses.append(total / len(tokens) if mean else total)
    return torch.stack(losses)


def global_top_k(scores: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Bool masks of the k largest scores; ties to the first tensor and the lowest position, by a stable sort."""
    everything = torch.cat([score.flatten() for score in scores.values()])
    order = torch.sort(everything, descending=True, stable=True).indices[:k]
    chosen = torch.zeros(everything.numel(), dtype=torch.bool)
    chosen[order] = True
    views = chosen.split([score.numel() for score in scores.values()])
    return {name: view.view(score.shape) for (name, score), view in zip(scores.items(), views, strict=True)}


def lower_median(values: Tensor) -> Tensor:
    return values.sort().values[(values.numel() - 1) // 2]


class DenseFishDip:
    """A full copy of the model with a dense mask, delta and optimizer state per parameter.

    Args:
        base: the model; it is copied.
        family: a key of `FAMILIES`.
        settings: as in FishDipConfig.
        optimizer: "adamw" or "sgd".
    """

    def __init__(self, base: nn.Module, family: str, settings: dict[str, Any], optimizer: str = "adamw") -> None:
        self.model = copy.deepcopy(base)
        self.family = family
        self.settings = {"dropped": "freeze", "delta_scale": "none", "importance": "fisher", **settings}
        self.optimizer = optimizer
        self.parameters = dict(self.model.named_parameters())
        self.base = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.delta = {name: torch.zeros_like(p) for name, p in self.base.items()}
        self.mask = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in self.base.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.base.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.base.items()}
        self.frozen = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in self.base.items()}
        self.new = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in self.base.items()}
        self.scale = {name: self.scale_of(p) for name, p in self.base.items()}
        self.total = sum(p.numel() for p in self.base.values())
        self.k = math.floor(self.settings["density"] * self.total)
        self.steps = 0

    def scale_of(self, base: Tensor) -> float:
        if self.settings["delta_scale"] == "none":
            return 1.0
        rms = math.sqrt(sum(value * value for value in base.flatten().tolist()) / base.numel())
        return 2.0 ** round(math.log2(max(rms, 1e-3)))

    def apply(self) -> None:
        """Make the weights base + delta."""
        for name, parameter in self.parameters.items():
            parameter.data = self.base[name] + self.delta[name]

    def chosen_examples(self, examples: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
        losses = []
        with torch.no_grad():
            for example in examples:
                mean = self.settings.get("example_loss") == "mean"
                losses.append(float(example_loss(self.model, self.family, padded([example]), mean)))
        count = min(max(int(0.1 * len(examples)), 3), 25)
        if isinstance(self.settings.get("num_samples"), int):
            count = self.settings["num_samples"]
        if self.settings.get("sample_selection") == "all":
            count = len(examples)
        order = sorted(range(len(examples)), key=lambda i: (-losses[i], i))[:count]
        return order, [losses[i] for i in order]

    def scores(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Mean over the examples of the squared (or absolute) gradient of each one's loss."""
        totals = {name: torch.zeros_like(p) for name, p in self.base.items()}
        for example in examples:
            mean = self.settings.get("example_loss") == "mean"
            loss = example_loss(self.model, self.family, padded([example]), mean)[0]
            names = list(self.parameters)
            gradients = torch.autograd.grad(loss, [self.parameters[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    totals[name] += gradient.square() if self.settings["importance"] == "fisher" else gradient.abs()
        return {name: total / len(examples) for name, total in totals.items()}

    def update(self, examples: list[dict[str, Any]], only: list[int] | None = None) -> tuple[list[int], list[float]]:
        """Choose the examples (or take `only`) and the mask; carry deltas and moments over."""
        self.apply()
        chosen, losses = self.chosen_examples(examples) if only is None else (only, [])
        scores = self.scores([examples[i] for i in chosen])
        power = 2 if self.settings["importance"] == "fisher" else 1
        self.remask({name: score * self.scale[name] ** power for name, score in scores.items()})
        return chosen, losses

    def remask(self, scores: dict[str, Tensor]) -> None:
        old, self.mask = self.mask, global_top_k(scores, self.k)
        power = 1 if self.settings["importance"] == "fisher" else 2
        expected_sq_grad = {name: score.pow(power) for name, score in scores.items()}
        stays = {name: old[name] & mask for name, mask in self.mask.items()}
        staying_second = torch.cat([self.second[name][stay] for name, stay in stays.items()])
        staying_hint = torch.cat([expected_sq_grad[name][stay] for name, stay in stays.items()])
        for name, mask in self.mask.items():
            dropped, new = old[name] & ~mask, mask & ~old[name]
            if self.settings["dropped"] == "reset":
                self.delta[name][dropped] = 0
            else:
                self.frozen[name] = (self.frozen[name] | dropped) & ~mask
            self.first[name][~stays[name]] = 0
            self.second[name][~stays[name]] = 0
            if self.steps and staying_second.numel():
                factor = lower_median(staying_second) / lower_median(staying_hint)
                self.second[name][new] = (expected_sq_grad[name] * factor)[new]
            self.new[name] = new & (self.steps > 0)
        self.forget_smallest()

    def forget_smallest(self) -> None:
        """Return frozen entries to the base one at a time, the smallest delta first, while there are too many."""
        if (most := self.settings.get("max_support")) is None:
            return
        rows = [
            (abs(float(self.delta[n].flatten()[i])), n, int(i))
            for n, f in self.frozen.items()
            for i in f.flatten().nonzero()
        ]
        for _, name, i in sorted(rows)[: max(0, self.k + len(rows) - math.floor(most * self.k))]:
            self.frozen[name].view(-1)[i] = False
            self.delta[name].view(-1)[i] = 0

    def step(self, batch: dict[str, Tensor], lr: float, weight_decay: float = 0.0) -> None:
        """One optimizer step on the mean of the batch's losses, with everything outside of the mask cleared."""
        self.apply()
        loss = example_loss(self.model, self.family, batch).mean()
        names = list(self.parameters)
        gradients = torch.autograd.grad(loss, [self.parameters[name] for name in names], allow_unused=True)
        self.steps += 1
        for name, gradient in zip(names, gradients, strict=True):
            dense = torch.zeros_like(self.base[name]) if gradient is None else gradient.clone()
            dense = dense * self.scale[name]
            dense[~self.mask[name]] = 0
            value = self.delta[name] / self.scale[name]
            move = getattr(self, self.optimizer)(name, dense, value, lr, weight_decay)
            self.delta[name] = torch.where(self.mask[name], (value - move) * self.scale[name], self.delta[name])
            self.new[name].zero_()

    def adamw(self, name: str, gradient: Tensor, value: Tensor, lr: float, weight_decay: float) -> Tensor:
        first, second = self.first[name], self.second[name]
        steady = gradient.square() * (1 - 0.99**self.steps)  # had all gradients so far been this one
        second[self.new[name]] = torch.maximum(second, steady)[self.new[name]]
        first.mul_(0.9).add_(0.1 * gradient)
        second.mul_(0.99).add_(0.01 * gradient.square())
        unbiased = first / (1 - 0.9**self.steps)
        root = (second / (1 - 0.99**self.steps)).sqrt()
        return lr * weight_decay * value + lr * unbiased / (root + 1e-3)

    def sgd(self, name: str, gradient: Tensor, value: Tensor, lr: float, weight_decay: float) -> Tensor:
        first = self.first[name]
        first.mul_(0.9).add_(gradient + weight_decay * value)
        return lr * first
