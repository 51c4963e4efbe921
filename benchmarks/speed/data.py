"""Random examples and batches of given lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Example = dict[str, Tensor]

SPECIAL = 3
"""Token ids below are padding, end and unknown."""


def make_examples(
    count: int, source: int, target: int, vocabulary: int, seed: int, shortest: float = 1.0
) -> list[Example]:
    """Examples of random tokens, whose lengths are even between `shortest` of the full ones and these."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int, share: float) -> Tensor:
        size = max(1, round(length * share))
        return torch.randint(SPECIAL, vocabulary, (size,), generator=generator)

    examples = []
    for number in range(count):
        share = 1.0 if shortest >= 1 else shortest + (1 - shortest) * ((number * 0.6180339887) % 1.0)
        ids, labels = tokens(source, share), tokens(target, share)
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return examples


def collate(examples: Sequence[Any]) -> Example:
    """A batch, padded on the right."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        key: pad_sequence([example[key] for example in examples], batch_first=True, padding_value=value)
        for key, value in fill.items()
    }


def make_batch(count: int, source: int, target: int, vocabulary: int, seed: int, device: torch.device) -> Example:
    """A batch of full lengths, on a device."""
    batch = collate(make_examples(count, source, target, vocabulary, seed))
    return {key: value.to(device) for key, value in batch.items()}
