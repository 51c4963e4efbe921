"""The one part of peft_fishdip below its public names that the comparison needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def gradients_of(adapted: Any) -> dict[str, Tensor]:
    """By base parameter, the gradient of the deltas to all of its entries, of an adapter with a density of 1."""
    state = adapted.base_model._state(None)
    if state.flat.grad is None:
        return {}
    gradients = state.flat.grad.split(state.sizes)
    return {delta.name: gradient.clone() for delta, gradient in zip(state.deltas, gradients, strict=True)}
