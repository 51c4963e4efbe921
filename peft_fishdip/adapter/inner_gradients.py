"""Reentrant gradient checkpointing under DistributedDataParallel.

With `use_reentrant=True`, each checkpointed block runs a backward pass of its own within that of the model. Each would
add its gradient to the trainable vector, and DDP averages a gradient over the processes as soon as it is first added
to. So these passes add to a stand-in, whose gradient goes on to the vector in one piece, at the end.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

REMEDY = (
    "Checkpoint without reentrance, gradient_checkpointing_kwargs={'use_reentrant': False}; or have DDP count such "
    "gradients, DistributedDataParallel(model, static_graph=True), in a Trainer ddp_static_graph=True."
)


class InnerGradients:
    """The gradients from backward passes within that of one forward pass.

    Attributes:
        stand_in: has the vector's values, as a leaf of its own.
        token: without entries; made first, so autograd comes to it last of all that is ready. It brings the gradient of
            the stand-in to the vector.
        in_forward: whether the forward pass goes on; what is computed after it is computed again for backward.
        needed: whether it has computed with the vector without a graph, as in a checkpointed block.
        finished: whether the gradient has gone on to the vector.
    """

    def __init__(self, flat: nn.Parameter) -> None:
        self.stand_in = flat.detach().requires_grad_()
        self.in_forward = True
        self.needed = self.finished = False
        reference = weakref.ref(self)  # the stand-in must not keep what keeps it

        def arrived(_: Tensor) -> None:
            inner = reference()
            if inner is not None and inner.finished:
                raise ValueError(
                    "a checkpointed block's gradient came after DistributedDataParallel had averaged that of the "
                    f"Fish-Dip adapter, as it may in a model on several devices. {REMEDY}"
                )

        self.stand_in.register_post_accumulate_grad_hook(arrived)
        self.token: Tensor | None = Token.apply(flat, self)

    def source(self, flat: nn.Parameter) -> Tensor:
        """The vector or its stand-in, whichever gets the gradient of what is computed now."""
        if not torch.is_grad_enabled():
            self.needed = self.needed or self.in_forward
        return self.stand_in if self.needed and not self.in_forward and torch.is_grad_enabled() else flat

    def end_forward(self, output: Any) -> Any:
        """The output of the forward pass, through whose gradient the token is reached if it is needed."""
        token, self.token, self.in_forward = self.token, None, False
        return attached(output, token) if self.needed and token is not None else output

    def take(self) -> Tensor:
        """The gradient from inner backward passes, once."""
        gradient, self.stand_in.grad, self.finished = self.stand_in.grad, None, True
        return torch.zeros_like(self.stand_in) if gradient is None else gradient

    def refuse_left_over(self) -> None:
        """Raise ValueError if there is a gradient that has not gone on to the vector."""
        if self.stand_in.grad is not None:
            raise ValueError(
                "the gradients of checkpointed blocks did not reach the Fish-Dip adapter in the last backward pass: "
                f"the loss was not computed from the model's output under DistributedDataParallel. {REMEDY}"
            )


class Token(torch.autograd.Function):
    """A tensor without entries whose backward pass brings the inner gradients to the trainable vector."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, inner: InnerGradients) -> Tensor:
        ctx.inner = inner
        return flat.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.inner.take(), None


class Attached(torch.autograd.Function):
    """The same tensor, whose backward pass also reaches the token."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, token: Tensor) -> Tensor:
        ctx.save_for_backward(token)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (token,) = ctx.saved_tensors
        return grad, torch.zeros_like(token)


def attached(output: Any, token: Tensor) -> Any:
    """An output with each of its tensors that has a gradient [`Attached`], within tuples, lists and dicts too."""
    if isinstance(output, Tensor):
        return Attached.apply(output, token) if output.requires_grad else output
    if isinstance(output, dict):  # transformers' outputs too
        for key in list(output):
            output[key] = attached(output[key], token)
    elif isinstance(output, list):
        output[:] = [attached(item, token) for item in output]
    elif isinstance(output, tuple):
        items = [attached(item, token) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    return output
