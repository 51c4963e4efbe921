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


def alignments(model: nn.Module, examples: Sequence[Mapping[str, Any]], held_out: Mapping[str, Any]) -> Tensor:
    """Inner products of the gradient of each example's loss with that of the mean held-out loss.

    The gradients are those of the trainable parameters, in eval mode, one example at a time, so that one gradient is
    kept and no other. The losses are means over the targets of an example. `grad` of the parameters is not touched.

    Args:
        model: with an active adapter.
        examples: a batch of one row for each example.
        held_out: one batch of labelled examples.

    Returns:
        float32 (examples,), on the model's device.

    Raises:
        ValueError: a product is not finite.
    """
    parameters = trainable(model)
    with evaluating(model), torch.enable_grad():
        wanted = gradients(example_losses(model, held_out).mean(), parameters)
        products = []
        for batch in examples:
            own = gradients(example_losses(model, batch).mean(), parameters)
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


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor | None, ...]:
    """Of a loss; None for a parameter that it does not depend on."""
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def batch_weights(products: Tensor) -> Tensor:
    """From the inner products of a batch to weights that are not negative and have the sum 1, or are all 0."""
    positive = products.clamp(min=0)
    total = positive.sum()
    return positive / total if bool(total > 0) else positive
