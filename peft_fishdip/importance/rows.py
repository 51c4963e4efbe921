"""Batches of some rows of a batch, and whether its examples are its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import OnAllRanks
from .losses import Batch, Numbered
from .packing import OF_ROWS

OF_ALL_ROWS = ("cache_position", "num_items_in_batch")
"""Arguments of transformers' models that have no row for each example, whatever their length."""

WHOLE = (bool, int, float, str, type(None), torch.dtype, torch.device)
"""Kinds of arguments that hold for all examples of a batch alike."""


class RowsError(OnAllRanks, ValueError):
    """The examples of a batch cannot be computed one by one, or not so that each has the loss it has in the batch."""


def rows(numbered: Numbered, indices: Sequence[int]) -> Numbered:
    """Some examples of a batch as a batch of their own, copied.

    Raises:
        RowsError: the batch has an argument that has neither one row for each example, nor one for all.
    """
    count = len(numbered.ids)
    reason = why_not_rows(numbered.batch, count)
    if reason is not None:
        raise RowsError(f"a batch of {count} examples cannot be split into its examples: {reason}.")
    several = count > 1
    batch = {
        key: [value[index] for index in indices] if isinstance(value, list) and several else value
        for key, value in numbered.batch.items()
        if not (several and key in OF_ROWS)
    }
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == count and key not in OF_ALL_ROWS:
            batch[key] = value[list(indices)]
    return Numbered([numbered.ids[index] for index in indices], batch)


def why_not_rows(batch: Batch, count: int) -> str | None:
    """Why a batch of `count` examples cannot be split into their rows; None if it can.

    Each tensor must have a row for each example, or one for all of them. Images, for instance, are often one after the
    other, however many an example has, and what is nested is of unknown form. A single example is not split.
    """
    if count == 1:
        return None
    for name, value in batch.items():
        if name in (*OF_ALL_ROWS, *OF_ROWS) or isinstance(value, WHOLE):
            continue
        if isinstance(value, list) and len(value) == count and all(isinstance(item, str) for item in value):
            continue
        if not isinstance(value, Tensor):
            return f"{name!r} is a {type(value).__name__}, not a tensor with one row for each example"
        if value.dim() and len(value) not in (1, count):
            return f"{name!r} has the shape {tuple(value.shape)}, not one row for each of the {count} examples"
    return None


def why_not_again(batch: Batch, count: int) -> str | None:
    """Why the examples of a forward call of training cannot be computed again, one by one; None if they can."""
    for name, value in batch.items():
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                return f"{name!r} was computed with gradients, which end there when an example is computed again"
        elif not isinstance(value, (*WHOLE, Mapping, list, tuple)):
            return f"{name!r} is a {type(value).__name__}, which the call may have changed"
        elif any(tensor.requires_grad for tensor in nested(value)):
            return f"{name!r} holds tensors with gradients, which end there when an example is computed again"
    return why_not_rows(batch, count)


def nested(value: Any) -> Iterator[Tensor]:
    """The tensors in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from nested(item)


def are_texts(batch: Batch, count: int) -> bool:
    """Whether all tensors of a batch have a value for each example, or for each of its tokens or labels.

    Then there is no doubt what its rows are. Elsewhere it may be by chance that there are as many images as examples.
    """
    lengths = {batch[key].shape[1:2] for key in ("input_ids", "labels") if isinstance(batch.get(key), Tensor)}
    return why_not_rows(batch, count) is None and all(
        len(value) == count and value.dim() <= 2 and value.shape[1:] in lengths
        for name, value in batch.items()
        if isinstance(value, Tensor) and value.dim() and name not in (*OF_ALL_ROWS, *OF_ROWS)
    )


def same_losses(model: nn.Module, first: float, second: float, autocast: torch.dtype | None) -> bool:
    """Whether two losses of an example are the same, up to what the order of sums changes in the model's dtypes."""
    exact = autocast is None and all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    bound = 1e-2 if exact else 0.1
    return first == second or math.isclose(first, second, rel_tol=bound, abs_tol=bound)
