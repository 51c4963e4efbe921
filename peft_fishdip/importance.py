"""How much the parameters matter: the empirical Fisher information of some examples (Eq. 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .examples import Numbered, row
from .losses import EmptyExampleError, LossFn, refuse_infinite
from .per_example import Add, NotSupported, PerExample


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
    groups: Iterable[Numbered],
    loss_fn: LossFn,
    importance: str,
) -> tuple[dict[str, Tensor], dict[int, float]]:
    """Sum over examples of the squared (or absolute) gradient of each one's log-likelihood.

    A group of one example takes a backward pass of its own: exact for every kind of module, and for tied parameters,
    whose uses autograd sums before the gradient arrives here. The examples of a larger group share a pass if their
    gradients can be told apart, see [`PerExample`]. Each gradient is added and dropped as soon as it is complete, so
    that memory beyond the model is one float32 per parameter and one layer's gradients; those of a tied parameter
    live from its last use to its first within the backward pass.

    Args:
        model: in [`scoring_mode`], with effective weights in place.
        parameters: what to score.
        groups: batches of examples, with their numbers; if any is to share a pass, larger ones first.
        loss_fn: the losses of a batch's examples.
        importance: "fisher" for squares, "absolute" for magnitudes.

    Returns:
        Per name a float32 tensor of the parameter's shape, on its device (divide by the number of examples), and the
        loss of each example.

    Raises:
        ValueError: an example has no target, or its loss is not finite.
    """
    add = add_square if importance == "fisher" else add_magnitude
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    losses: dict[int, float] = {}
    together: bool | None = None
    for group in groups:
        if len(group.ids) > 1 and together is None:
            together = not losses and can_tell_apart(model, parameters, group, loss_fn, total, add)
        if len(group.ids) > 1 and together:
            losses.update(add_together(model, parameters, group, loss_fn, total, add))
            continue
        for index in range(len(group.ids)):
            losses.update(add_alone(model, parameters, single(group, index), loss_fn, total, add))
    return total, losses


def add_square(total: Tensor, gradient: Tensor) -> None:
    total.addcmul_(gradient, gradient)


def add_magnitude(total: Tensor, gradient: Tensor) -> None:
    total.add_(gradient.abs())


def add_alone(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    example: Numbered,
    loss_fn: LossFn,
    total: Mapping[str, Tensor],
    add: Add,
) -> dict[int, float]:
    """Add the importance of one example, from a backward pass of its own; returns its loss."""

    def hook(accumulator: Tensor) -> Any:
        def take(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            add(accumulator, gradient.detach().float())
            parameter.grad = None

        return take

    handles = [p.register_post_accumulate_grad_hook(hook(total[name])) for name, p in parameters.items()]
    try:
        return backward(model, example, loss_fn)
    finally:
        for handle in handles:
            handle.remove()


def add_together(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    group: Numbered,
    loss_fn: LossFn,
    total: Mapping[str, Tensor],
    add: Add,
) -> dict[int, float]:
    """Add the importance of each example of a group, from one backward pass; returns their losses."""
    watcher = PerExample(model, parameters, total, add)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    try:
        with watcher.of_batch(len(group.ids)):
            return backward(model, group, loss_fn)
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(True)


def backward(model: nn.Module, group: Numbered, loss_fn: LossFn) -> dict[int, float]:
    """A forward and a backward pass over a group; returns the losses of its examples."""
    with torch.enable_grad():
        try:
            losses = loss_fn(model, group.batch)
        except EmptyExampleError as error:
            raise ValueError(f"example {group.ids[error.row]}: {error}") from error
        refuse_infinite(group.ids, losses.detach())
        if losses.requires_grad:  # examples may touch no targeted parameter at all
            losses.sum().backward()
    return dict(zip(group.ids, losses.detach().float().reshape(-1).tolist(), strict=True))


_told_apart: WeakKeyDictionary[nn.Module, dict[frozenset[str], bool]] = WeakKeyDictionary()


def can_tell_apart(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    group: Numbered,
    loss_fn: LossFn,
    total: Mapping[str, Tensor],
    add: Add,
) -> bool:
    """Whether the examples of a batch can share a backward pass; tried once for each model and its targets.

    The first and the last example are scored in one pass and, to compare, in two. Whatever a model does with its
    parameters past the modules that own them shows here.

    Args:
        total: accumulators of zeros, which they are again afterwards.
    """
    known = _told_apart.setdefault(model, {})
    targets = frozenset(parameters)
    if targets not in known:
        pair = [single(group, index) for index in (0, -1)]
        both = Numbered(
            [group.ids[0], group.ids[-1]], {key: joined([x.batch[key] for x in pair]) for key in group.batch}
        )
        try:
            add_together(model, parameters, both, loss_fn, total, add)
            sizes = {name: size(tensor) for name, tensor in total.items()}
            for example in pair:
                add_alone(model, parameters, example, loss_fn, total, partial(subtract, add))
            negligible = 1e-6 * max(sizes.values())  # a gradient that is zero but for rounding may differ by any share
            known[targets] = all(
                size(tensor) <= tolerance(parameters[name]) * sizes[name] + negligible for name, tensor in total.items()
            )
        except (NotSupported, RuntimeError):
            known[targets] = False
        for tensor in total.values():
            tensor.zero_()
    return known[targets]


def size(tensor: Tensor) -> float:
    """Euclidean norm; sums of squares of squares would overflow float32."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def subtract(add: Add, total: Tensor, gradient: Tensor) -> None:
    total.neg_()
    add(total, gradient)
    total.neg_()


def tolerance(parameter: Tensor) -> float:
    """Relative difference that the order of sums may make; half precision rounds gradients to 2 or 3 digits."""
    return 1e-3 if parameter.dtype in (torch.float32, torch.float64) else 0.1


def single(group: Numbered, index: int) -> Numbered:
    """The group of just one of a group's examples."""
    index %= len(group.ids)
    return group if len(group.ids) == 1 else Numbered([group.ids[index]], row(group.batch, index))


def joined(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) and values[0].dim() else values[0]
