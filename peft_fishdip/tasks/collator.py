"""Batches of the features of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from .checks import check_is_tokenizer
from .coders import one_row_batch
from .families import CAUSAL, SEQUENCES, task_type


class TaskCollator:
    """Pads features of `to_features` into a batch of tensors, for a Trainer's `data_collator`.

    For a decoder-only model the rows are padded on the left, and the model computes logits for targets alone where it
    can (`logits_to_keep`), which saves most of a step with a large vocabulary; the loss is the same.

    Args:
        tokenizer: that of the model.
        model: what is trained.

    Raises:
        ValueError: the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        check_is_tokenizer(tokenizer)
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no padding token; set tokenizer.pad_token = tokenizer.eos_token, as "
                "load_model does"
            )
        self.tokenizer = tokenizer
        self.model = model
        self.kind = task_type(model)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some features."""
        if self.kind == CAUSAL:
            return one_row_batch(features, self.tokenizer.pad_token_id, self.model)
        collate: Any = DataCollatorWithPadding if self.kind == SEQUENCES else DataCollatorForSeq2Seq
        return dict(collate(self.tokenizer)([dict(feature) for feature in features]))
