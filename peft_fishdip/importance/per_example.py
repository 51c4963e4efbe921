"""Per-sample gradients: the gradient of each example of a batch, from one backward pass.

With inputs x and output gradients g of one example, the weight gradient of a linear layer is g.T @ x. So one forward
and one backward pass over the batch, with hooks that keep x and g, leave one small product per example to compute. The
uses of a tied parameter are summed before they are squared. What a model broadcasts over the batch, such as the
relative attention bias of T5, is expanded to one copy per example for the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..half_precision import HALVES_ARE_SLOW
from ..private import as_plain_tensors
from ..quantization import has_quantized_storage
from ..stand_in import place_of

ROWS = 512  # of a weight, computed at a time on a CPU, so that no dense gradient is allocated
Add = Callable[[Tensor, Tensor], None]  # adds the importance of one example's gradient (second) to an accumulator
Owned = dict[str, nn.Parameter]  # the wanted parameters of a module, by their names there


class NotSupported(RuntimeError):
    """Per-sample gradients of this model cannot be computed in one pass."""


class Product(NamedTuple):
    """A use of a matrix, whose gradient is left.T @ right for each example."""

    left: Tensor  # (examples, tokens, rows)
    right: Tensor  # (examples, tokens, columns)


class Lookup(NamedTuple):
    """A use of a matrix as an embedding table, with the gradient of each row that was looked up."""

    ids: Tensor  # int64 (examples, tokens)
    gradient: Tensor  # (examples, tokens, columns)


class Whole(NamedTuple):
    """A use of a parameter of any shape, with its gradient for each example."""

    gradient: Tensor  # (examples, *shape)


Use = Product | Lookup | Whole


class PerSampleGradients:
    """Computes the gradient of each example of a batch and adds its importance to accumulators.

    Args:
        model: in eval mode; none of its parameters requires gradients.
        parameters: the parameters whose gradients are wanted.
        accumulators: per parameter a float32 tensor of the shape of its values.
        add: adds the importance of one example's gradient to a part of an accumulator.
        autocast: the dtype of torch.autocast that the forward pass runs under, if any; the gradients of matrices are
            then products in this dtype, as in training.

    Raises:
        NotSupported: a module that owns one of the parameters is of no supported kind, or, during the passes, a tensor
            does not have the examples as its first axis.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        accumulators: Mapping[str, Tensor],
        add: Add,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.accumulators = {id(parameter): accumulators[name] for name, parameter in parameters.items()}
        self.add = add
        self.dtype = torch.float32 if autocast is None or HALVES_ARE_SLOW else autocast
        # T5's attention layers and the tables of their relative biases, which adapters may have wrapped
        self.biases: list[tuple[Any, Any]] = [
            (attention, table)
            for attention in model.modules()
            if hasattr(attention, "compute_bias")
            for table in getattr(attention, "relative_attention_bias", nn.Identity()).modules()
            if self.owned(table)
        ]
        tables = [table for _, table in self.biases]
        self.modules = [
            (module, owned, capture_of(module))
            for module in model.modules()
            if (owned := self.owned(module)) and not any(module is table for table in tables)
        ]
        self.size = 0
        self.pending: dict[int, int] = {}  # per parameter the number of uses without a gradient so far
        self.uses: dict[int, list[Use]] = {}

    def owned(self, module: nn.Module) -> Owned:
        """The wanted parameters that belong to a module itself."""
        return {name: p for name, p in module.named_parameters(recurse=False) if id(p) in self.accumulators}

    @contextmanager
    def of_batch(self, size: int) -> Iterator[None]:
        """Inside, make one forward and one backward pass over a batch of `size` examples."""
        try:
            self.size = size
            with ExitStack() as stack:
                for module, owned, capture in self.modules:
                    for handle in capture(self, module, owned):
                        stack.callback(handle.remove)
                for attention, table in self.biases:
                    stack.enter_context(self.bias_per_example(attention, table))
                yield
                for key in list(self.uses):  # some uses do not contribute to the loss
                    self.flush(key)
        finally:
            self.size = 0  # hooks that an interrupt left behind do nothing from now on
            for module, _, capture in self.modules:
                if capture in (capture_gain, capture_lookups):
                    place_of(module).pop("weight", None)
            self.uses.clear()
            self.pending.clear()

    def record(self, output: Tensor, parameters: list[nn.Parameter], use: Callable[[Tensor], list[Use]]) -> Tensor:
        """Record the uses of `parameters` when the gradient of their output (examples, ...) arrives.

        `use` makes them from that gradient, one per parameter. The model must continue with the returned output.
        """
        if output.shape[0] != self.size and self.size > 1:
            raise NotSupported(f"an output of shape {tuple(output.shape)} does not begin with {self.size} examples")
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        keys = [id(parameter) for parameter in parameters]
        for key in keys:
            self.pending[key] = self.pending.get(key, 0) + 1

        def hook(gradient: Tensor) -> None:
            for key, found in zip(keys, use(gradient.detach()), strict=True):
                self.uses.setdefault(key, []).append(found)
                self.pending[key] -= 1
                if not self.pending[key]:
                    self.flush(key)

        output.register_hook(hook)
        return output

    def tokens(self, tensor: Tensor) -> Tensor:
        """The tensor as (examples, tokens, width): all axes between the first and the last are joined."""
        return tensor.reshape(self.size, -1, tensor.shape[-1])

    @torch.no_grad()
    def flush(self, key: int) -> None:
        """Add the importance of a parameter's per-sample gradients, from the uses that are recorded."""
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
        """Add the importance of an embedding table; only the rows that an example uses are touched."""
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
        """Add the importance of a matrix, one block of rows and one example at a time."""
        rows, columns = accumulator.shape
        block = ROWS if accumulator.device.type == "cpu" else rows
        found = [use for use in uses if isinstance(use, Product)]
        lookups = [use for use in uses if isinstance(use, Lookup)]
        if len(found) + len(lookups) < len(uses):
            raise NotSupported("a parameter is used both as a matrix and in another way")
        dtype = self.dtype if len(found) == 1 else torch.float32  # the dtype in which several uses are summed
        products = [Product(use.left.to(dtype), use.right.to(dtype)) for use in found]
        buffer = torch.empty(min(block, rows), columns, dtype=dtype, device=accumulator.device)
        for start in range(0, rows, block):
            stop = min(start + block, rows)
            gradient = buffer[: stop - start]
            for example in range(self.size):
                for i, use in enumerate(products):
                    left = use.left[example, :, start:stop].t()
                    torch.addmm(gradient, left, use.right[example], beta=float(i > 0), out=gradient)
                whole = gradient.float()
                for lookup in lookups:
                    ids = lookup.ids[example]
                    inside = ((ids >= start) & (ids < stop)).nonzero().squeeze(1)
                    whole.index_add_(0, ids[inside] - start, lookup.gradient[example, inside].float())
                self.add(accumulator[start:stop], whole)

    @contextmanager
    def bias_per_example(self, attention: Any, table: Any) -> Iterator[None]:
        """Inside, the relative attention bias of a T5 attention layer has one copy per example."""
        original = attention.compute_bias

        def compute_bias(*args: Any, **kwargs: Any) -> Any:
            if not self.size:
                return original(*args, **kwargs)
            buckets: list[Tensor] = []
            handle = table.register_forward_pre_hook(lambda _, inputs: buckets.append(inputs[0]))
            try:
                bias = original(*args, **kwargs)
            finally:
                handle.remove()
            ids = buckets[0].flatten()
            copies = bias.detach().expand(self.size, *bias.shape[1:]).clone()

            def use(gradient: Tensor) -> list[Use]:
                flat = gradient.permute(0, 2, 3, 1).reshape(self.size, ids.numel(), -1).float()
                total = flat.new_zeros(self.size, *table.weight.shape).index_add_(1, ids, flat)
                return [Whole(total)]

            return self.record(copies, [table.weight], use)

        attention.__dict__["compute_bias"] = compute_bias
        try:
            yield
        finally:
            del attention.__dict__["compute_bias"]


# attaches hooks that record the uses of a module's wanted parameters; returns the handles of the hooks
Capture = Callable[[PerSampleGradients, nn.Module, Owned], list[Any]]
UsesOf = Callable[[PerSampleGradients, Any, Owned, Tensor, Tensor], list[Use]]  # from input and output gradient


def capture_output(uses_of: UsesOf, recorder: PerSampleGradients, module: nn.Module, owned: Owned) -> list[Any]:
    """For modules whose uses follow from the input and the gradient of the output."""

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not recorder.size:
            return None
        x = inputs[0].detach()
        if isinstance(module, nn.Embedding) and x.dim() == 2 and x.shape[0] == 1 < recorder.size:
            # positions, which all examples share
            x, output = x.expand(recorder.size, -1), output.expand(recorder.size, -1, -1)
        return recorder.record(output, list(owned.values()), partial(uses_of, recorder, module, owned, x))

    return [module.register_forward_hook(after)]


def linear_uses(recorder: PerSampleGradients, module: Any, owned: Owned, x: Tensor, gradient: Tensor) -> list[Use]:
    """nn.Linear, quantized linear layers, and Conv1D, whose weight is transposed."""
    x, gradient = recorder.tokens(x), recorder.tokens(gradient)
    product = Product(x, gradient) if isinstance(module, Conv1D) else Product(gradient, x)
    return [product if name == "weight" else Whole(gradient.float().sum(1)) for name in owned]


def embedding_uses(recorder: PerSampleGradients, module: Any, owned: Owned, ids: Tensor, gradient: Tensor) -> list[Use]:
    """nn.Embedding, without max_norm, scale_grad_by_freq or sparse gradients."""
    ids, gradient = ids.reshape(recorder.size, -1), recorder.tokens(gradient)
    if module.padding_idx is not None:
        gradient = gradient.masked_fill((ids == module.padding_idx).unsqueeze(-1), 0)
    return [Lookup(ids, gradient)]


class Table(torch.Tensor):
    """The weight of an embedding: `record` gets the ids and the rows of each lookup, and returns what to go on with."""

    record: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with as_plain_tensors():
            found = func(*args, **(kwargs or {}))
        is_lookup = func is F.embedding and isinstance(args[1], Table)
        return args[1].record(args[0].detach(), found) if is_lookup else found


def capture_lookups(recorder: PerSampleGradients, module: Any, owned: Owned) -> list[Any]:
    """For kinds of nn.Embedding that change the rows they look up, as Gemma scales them."""

    def record(ids: Tensor, rows: Tensor) -> Tensor:
        return recorder.record(rows, list(owned.values()), partial(embedding_uses, recorder, module, owned, ids))

    def before(*_: Any) -> None:
        if recorder.size:
            table: Table = module.weight.detach().as_subclass(Table)
            table.record = record
            place_of(module)["weight"] = table

    def after(*_: Any) -> None:
        place_of(module).pop("weight", None)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def norm_uses(recorder: PerSampleGradients, module: Any, owned: Owned, x: Tensor, gradient: Tensor) -> list[Use]:
    """nn.LayerNorm and nn.RMSNorm: the gradient of the gain is that of the output times the normalized input."""
    normalize = F.rms_norm if isinstance(module, nn.RMSNorm) else F.layer_norm
    normalized = normalize(x, module.normalized_shape, eps=module.eps)
    gradient = gradient.float()
    of_gain = recorder.tokens(gradient * normalized.float()).sum(1)
    return [Whole(of_gain if name == "weight" else recorder.tokens(gradient).sum(1)) for name in owned]


def capture_gain(recorder: PerSampleGradients, module: nn.Module, owned: Owned) -> list[Any]:
    """T5LayerNorm and similar norms, which multiply by a vector: the pass uses one copy of it per example."""
    weight = owned["weight"]

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not recorder.size:
            return
        x = inputs[0]
        gains = weight.detach().expand(recorder.size, *[1] * (x.dim() - 2), *weight.shape).clone()
        place_of(module)["weight"] = recorder.record(
            gains, [weight], lambda gradient: [Whole(gradient.reshape(recorder.size, *weight.shape))]
        )

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        place_of(module).pop("weight", None)
        if recorder.size and output.shape != inputs[0].shape:
            raise NotSupported(f"{type(module).__name__} does not multiply by its weight")

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def capture_of(module: Any) -> Capture:
    """The capture function for a module of this kind; raises NotSupported if there is none."""
    kind = type(module)
    if kind in (nn.Linear, Conv1D) or (isinstance(module, nn.Linear) and has_quantized_storage(module.weight)):
        return partial(capture_output, linear_uses)
    if isinstance(module, nn.Embedding) and not (module.max_norm or module.scale_grad_by_freq or module.sparse):
        return partial(capture_output, embedding_uses) if kind is nn.Embedding else capture_lookups
    if kind in (nn.LayerNorm, nn.RMSNorm) and len(module.normalized_shape) == 1:
        return partial(capture_output, norm_uses)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own == ["weight"] and module.weight.dim() == 1 and "Norm" in kind.__name__:
        return capture_gain
    raise NotSupported(f"{kind.__name__} is of no supported kind")
