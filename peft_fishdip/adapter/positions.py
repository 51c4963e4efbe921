"""Where entries of one vector are in another."""

from __future__ import annotations

import torch
from torch import Tensor


def locate(haystack: Tensor, needles: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each needle in an ascending vector, 0 where there is no such entry, and whether there is one."""
    if not haystack.numel():
        return torch.zeros_like(needles), torch.zeros_like(needles, dtype=torch.bool)
    index = torch.searchsorted(haystack, needles).clamp_(max=haystack.numel() - 1)
    found = haystack[index] == needles
    return torch.where(found, index, 0), found


def gathered(old: Tensor, source: Tensor) -> Tensor:
    """`old` re-indexed by `MaskChange.source`, zero for new entries."""
    return torch.where(source >= 0, old[source.clamp(min=0)], 0)
