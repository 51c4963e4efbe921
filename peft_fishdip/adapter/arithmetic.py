"""Arithmetic of sparse deltas: sums, intersections, and the trimming, dropping and sign election of TIES and DARE.

Everything here works on the entries of one base parameter at a time, and on nothing but entries: memory and time grow
with their number, never with the size of the parameter. Results are float32 and have ascending positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .positions import locate

Row = tuple[Tensor, Tensor]
"""Of one base parameter the positions, int64 (entries,), ascending, and the deltas there, float32 (entries,)."""


def union_of(rows: Sequence[Row]) -> Tensor:
    """The positions that at least one row has: int64, ascending."""
    return torch.cat([positions for positions, _ in rows]).unique()


def intersection_of(rows: Sequence[Row]) -> Tensor:
    """The positions that all rows have: int64, ascending."""
    common = rows[0][0]
    for positions, _ in rows[1:]:
        common = common[locate(positions, common)[1]]
    return common


def values_at(row: Row, positions: Tensor) -> Tensor:
    """The deltas at positions, zero where the row has no entry."""
    index, found = locate(row[0], positions)
    return torch.where(found, row[1][index], 0.0) if row[0].numel() else torch.zeros(positions.numel(), device="cpu")


def weighted_sum(rows: Sequence[Row], weights: Sequence[float], positions: Tensor) -> Row:
    """Sum of `weight * delta` at these positions, added in the order of the rows.

    Each product and each sum is rounded to float32 once. So a single row times a power of two or its negation, and a
    sum with weight 1 of rows without a common position, are exact; equal rows with opposite weights give exact zeros,
    which stay entries.
    """
    total = torch.zeros(positions.numel(), dtype=torch.float32, device="cpu")
    for row, weight in zip(rows, weights, strict=True):
        total += values_at(row, positions) * weight
    return positions, total


def trimmed(row: Row, density: float) -> Row:
    """The int(density * entries) entries with the largest magnitude, as they are; of equal ones those of the lowest
    positions."""
    positions, values = row
    order = values.abs().argsort(descending=True, stable=True)
    kept = order[: int(density * values.numel())].sort().values
    return positions[kept], values[kept]


def dropped(row: Row, density: float, generator: torch.Generator | None = None) -> Row:
    """Each entry with the probability `density`, divided by it, so that the expected delta is the delta."""
    positions, values = row
    kept = torch.bernoulli(torch.full_like(values, density), generator=generator).bool()
    return positions[kept], values[kept] / density


def elected(rows: Sequence[Row], weights: Sequence[float], majority_sign_method: str) -> Row:
    """At each position of any row, the sum of `weight * delta` of those rows whose delta has the elected sign, divided
    by their number; see Yadav et al. (NeurIPS 2023).

    The elected sign is that of the sum of the deltas ("total") or of their signs ("frequency"), without weights, as in
    PEFT; positive if that is zero.
    """
    positions = union_of(rows)
    at = [values_at(row, positions) for row in rows]
    votes = torch.zeros(positions.numel(), dtype=torch.float32, device="cpu")
    for values in at:
        votes += values if majority_sign_method == "total" else values.sign()
    sign = torch.where(votes >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for values, weight in zip(at, weights, strict=True):
        agrees = values.sign() == sign
        total += values * weight * agrees
        count += agrees
    return positions, total / count.clamp(min=1)
