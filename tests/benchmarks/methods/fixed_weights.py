"""Weights that are a formula of a parameter's name and shape, the same for every library and version."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

GEOMETRY = {
    "vocab_size": 40,
    "d_model": 128,
    "d_kv": 16,
    "num_heads": 4,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
INPUT_IDS = [[5, 17, 2, 33, 8, 1], [21, 3, 9, 1, 0, 0]]
LABELS = [[7, 30, 12, 1], [4, 26, 1, -100]]


def fixed(name: str, shape: torch.Size) -> Tensor:
    """Numbers in [-1, 1), by integer arithmetic, divided by the root of the last axis; around 1 for a norm's gain."""
    k = torch.arange(shape.numel(), dtype=torch.int64)
    hashed = (k * k * 7919 + k * 104729 + zlib.crc32(name.encode())) % 65521
    values = (hashed.double() / 65521 * 2 - 1).view(shape)
    if name.endswith("layer_norm.weight"):
        return (1 + 0.1 * values).float()
    if name == "shared.weight":
        return values.float()
    if name.endswith("down.left"):
        return (values / 5).float()  # activation functions differ most around 1
    return (values * 2 / shape[-1] ** 0.5).float()
