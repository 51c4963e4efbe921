"""How much the parameters matter: the empirical Fisher information of some examples (Eq. 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .losses import Batch, LossFn


@contextmanager
def scoring_mode(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, the model is in eval mode and just `parameters` require gradients; all is put back afterwards.

    The authors' code leaves dropout on from the second mask on, which makes the choice of examples and parameters
    noisy; here both are functions of the model and the data.
    """
    training = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in required:
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
            parameter.grad = gradients[parameter]
        for module, flag in training.items():
            module.training = flag


def accumulate_importance(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    examples: Iterable[Batch],
    loss_fn: LossFn,
    importance: str,
) -> dict[str, Tensor]:
    """Sum over examples of the squared (or absolute) gradient of each one's log-likelihood.

    One backward pass per example: exact for every kind of module, and for tied parameters, whose uses autograd sums
    before the gradient arrives here. Each gradient is added and dropped as soon as it is complete, so that memory
    beyond the model is one float32 per parameter and one layer's gradient; that of a tied parameter lives from its last
    use to its first within the backward pass.

    Args:
        model: in [`scoring_mode`], with effective weights in place.
        parameters: what to score.
        examples: batches of one example each.
        loss_fn: the loss of a batch's examples.
        importance: "fisher" for squares, "absolute" for magnitudes.

    Returns:
        Per name a float32 tensor of the parameter's shape, on its device. Divide by the number of examples.
    """
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}

    def hook(accumulator: Tensor) -> Any:
        def add(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            gradient = gradient.detach().float()
            if importance == "fisher":
                accumulator.addcmul_(gradient, gradient)
            else:
                accumulator.add_(gradient.abs())
            parameter.grad = None

        return add

    handles = [p.register_post_accumulate_grad_hook(hook(total[name])) for name, p in parameters.items()]
    try:
        for batch in examples:
            with torch.enable_grad():
                loss = loss_fn(model, batch).sum()
                if loss.requires_grad:  # an example may touch no targeted parameter at all
                    loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return total
