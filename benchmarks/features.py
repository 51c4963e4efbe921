"""Examples as token ids, and batches of them."""

from __future__ import annotations

import torch
from torch import Tensor

Features = list[dict[str, list[int]]]
"""Of each example `input_ids`, `attention_mask` and `labels`."""
Batch = dict[str, Tensor]


def collate(features: Features) -> Batch:
    """A batch: `input_ids` padded with 0 and masked, `labels` padded with -100; int64."""
    return {
        key: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[key]) for row in features], batch_first=True, padding_value=padding
        )
        for key, padding in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }
