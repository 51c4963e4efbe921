"""Choosing the K largest scores, against torch.cat and torch.topk on the same scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from peft_fishdip.selection import num_active, top_k

from .clock import seconds
from .peak import Peak


def measure_selection(scores: Mapping[str, Tensor], density: float, rounds: int) -> dict[str, Any]:
    """Seconds and extra bytes of both ways, in turns, and whether they choose entries of the same scores."""
    device = next(iter(scores.values())).device
    total = sum(score.numel() for score in scores.values())
    k = num_active(density, total)
    ways: dict[str, Callable[[], Any]] = {"ours": lambda: top_k(scores, k), "topk": lambda: cat_and_topk(scores, k)}
    records: dict[str, Any] = {name: {"seconds": [], "bytes": []} for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=number % 2 == 1):
            meter = Peak(device)
            spent = seconds(ways[name], device)
            if number:  # the first round does not count
                records[name]["seconds"].append(spent)
                records[name]["bytes"].append(meter.growth())
    return {"parameters": total, "k": k, "same": same_choice(scores, k), **records}


def cat_and_topk(scores: Mapping[str, Tensor], k: int) -> list[Tensor]:
    """Flat positions per tensor, by one torch.topk over all scores in one tensor."""
    chosen = torch.topk(torch.cat([score.reshape(-1) for score in scores.values()]), k).indices.sort().values
    sizes = torch.tensor([0, *(score.numel() for score in scores.values())]).cumsum(0)
    edges = torch.searchsorted(chosen, sizes.to(chosen.device)).tolist()
    return [chosen[a:b] - int(start) for a, b, start in zip(edges, edges[1:], sizes.tolist(), strict=False)]


def same_choice(scores: Mapping[str, Tensor], k: int) -> bool:
    """Whether both choose the same scores; among equal ones at the edge, torch.topk chooses any."""

    def values(positions: list[Tensor]) -> Tensor:
        pairs = zip(scores.values(), positions, strict=True)
        return torch.cat([score.reshape(-1)[where.to(score.device)] for score, where in pairs]).sort().values

    ours = top_k(scores, k).positions
    return torch.equal(values([ours[name] for name in scores]), values(cat_and_topk(scores, k)))
