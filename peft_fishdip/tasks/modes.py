"""A model in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode, put back into train mode afterwards if it was in it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
