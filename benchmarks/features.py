"""Examples as token ids, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Features = list[dict[str, list[int]]]
"""Of each example `input_ids`, `attention_mask` and `labels`."""
Batch = dict[str, Tensor]


def collate(features: Sequence[Mapping[str, Any]]) -> Batch:
    """A batch padded on the right: `input_ids` with 0, which the mask hides, and `labels` with -100; int64."""
    return {
        key: pad_sequence([torch.as_tensor(row[key]) for row in features], batch_first=True, padding_value=padding)
        for key, padding in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }
