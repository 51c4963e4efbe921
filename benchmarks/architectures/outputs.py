"""The outputs of a model as a list of tensors, and a fixed scalar function of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from .inputs import Inputs


def outputs_of(model: Any, inputs: Inputs) -> list[Tensor]:
    """All floating outputs, computed from the same random state each time."""
    set_seed(0)
    return list(floating(model(**inputs)))


def floating(output: Any) -> Iterator[Tensor]:
    """The floating tensors within an output."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from floating(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from floating(value)


def scalar(outputs: Sequence[Tensor]) -> Tensor:
    """The sum of all finite outputs, each weighted by a number between -1 and 1 that depends on its place alone."""
    total = torch.zeros(())
    for index, output in enumerate(outputs):
        weights = torch.cos(torch.arange(output.numel(), dtype=torch.float32) + index)
        flat = output.float().flatten()
        total = total + (torch.where(flat.isfinite(), flat, 0.0) * weights).sum()
    return total


def is_same(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Whether outputs are equal, up to this share of the largest magnitude of each."""
    return len(first) == len(second) and all(
        a.shape == b.shape and difference(a, b) <= tolerance for a, b in zip(first, second, strict=True)
    )


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude; infinite if other entries are finite."""
    found, expected = found.detach().float(), expected.detach().float()
    finite = expected.isfinite()
    if (
        not torch.equal(found[~finite].nan_to_num(), expected[~finite].nan_to_num())
        or not found[finite].isfinite().all()
    ):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    largest = float((found[finite] - expected[finite]).abs().max())
    return largest / max(float(expected[finite].abs().max()), 1e-12)
