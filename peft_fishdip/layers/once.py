"""Gradients that cannot be differentiated again, with a message that says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def differentiable_once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """The backward of an autograd function whose gradients refuse another differentiation, as torch's does."""

    @wraps(backward)
    def without_graph(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if torch.is_grad_enabled():
            for gradient in gradients:
                if isinstance(gradient, Tensor) and gradient.requires_grad:
                    return Refused.apply(gradient, *found)
        return found

    return without_graph


class Refused(torch.autograd.Function):
    """The given gradients, which depend on the first argument in a way that is not known."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *found: Tensor | None) -> Gradients:
        return tuple(None if tensor is None else tensor.view_as(tensor) for tensor in found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "the gradients of layers with a Fish-Dip adapter cannot be differentiated again (create_graph=True, "
            "gradient penalties, Hessians); use torch.func.grad with torch.func.functional_call, which can be nested, "
            "or train another method there."
        )
