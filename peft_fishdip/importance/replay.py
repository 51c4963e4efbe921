"""Losses of training steps: from the outputs of a step, and computed again for some of its examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .losses import Batch, LossFn, batch_size
from .rows import RowsError


class RecordedOutputs(nn.Module):
    """A model that returns the given outputs instead of computing any."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, **_: Any) -> Any:
        return self.output


@contextmanager
def rows_errors() -> Iterator[None]:
    """Inside, every error but a lack of memory becomes a RowsError: training can go on without losses of examples."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):  # on a CPU
            raise
        raise RowsError(f"{type(error).__name__}: {error}") from error


class Replayed:
    """A LossFn with the losses of another one, whose errors become a RowsError, see [`rows_errors`]."""

    def __init__(self, loss_fn: LossFn) -> None:
        self.loss_fn = loss_fn
        self.checked = getattr(loss_fn, "checked", True)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        with rows_errors():
            losses = self.loss_fn(model, batch)
        found, count = getattr(losses, "shape", None), batch_size(batch)
        if found != (count,):
            raise RowsError(f"loss_fn must return one loss for each of {count} rows, not a tensor of shape {found}")
        return losses
