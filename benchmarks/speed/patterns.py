"""Masks of a known shape, as flat positions per base parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

HOT = 0.1
"""Share of the rows, and of the columns, that hold a clustered mask."""

Positions = dict[str, Tensor]


def make_positions(shapes: Mapping[str, torch.Size], pattern: str, density: float, seed: int) -> Positions:
    """floor(density * N) positions over all tensors, in each as many as fall to its size.

    uniform: any entries. clustered: of each matrix ceil(10 %) of the rows and ceil(10 %) of the columns are drawn, and
    all its entries lie in one of these rows or columns, evenly. rows: the same with rows alone. What does not fit in
    there lies anywhere else; vectors are uniform.

    Returns:
        Per name ascending int64 positions.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = shared_out({name: shape.numel() for name, shape in shapes.items()}, density)
    result = {}
    for name, shape in shapes.items():
        order = torch.rand(shape.numel(), generator=generator)
        if pattern != "uniform" and len(shape) == 2:
            order = order.view(shape)
            order[drawn(shape[0], generator)] += 1
            if pattern == "clustered":
                columns = drawn(shape[1], generator)
                order[:, columns] = order[:, columns] % 1 + 1
        result[name] = order.view(-1).topk(counts[name]).indices.sort().values
    return result


def drawn(size: int, generator: torch.Generator) -> Tensor:
    """ceil(10 %) of the numbers below `size`."""
    return torch.randperm(size, generator=generator)[: math.ceil(HOT * size)]


def shared_out(sizes: Mapping[str, int], density: float) -> dict[str, int]:
    """How many entries each tensor gets: in proportion, the largest remainders rounded up to the exact total."""
    wanted = {name: density * size for name, size in sizes.items()}
    counts = {name: math.floor(value) for name, value in wanted.items()}
    missing = math.floor(density * sum(sizes.values())) - sum(counts.values())
    for name in sorted(sizes, key=lambda name: (counts[name] - wanted[name], name))[:missing]:
        counts[name] += 1
    return counts


def as_scores(positions: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], device: torch.device) -> Positions:
    """Scores for `set_mask` that choose just these positions; two bytes per parameter."""
    scores = {}
    for name, shape in shapes.items():
        score = torch.zeros(shape, dtype=torch.bfloat16, device=device)
        score.view(-1)[positions[name].to(device)] = 1
        scores[name] = score
    return scores
