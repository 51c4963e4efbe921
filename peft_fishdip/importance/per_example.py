"""The gradients of all examples of a batch, each on its own, from one backward pass.

Of a linear layer, inputs x and output gradients g of an example give its weight gradient as g.T @ x, so one forward
and one backward pass over the batch are enough; what is left is one small product per example. Parameters that are
used several times (tied embeddings) are summed over their uses first. What is broadcast over a batch, such as T5's
relative attention bias, is made one per example for the time of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..quantization import has_quantized_storage

ROWS = 512
"""Rows of a weight whose gradients are made at a time on a CPU: one of a large weight is never there as a whole."""

Add = Callable[[Tensor, Tensor], None]
"""Adds the importance of one example's gradient (second) to a part of a parameter's accumulator (first)."""


class NotSupported(Exception):
    """The gradients of single examples cannot be told apart in this model."""


class Product(NamedTuple):
    """A use of a matrix whose gradient is left.T @ right, of each example."""

    left: Tensor
    """(examples, tokens, rows)"""
    right: Tensor
    """(examples, tokens, columns)"""


class Lookup(NamedTuple):
    """A use of a matrix as a table."""

    ids: Tensor
    """int64 (examples, tokens)"""
    gradient: Tensor
    """(examples, tokens, columns)"""


class Whole(NamedTuple):
    """A use of any parameter whose gradient is known for each example."""

    gradient: Tensor
    """(examples, *shape)"""


Use = Product | Lookup | Whole


class PerExample:
    """Hooks that gather, for each parameter, what its examples' gradients are made of.

    Args:
        model: in eval mode; none of its parameters requires gradients.
        parameters: those whose gradients are wanted.
        accumulators: float32, of the parameters' shapes; each example's importance is added to them.
        add: how.

    Raises:
        NotSupported: a module that owns one of the parameters is of no known kind.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        accumulators: Mapping[str, Tensor],
        add: Add,
    ) -> None:
        self.accumulators = {id(parameter): accumulators[name] for name, parameter in parameters.items()}
        self.add = add
        self.modules = [(module, self.owned(module)) for module in model.modules() if self.owned(module)]
        # T5's attention layers and the tables of their relative biases, which may be wrapped
        self.relative: list[tuple[Any, Any]] = [
            (attention, table)
            for attention in model.modules()
            if hasattr(attention, "compute_bias")
            for table in getattr(attention, "relative_attention_bias", nn.Identity()).modules()
            if self.owned(table)
        ]
        tables = {id(table) for _, table in self.relative}
        self.modules = [(module, owned) for module, owned in self.modules if id(module) not in tables]
        for module, owned in self.modules:
            if capture_of(module) is None or any(parameter.dim() > 2 for parameter in owned.values()):
                raise NotSupported(f"{type(module).__name__} is of no known kind")
        self.size = 0
        self.begun: dict[int, int] = {}
        self.uses: dict[int, list[Use]] = {}

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The wanted parameters that a module owns itself, by their name there."""
        return {
            name: parameter
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) in self.accumulators
        }

    @contextmanager
    def of_batch(self, size: int) -> Iterator[None]:
        """Within, one forward and one backward pass over a batch of `size` examples are to be made.

        Raises:
            NotSupported: a tensor of the passes does not have the examples as its first axis.
        """
        self.size = size
        with ExitStack() as stack:
            for module, owned in self.modules:
                capture = capture_of(module)
                assert capture is not None
                for handle in capture(self, module, owned):
                    stack.callback(handle.remove)
            for attention, table in self.relative:
                stack.enter_context(self.bias_of_each(attention, table))
            try:
                yield
                for key in list(self.uses):
                    self.flush(key)
            finally:
                self.uses.clear()
                self.begun.clear()

    def watch(self, output: Tensor, parameters: list[nn.Parameter], use: Callable[[Tensor], list[Use]]) -> Tensor:
        """Note what the gradient of an output says of the parameters that made it; returns the output to go on with."""
        if output.shape[0] != self.size and self.size > 1:
            raise NotSupported(f"an output of shape {tuple(output.shape)} does not begin with {self.size} examples")
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        keys = [id(parameter) for parameter in parameters]
        for key in keys:
            self.begun[key] = self.begun.get(key, 0) + 1

        def hook(gradient: Tensor) -> None:
            for key, found in zip(keys, use(gradient.detach()), strict=True):
                self.uses.setdefault(key, []).append(found)
                if len(self.uses[key]) == self.begun[key]:
                    self.flush(key)

        output.register_hook(hook)
        return output

    def tokens(self, tensor: Tensor) -> Tensor:
        """(examples, tokens, width) of a tensor with any axes between the first and the last.

        Of one example alone all axes but the last are tokens.
        """
        return tensor.reshape(self.size, -1, tensor.shape[-1])

    @torch.no_grad()
    def flush(self, key: int) -> None:
        """All uses of a parameter are known: add the importance of each example's gradient."""
        accumulator, uses = self.accumulators[key], self.uses.pop(key)
        if all(isinstance(use, Lookup) for use in uses):
            self.add_rows(accumulator, uses)  # type: ignore[arg-type]
        elif all(isinstance(use, Whole) for use in uses):
            for example in range(self.size):
                gradients = [use.gradient[example].float() for use in uses]  # type: ignore[union-attr]
                self.add(accumulator, sum(gradients[1:], gradients[0]))
        else:
            self.add_blocks(accumulator, uses)

    def add_rows(self, accumulator: Tensor, uses: list[Lookup]) -> None:
        """Of a table: only the rows that an example uses."""
        ids = torch.cat([use.ids for use in uses], 1)
        gradients = torch.cat([use.gradient for use in uses], 1).float()
        for example in range(self.size):
            rows, place = ids[example].unique(return_inverse=True)
            gradient = gradients.new_zeros(rows.numel(), gradients.shape[-1])
            gradient.index_add_(0, place, gradients[example])
            part = accumulator[rows]
            self.add(part, gradient)
            accumulator[rows] = part

    def add_blocks(self, accumulator: Tensor, uses: list[Use]) -> None:
        """Of a matrix: the gradients of a block of rows, example by example."""
        rows, columns = accumulator.shape
        block = ROWS if accumulator.device.type == "cpu" else rows
        products = [Product(use.left.float(), use.right.float()) for use in uses if isinstance(use, Product)]
        lookups = [use for use in uses if isinstance(use, Lookup)]
        if len(products) + len(lookups) < len(uses):
            raise NotSupported("a parameter is used in different ways")
        buffer = torch.empty(min(block, rows), columns, device=accumulator.device)
        for start in range(0, rows, block):
            stop = min(start + block, rows)
            gradient = buffer[: stop - start]
            for example in range(self.size):
                for i, use in enumerate(products):
                    left = use.left[example, :, start:stop].t()
                    torch.addmm(gradient, left, use.right[example], beta=float(i > 0), out=gradient)
                for lookup in lookups:
                    ids = lookup.ids[example]
                    inside = ((ids >= start) & (ids < stop)).nonzero().squeeze(1)
                    gradient.index_add_(0, ids[inside] - start, lookup.gradient[example, inside].float())
                self.add(accumulator[start:stop], gradient)

    @contextmanager
    def bias_of_each(self, attention: Any, table: Any) -> Iterator[None]:
        """Within, the relative attention bias of a T5 attention layer is computed once for each example."""
        original = attention.compute_bias

        def compute_bias(*args: Any, **kwargs: Any) -> Tensor:
            buckets: list[Tensor] = []
            handle = table.register_forward_pre_hook(lambda _, inputs: buckets.append(inputs[0]))
            try:
                bias = original(*args, **kwargs)
            finally:
                handle.remove()
            ids = buckets[0].flatten()
            of_each = bias.detach().expand(self.size, *bias.shape[1:]).clone()

            def use(gradient: Tensor) -> list[Use]:
                flat = gradient.permute(0, 2, 3, 1).reshape(self.size, ids.numel(), -1).float()
                total = flat.new_zeros(self.size, *table.weight.shape).index_add_(1, ids, flat)
                return [Whole(total)]

            return self.watch(of_each, [table.weight], use)

        attention.__dict__["compute_bias"] = compute_bias
        try:
            yield
        finally:
            del attention.__dict__["compute_bias"]


# ----- how modules of each kind are watched: from watcher, module and its wanted parameters to handles of hooks -------


def capture_linear(watcher: PerExample, module: nn.Module, owned: dict[str, nn.Parameter]) -> list[Any]:
    transposed = isinstance(module, Conv1D)

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = watcher.tokens(inputs[0].detach())

        def use(gradient: Tensor) -> list[Use]:
            g = watcher.tokens(gradient)
            product = Product(x, g) if transposed else Product(g, x)
            return [product if name == "weight" else Whole(g.float().sum(1)) for name in owned]

        return watcher.watch(output, list(owned.values()), use)

    return [module.register_forward_hook(after)]


def capture_embedding(watcher: PerExample, module: nn.Module, owned: dict[str, nn.Parameter]) -> list[Any]:
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise NotSupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ids = inputs[0]
        if ids.dim() == 2 and ids.shape[0] == 1 < watcher.size:  # positions: the same for all examples
            ids, output = ids.expand(watcher.size, -1), output.expand(watcher.size, -1, -1)
        padding = module.padding_idx

        def use(gradient: Tensor) -> list[Use]:
            gradient = watcher.tokens(gradient)
            if padding is not None:
                gradient = gradient.masked_fill((ids == padding).reshape(watcher.size, -1, 1), 0)
            return [Lookup(ids.reshape(watcher.size, -1), gradient)]

        return watcher.watch(output, list(owned.values()), use)

    return [module.register_forward_hook(after)]


def capture_norm(watcher: PerExample, module: nn.Module, owned: dict[str, nn.Parameter]) -> list[Any]:
    """torch's own LayerNorm and RMSNorm: the gradient of the gain is that of the output times the normalized input."""

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        normalize = F.rms_norm if isinstance(module, nn.RMSNorm) else F.layer_norm
        normalized = normalize(inputs[0].detach(), module.normalized_shape, eps=module.eps)  # type: ignore[arg-type]

        def use(gradient: Tensor) -> list[Use]:
            of_gain = watcher.tokens(gradient.float() * normalized.float()).sum(1)
            return [Whole(of_gain if name == "weight" else watcher.tokens(gradient.float()).sum(1)) for name in owned]

        return watcher.watch(output, list(owned.values()), use)

    return [module.register_forward_hook(after)]


def capture_gain(watcher: PerExample, module: nn.Module, owned: dict[str, nn.Parameter]) -> list[Any]:
    """T5LayerNorm and its kin, which multiply by a vector: each example is given a gain of its own."""
    weight = owned["weight"]

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        gains = weight.detach().expand(watcher.size, *[1] * (x.dim() - 2), *weight.shape).clone()
        module.__dict__["weight"] = watcher.watch(
            gains, [weight], lambda gradient: [Whole(gradient.reshape(watcher.size, *weight.shape))]
        )

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        module.__dict__.pop("weight", None)
        if output.shape != inputs[0].shape:
            raise NotSupported(f"{type(module).__name__} does not multiply by its weight")

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def capture_of(module: Any) -> Callable[[PerExample, nn.Module, dict[str, nn.Parameter]], list[Any]] | None:
    """How to watch a module; None if that is not known."""
    if type(module) in (nn.Linear, Conv1D) or (isinstance(module, nn.Linear) and has_quantized_storage(module.weight)):
        return capture_linear
    if type(module) is nn.Embedding:
        return capture_embedding
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        return capture_norm if len(module.normalized_shape) == 1 else None
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own == ["weight"] and module.weight.dim() == 1 and "Norm" in type(module).__name__:
        return capture_gain
    return None
