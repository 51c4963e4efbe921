"""Sums over examples of what their gradients are: of squares, for the Fisher information (Eq. 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..half_precision import float32_products
from ..quantization import has_quantized_storage
from .losses import LossFn, Numbered, example_losses
from .per_example import Add, PerSampleGradients
from .rows import RowsError, rows


@contextmanager
def scoring_mode(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, the model is in eval mode and only `parameters` require gradients; on exit, all flags are restored.

    The reference leaves dropout on from the second mask on, which adds noise to the choice of examples and parameters;
    here both depend on the model and the data alone. Parameters in quantized storage cannot require gradients.

    Within a torch.autocast of the caller's, weights that were cast before an update are none of its own, nor are those
    of the update, which have the deltas in them, of what comes after it; so the casts are forgotten at both ends.
    """
    training = {module: module.training for module in model.modules()}
    before = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.parameters()}
    try:
        model.eval()
        for parameter in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in parameters:
            parameter.requires_grad_(not has_quantized_storage(parameter))
        torch.clear_autocast_cache()
        with float32_products(model.parameters()):
            yield
    finally:
        torch.clear_autocast_cache()
        try:
            restore_flags(before, training)
        except BaseException:  # an interrupt: first restore all
            restore_flags(before, training)
            raise


def restore_flags(
    parameters: Mapping[nn.Parameter, tuple[bool, Tensor | None]], training: Mapping[nn.Module, bool]
) -> None:
    for parameter, (required, gradient) in parameters.items():
        parameter.requires_grad_(required)
        parameter.grad = gradient
    for module, flag in training.items():
        module.training = flag


def accumulate_importance(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    groups: Iterable[Numbered],
    loss_fn: LossFn,
    average: str,
    shapes: Mapping[str, torch.Size] | None = None,
    autocast: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], dict[int, float]]:
    """Sum the squared gradient (or its magnitude, or itself) of the log-likelihood over examples, for each parameter.

    A group of one example has its own backward pass, which is exact for every kind of module; autograd sums the uses of
    a tied parameter. The examples of a larger group share a pass if the model supports per-sample gradients, see
    [`PerSampleGradients`]. Each gradient is added and freed as soon as it is complete, so the memory needed beyond the
    model is one float32 per parameter and the gradients of one layer, and of tied parameters that are still in use.

    Args:
        model: in [`scoring_mode`], with effective weights in place.
        groups: batches of examples. Groups of several examples share passes only if such a group comes first.
        average: what is summed, by the name of its mean: "mean_square", "mean_absolute" or "mean".
        shapes: per parameter the shape of its values; needed for quantized storage, whose own shape may differ.
        autocast: the dtype of torch.autocast for the forward passes, if they shall run under it.

    Returns:
        Per name a float32 tensor of the parameter's shape on its device, not yet divided by the number of examples;
        and the loss of each example by its number.
    """
    sums = ImportanceSums(model, parameters, loss_fn, ADD[average], shapes, autocast)
    losses: dict[int, float] = {}
    together: bool | None = None
    for group in groups:
        if len(group.ids) > 1 and together is None:
            together = not losses and sums.supports_per_sample(group)
        if len(group.ids) > 1 and together:
            losses.update(sums.add_together(group))
        else:
            for index in range(len(group.ids)):
                losses.update(sums.add_alone(rows(group, [index])))
    return sums.total, losses


def add_square(total: Tensor, gradient: Tensor) -> None:
    total.addcmul_(gradient, gradient)


def add_magnitude(total: Tensor, gradient: Tensor) -> None:
    total.add_(gradient.abs())


def add_gradient(total: Tensor, gradient: Tensor) -> None:
    total.add_(gradient)


ADD: dict[str, Add] = {"mean_square": add_square, "mean_absolute": add_magnitude, "mean": add_gradient}


# per model and set of parameters: whether several examples can share a backward pass
_per_sample_support: WeakKeyDictionary[nn.Module, dict[frozenset[str], bool]] = WeakKeyDictionary()


class ImportanceSums:
    """Accumulates the importance of parameters over examples in `total`; see [`accumulate_importance`]."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        loss_fn: LossFn,
        add: Add,
        shapes: Mapping[str, torch.Size] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        shapes = shapes or {name: parameter.shape for name, parameter in parameters.items()}
        self.model = model
        self.parameters = parameters
        self.loss_fn = loss_fn
        self.add = add
        self.autocast = autocast
        self.total = {
            name: torch.zeros(shapes[name], dtype=torch.float32, device=p.device) for name, p in parameters.items()
        }
        self.quantized = {name: p for name, p in parameters.items() if has_quantized_storage(p)}
        self.hooked = False
        self.plain = {name: p for name, p in parameters.items() if name not in self.quantized}

    def add_alone(self, example: Numbered) -> dict[int, float]:
        """Add the importance of one example with a backward pass of its own; returns its loss by its number."""
        try:
            self.hooked = True
            with ExitStack() as stack:
                for name, parameter in self.plain.items():
                    hook = partial(self.add_and_free_gradient, self.total[name])
                    stack.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
                if self.quantized:
                    per_sample = PerSampleGradients(self.model, self.quantized, self.total, self.add, self.autocast)
                    stack.enter_context(per_sample.of_batch(1))
                return self.backward(example)
        finally:
            self.hooked = False  # hooks that an interrupt left behind do nothing from now on

    def add_and_free_gradient(self, total: Tensor, parameter: Tensor) -> None:
        gradient = parameter.grad
        if self.hooked and gradient is not None:
            self.add(total, (gradient.to_dense() if gradient.is_sparse else gradient).detach().float())
            parameter.grad = None

    def add_together(self, group: Numbered) -> dict[int, float]:
        """Add the importance of each example of a group with one backward pass; returns their losses by number."""
        gradients = PerSampleGradients(self.model, self.parameters, self.total, self.add, self.autocast)
        for parameter in self.plain.values():
            parameter.requires_grad_(False)
        try:
            with gradients.of_batch(len(group.ids)):
                return self.backward(group)
        finally:
            for parameter in self.plain.values():
                parameter.requires_grad_(True)

    def backward(self, group: Numbered) -> dict[int, float]:
        """Run a forward and a backward pass over a group; returns the losses of its examples by number."""
        with torch.enable_grad():
            losses = example_losses(self.model, group, self.loss_fn, self.autocast)
            if losses.requires_grad:  # not if the examples use no targeted parameter
                losses.sum().backward()
        return dict(zip(group.ids, losses.detach().float().tolist(), strict=True))

    def supports_per_sample(self, group: Numbered) -> bool:
        """Whether examples can share a backward pass; tested once for each model and set of parameters.

        The test compares the first and the last example of the group in one pass and in two. It must come before
        anything is added, because it uses `total`. It also finds parameters that the model uses outside of the modules
        that own them.
        """
        known = _per_sample_support.setdefault(self.model, {})
        targets = frozenset(self.parameters)
        if targets not in known:
            pair = rows(group, [0, -1])
            try:
                known[targets] = self.matches_single_passes(pair)
            except (RuntimeError, RowsError) as error:  # the model cannot compute with one parameter per example
                # on a CPU, a plain RuntimeError reports that memory is short
                if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                    return False  # not stored: the next update may have more memory
                known[targets] = False
        return known[targets]

    def matches_single_passes(self, pair: Numbered) -> bool:
        """Whether two examples have the same importance in one pass as in two; sets `total` to zero."""
        try:
            self.add_together(pair)
            norms = {name: norm(tensor) for name, tensor in self.total.items()}
            for tensor in self.total.values():
                tensor.neg_()
            for index in (0, 1):
                self.add_alone(rows(pair, [index]))
            negligible = 1e-6 * max(norms.values())  # rounding errors of a zero gradient have no relative size
            return all(
                norm(tensor) <= tolerance(self.autocast or self.parameters[name].dtype) * norms[name] + negligible
                for name, tensor in self.total.items()
            )
        finally:
            for tensor in self.total.values():
                tensor.zero_()


def norm(tensor: Tensor) -> float:
    """Euclidean norm in float64; float32 would overflow at squares of squared gradients."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that the order of summation may make; half precision rounds gradients to 2 or 3 digits."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1
