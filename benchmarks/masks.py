"""What a Fish-Dip mask is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

GROUPS = (
    ("relative_bias", r"relative_attention_bias"),
    ("norm", r"norm|\bln_"),
    ("embedding", r"shared|embed|wte|wpe|lm_head"),
    ("attention", r"attention|attn"),
    ("feed_forward", r"dense|feed_?forward|ffn|mlp|intermediate|fc[12]"),
)
"""Kind of layer and how its parameters are called; the first that fits counts."""


def layer_group(name: str) -> str:
    """Kind of layer that a base parameter belongs to."""
    for group, pattern in GROUPS:
        if re.search(pattern, name, re.IGNORECASE):
            return group
    return "other"


def shares(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of the active entries by kind of layer; they sum to 1."""
    counts: dict[str, int] = {}
    for name, positions in mask.items():
        counts[layer_group(name)] = counts.get(layer_group(name), 0) + len(positions)
    total = sum(counts.values())
    return {group: count / total for group, count in sorted(counts.items())} if total else {}
