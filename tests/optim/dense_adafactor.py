"""A dense twin of SparseAdafactor, masks and gradients to give to both, and how far they differ."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Adafactor

from ..support.models import flat_of, scales_of, shapes_of

TOLERANCE = 3e-6
RECIPE = {"lr": 1e-2, "scale_parameter": True, "relative_step": False, "warmup_init": False}


class DenseAdafactor:
    """A full copy of the model, whose gradients are multiplied by a mask before transformers' Adafactor steps."""

    def __init__(self, base: nn.Module, dtype: torch.dtype | None = None, **options: Any) -> None:
        self.model = copy.deepcopy(base).to(dtype)
        self.parameters = dict(self.model.named_parameters())
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.mask = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in self.parameters.items()}
        self.largest: dict[str, float] = {}
        self.optimizer = Adafactor(self.parameters.values(), **{**RECIPE, **options})

    def take_mask(self, model: Any, adapter: str | None = None) -> None:
        """The mask that a tuned model has now; entries outside of its support return to the base."""
        for name, (positions, _) in model.base_model.delta(adapter).items():
            outside = torch.ones(self.start[name].numel(), dtype=torch.bool)
            outside[positions] = False
            with torch.no_grad():
                self.parameters[name].view(-1)[outside] = self.start[name].view(-1)[outside]
        for name, positions in model.base_model.mask(adapter).items():
            self.mask[name] = torch.zeros(self.mask[name].numel(), dtype=torch.bool)
            self.mask[name][positions] = True
            self.mask[name] = self.mask[name].view_as(self.parameters[name])
            momentum = self.optimizer.state[self.parameters[name]].get("exp_avg")
            if momentum is not None:
                momentum.mul_(self.mask[name])  # where ours begins anew, and outside of which nothing moves

    def give(self, gradients: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].to(parameter) * self.mask[name]

    def mask_gradients(self) -> None:
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None
            parameter.grad *= self.mask[name]

    def delta(self, name: str) -> Tensor:
        return (self.parameters[name].detach().double() - self.start[name].double()).flatten()


def difference(model: Any, dense: DenseAdafactor, adapter: str | None = None) -> float:
    """The largest difference of a delta, as a share of the largest delta that its tensor has had so far."""
    worst = 0.0
    for name, (positions, values) in model.base_model.delta(adapter).items():
        expected = dense.delta(name)
        found = torch.zeros_like(expected)
        found[positions] = values.double()
        dense.largest[name] = max(dense.largest.get(name, 0.0), float(expected.abs().max()))
        worst = max(worst, float((found - expected).abs().max()) / max(dense.largest[name], 1e-12))
    return worst


def scores_of(model: Any, seed: int) -> dict[str, Tensor]:
    """Scores that make random masks, of different densities in different tensors and rows."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, shape in shapes_of(model).items():
        rows = torch.rand(shape[:1], generator=generator).view(-1, *[1] * (len(shape) - 1))
        scores[name] = torch.rand(shape, generator=generator) * rows * torch.rand(1, generator=generator)
    return scores


def gradients_of(model: Any, step: int) -> dict[str, Tensor]:
    """Gradients as models have them: tensors, rows, columns and steps differ in size."""
    generator = torch.Generator().manual_seed(1000 + step)
    gradients = {}
    for index, (name, shape) in enumerate(shapes_of(model).items()):
        size = torch.randn(1, generator=generator).exp() * 10.0 ** -(index % 5)
        gradient = torch.randn(shape, generator=generator) * size
        if len(shape) > 1:
            gradient *= torch.randn(shape[-1], generator=generator).exp()
            gradient *= torch.randn(shape[-2], 1, generator=generator).exp()
        gradients[name] = gradient
    return gradients


def give(model: Any, gradients: dict[str, Tensor], adapter: str = "default") -> None:
    """The gradient of the trainable vector that follows from those of the deltas."""
    vector, scales, mask = flat_of(model, adapter), scales_of(model, adapter), model.base_model.mask(adapter)
    parts = [gradients[name].flatten()[positions] * scales[name] for name, positions in mask.items()]
    vector.grad = torch.cat(parts).to(vector.dtype)
