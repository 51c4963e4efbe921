"""What pseudo-labels are worth: weights by a meta-gradient on held-out examples.

Let a student with adapter parameters p take one step of gradient descent on pseudo-labelled examples with weights e,
all 0 at first. By how much the loss of held-out examples falls with e_i is the inner product of the gradient of example
i's loss with that of the held-out loss, both at p (times the learning rate). Examples whose product is negative get the
weight 0, the others one in proportion to it, and the weights of a batch have the sum 1: Ren et al., "Learning to
reweight examples for robust deep learning" (ICML 2018), as in LiST (Wang et al., Findings of NAACL 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import evaluating
from .losses import example_losses


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the active adapter, with what PEFT trains whole beside it."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def alignments(
    model: nn.Module, examples: Sequence[Mapping[str, Any]], held_out: Mapping[str, Any], bf16: bool = False
) -> Tensor:
    """Inner products of the gradient of each example's loss with that of the mean held-out loss.

    The gradients are those of the trainable parameters, in eval mode, one example at a time, so that one gradient is
    kept and no other. The losses are means over the targets of an example. `grad` of the parameters is not touched.

    Args:
        model: with an active adapter.
        examples: a batch of one row for each example.
        held_out: one batch of labelled examples.
        bf16: run forward passes under torch.autocast in bfloat16.

    Returns:
        float32 (examples,), on the model's device.

    Raises:
        ValueError: a product is not finite.
    """
    parameters = trainable(model)
    device = parameters[0].device.type

    def gradient(batch: Mapping[str, Any]) -> tuple[Tensor | None, ...]:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = example_losses(model, batch).mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    with evaluating(model), torch.enable_grad():
        wanted = gradient(held_out)
        products = []
        for batch in examples:
            own = gradient(batch)
            pairs = zip(own, wanted, strict=True)
            parts = [(a.float() * b.float()).sum() for a, b in pairs if a is not None and b is not None]
            products.append(torch.stack(parts).sum())
    found = torch.stack(products)
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"the meta-gradient of example {int((~found.isfinite()).nonzero()[0])} of a batch is not finite; choose a "
            "smaller learning_rate, or pass reweight=False"
        )
    return found


def batch_weights(products: Tensor) -> Tensor:
    """From the inner products of a batch to weights that are not negative and have the sum 1, or are all 0."""
    positive = products.clamp(min=0)
    total = positive.sum()
    return positive / total if bool(total > 0) else positive
