"""How much the parameters matter: the empirical Fisher information of some examples (Eq. 1 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..half_precision import float32_products
from ..quantization import has_quantized_storage
from .examples import Numbered, row
from .losses import EmptyExampleError, LossFn, refuse_infinite
from .per_example import Add, NotSupported, PerExample


@contextmanager
def scoring_mode(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, the model is in eval mode and just `parameters` require gradients; all is put back afterwards.

    The authors' code leaves dropout on from the second mask on, which makes the choice of examples and parameters
    noisy; here both are functions of the model and the data. Packed parameters take no gradients of their own.
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
            parameter.requires_grad_(not has_quantized_storage(parameter))
        with float32_products(model.parameters()):
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
    shapes: Mapping[str, torch.Size] | None = None,
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
        shapes: of the parameters; needed for packed ones, which may have another.

    Returns:
        Per name a float32 tensor of the parameter's shape, on its device (divide by the number of examples), and the
        loss of each example.

    Raises:
        ValueError: an example has no target, or its loss is not finite.
    """
    sums = ImportanceSums(model, parameters, loss_fn, add_square if importance == "fisher" else add_magnitude, shapes)
    losses: dict[int, float] = {}
    together: bool | None = None
    for group in groups:
        if len(group.ids) > 1 and together is None:
            together = not losses and sums.supports_per_sample(group)
        if len(group.ids) > 1 and together:
            losses.update(sums.add_together(group))
            continue
        for index in range(len(group.ids)):
            losses.update(sums.add_alone(single(group, index)))
    return sums.total, losses


def add_square(total: Tensor, gradient: Tensor) -> None:
    total.addcmul_(gradient, gradient)


def add_magnitude(total: Tensor, gradient: Tensor) -> None:
    total.add_(gradient.abs())


_per_sample_support: WeakKeyDictionary[nn.Module, dict[frozenset[str], bool]] = WeakKeyDictionary()


class ImportanceSums:
    """The importance of parameters, summed over examples.

    Attributes:
        total: per parameter a float32 tensor of its shape, on its device.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        loss_fn: LossFn,
        add: Add,
        shapes: Mapping[str, torch.Size] | None = None,
    ) -> None:
        shapes = shapes or {name: parameter.shape for name, parameter in parameters.items()}
        self.model = model
        self.parameters = parameters
        self.loss_fn = loss_fn
        self.add = add
        self.total = {name: torch.zeros(shapes[name], device=p.device) for name, p in parameters.items()}
        self.packed = {name: p for name, p in parameters.items() if has_quantized_storage(p)}
        self.plain = {name: p for name, p in parameters.items() if name not in self.packed}

    def add_alone(self, example: Numbered, add: Add | None = None) -> dict[int, float]:
        """Add the importance of one example, from a backward pass of its own; returns its loss."""
        add = add or self.add
        with ExitStack() as stack:
            for name, parameter in self.plain.items():
                hook = parameter.register_post_accumulate_grad_hook(taking(self.total[name], add))
                stack.callback(hook.remove)
            if self.packed:
                stack.enter_context(PerExample(self.model, self.packed, self.total, add).of_batch(1))
            return self.backward(example)

    def add_together(self, group: Numbered) -> dict[int, float]:
        """Add the importance of each example of a group, from one backward pass; returns their losses."""
        watcher = PerExample(self.model, self.parameters, self.total, self.add)
        for parameter in self.plain.values():
            parameter.requires_grad_(False)
        try:
            with watcher.of_batch(len(group.ids)):
                return self.backward(group)
        finally:
            for parameter in self.plain.values():
                parameter.requires_grad_(True)

    def backward(self, group: Numbered) -> dict[int, float]:
        """A forward and a backward pass over a group; returns the losses of its examples."""
        with torch.enable_grad():
            try:
                losses = self.loss_fn(self.model, group.batch)
            except EmptyExampleError as error:
                raise ValueError(f"example {group.ids[error.row]}: {error}") from error
            refuse_infinite(group.ids, losses.detach())
            if losses.requires_grad:  # examples may touch no targeted parameter at all
                losses.sum().backward()
        return dict(zip(group.ids, losses.detach().float().reshape(-1).tolist(), strict=True))

    def supports_per_sample(self, group: Numbered) -> bool:
        """Whether the examples of a batch can share a backward pass; tried once for each model and its targets.

        The first and the last example are scored in one pass and, to compare, in two, before anything else is: no
        second set of sums is needed. Whatever a model does with its parameters past the modules that own them shows
        here.
        """
        known = _per_sample_support.setdefault(self.model, {})
        targets = frozenset(self.parameters)
        if targets not in known:
            try:
                known[targets] = self.try_together([single(group, index) for index in (0, -1)])
            except RuntimeError as error:  # memory ran out: this time only, the next update may have more
                if not ran_out_of_memory(error):
                    raise
                return False
        return known[targets]

    def try_together(self, pair: Sequence[Numbered]) -> bool:
        """Whether two examples together have the importance that they have alone; leaves zeros."""
        batch = {key: joined([example.batch[key] for example in pair]) for key in pair[0].batch}
        try:
            self.add_together(Numbered([pair[0].ids[0], pair[1].ids[0]], batch))
            sizes = {name: size(tensor) for name, tensor in self.total.items()}
            for example in pair:
                self.add_alone(example, self.subtract)
            negligible = 1e-6 * max(sizes.values())  # a gradient that is zero but for rounding may differ by any share
            return all(
                size(tensor) <= tolerance(self.parameters[name]) * sizes[name] + negligible
                for name, tensor in self.total.items()
            )
        except NotSupported:
            return False
        except RuntimeError as error:  # of the model, which cannot compute with one parameter per example
            if ran_out_of_memory(error):
                raise
            return False
        finally:
            for tensor in self.total.values():
                tensor.zero_()

    def subtract(self, total: Tensor, gradient: Tensor) -> None:
        total.neg_()
        self.add(total, gradient)
        total.neg_()


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised an error for want of memory; on a CPU it is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def taking(total: Tensor, add: Add) -> Callable[[Tensor], None]:
    """A hook that adds a parameter's gradient and drops it."""

    def take(parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        add(total, gradient.detach().float())
        parameter.grad = None

    return take


def size(tensor: Tensor) -> float:
    """Euclidean norm; sums of squares of squares would overflow float32."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def tolerance(parameter: Tensor) -> float:
    """Relative difference that the order of sums may make; half precision rounds gradients to 2 or 3 digits."""
    return 1e-3 if parameter.dtype in (torch.float32, torch.float64) else 0.1


def single(group: Numbered, index: int) -> Numbered:
    """The group of just one of a group's examples."""
    index %= len(group.ids)
    return group if len(group.ids) == 1 else Numbered([group.ids[index]], row(group.batch, index))


def joined(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) and values[0].dim() else values[0]
