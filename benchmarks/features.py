"""Examples as token ids, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from peft_fishdip.tasks import TaskCollator, task_type
from peft_fishdip.tasks.families import SEQ2SEQ

Features = list[dict[str, Any]]
"""Of each example `input_ids`, `attention_mask` and `labels`."""
Batch = dict[str, Any]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Makes a batch of some features."""


def collate(features: Sequence[Mapping[str, Any]]) -> Batch:
    """A batch padded on the right: `input_ids` with 0, which the mask hides, and `labels` with -100; int64."""
    return {
        key: pad_sequence([torch.as_tensor(row[key]) for row in features], batch_first=True, padding_value=padding)
        for key, padding in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }


def collator_for(tokenizer: Any, model: Any) -> Collate:
    """How features become batches of a model."""
    return collate if task_type(model) == SEQ2SEQ else TaskCollator(tokenizer, model)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The same batch on a device; numbers, such as of logits to keep, stay as they are."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def num_targets(batch: Batch) -> int:
    """Target tokens; of a classifier, words or texts that have a label."""
    return int((batch["labels"] != -100).sum())


def num_tokens(batch: Batch, model: Any) -> int:
    """Tokens of source and target, without padding. Where both are one row, or targets are classes, of that row."""
    own = int(batch["attention_mask"].sum())
    return own + num_targets(batch) if task_type(model) == SEQ2SEQ else own
