"""Products with effective weights that are swapped in: sparse deltas are added to the frozen weight in place for one
product, and the base values are restored after it. No effective copy is kept, neither in forward nor for backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapter.base_parameter import TunedParameter, active_views, at_least_float
from ..adapter.recording import is_recorded
from ..adapter.state import SparseDelta
from ..half_precision import for_product
from .once import differentiable_once
from .recompute import Source
from .sparse_grad import matrix_gradient, row_gradient
from .stale import Snapshot

Deltas = Sequence[SparseDelta]


@contextmanager
def swapped_in(parameter: TunedParameter, weight: Tensor, deltas: Deltas, views: Sequence[Tensor]) -> Iterator[None]:
    """Within, `weight` has its effective values. On exit the previous contents (base or merged) are restored.

    Costs two copies of O(entries). Writes do not count in autograd's version of the weight: its values are restored
    before anything else can read them.
    """
    with parameter.lock, torch.no_grad():
        if parameter.has_effective(deltas):
            yield
            return
        merged = list(parameter.merged_adapters)
        if parameter.swapped_in or merged:  # other values than those of `deltas`
            parameter.unmerge(weight)
        try:
            if deltas:
                parameter.swap_in(weight, deltas, views)
            yield
        finally:
            parameter.unmerge(weight)
            if merged:
                parameter.merge(weight, merged)


class SparseDeltaLinear(torch.autograd.Function):
    """`x @ weight.T + bias`, or `x @ weight + bias` for transformers' Conv1D, with effective weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        parameter: TunedParameter,
        deltas: Deltas,
        transposed: bool,
        source: Source | None,
        *views: Tensor,
    ) -> Tensor:
        dtype = autocast_dtype(x, weight)
        operand, bias_operand = x.to(dtype), None if bias is None else bias.to(dtype)
        converted: Tensor | None = None
        if dtype == weight.dtype:
            with swapped_in(parameter, weight, deltas, views):
                out = no_view(product(operand, weight, bias_operand, transposed))
        else:  # autocast: backward needs the converted weight too, which autograd keeps of a frozen model as well
            converted = converted_weight(weight, parameter, deltas, views, dtype)
            out = no_view(product(operand, converted, bias_operand, transposed))
            converted = converted if ctx.needs_input_grad[0] else None
        kept: Tensor | None = operand
        ctx.recompute = None
        if not any(ctx.needs_input_grad[7:]):
            kept = None
        elif source is not None:
            source.recompute.users += 1
            kept, ctx.recompute = source.x, source.recompute
        ctx.save_for_backward(kept, converted, *views)
        ctx.weight, ctx.parameter, ctx.deltas, ctx.transposed = weight, parameter, deltas, transposed
        ctx.dtype, ctx.x_dtype = dtype, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        operand, converted, *views = ctx.saved_tensors
        if ctx.recompute is not None:
            operand = ctx.recompute.output(operand).to(ctx.dtype)
        grad_x = grad_bias = None
        grad = as_rows(grad_output.to(ctx.dtype))
        with without_autocast(grad):
            if ctx.needs_input_grad[0]:
                if converted is None:
                    with swapped_in(ctx.parameter, ctx.weight, ctx.deltas, views):
                        rows = input_gradient(grad, ctx.weight, ctx.transposed)
                else:
                    rows = input_gradient(grad, converted, ctx.transposed)
                grad_x = rows.to(ctx.x_dtype).view(*grad_output.shape[:-1], rows.shape[-1])
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum(0).to(ctx.bias_dtype)
            needed = ctx.needs_input_grad[7:]
            grad_views = product_gradients(grad, operand, ctx.deltas, views, needed, ctx.transposed)
        return grad_x, None, grad_bias, None, None, None, None, *grad_views


def converted_weight(
    weight: Tensor, parameter: TunedParameter, deltas: Deltas, views: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """The effective weight in another dtype; nothing is written into the base."""
    with parameter.lock:
        if parameter.has_effective(deltas):
            return weight.to(dtype)
        return parameter.effective(weight, deltas, views, dtype)


class AddedProduct(torch.autograd.Function):
    """`x @ delta.T`, for weights with quantized storage; the delta is dense during the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: TunedParameter, deltas: Deltas, *views: Tensor) -> Tensor:
        dtype = autocast_dtype(x, x)
        operand = x.to(dtype)
        out = F.linear(operand, parameter.dense_delta(deltas, views, dtype))
        ctx.save_for_backward(operand if any(ctx.needs_input_grad[3:]) else None, *views)
        ctx.parameter, ctx.deltas, ctx.dtype, ctx.x_dtype = parameter, deltas, dtype, x.dtype
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        operand, *views = ctx.saved_tensors
        grad, grad_x = grad_output.to(ctx.dtype), None
        with without_autocast(grad):
            if ctx.needs_input_grad[0]:
                delta = ctx.parameter.dense_delta(ctx.deltas, views, ctx.dtype)
                grad_x = for_product(grad).matmul(for_product(delta)).to(ctx.x_dtype)
            if ctx.parameter.gradient is not None and operand is not None:
                ctx.parameter.add_gradient(as_rows(grad).t().matmul(as_rows(operand)))
            grad_views = product_gradients(grad, operand, ctx.deltas, views, ctx.needs_input_grad[3:])
        return grad_x, None, None, *grad_views


def added_product(x: Tensor, parameter: TunedParameter, deltas: Deltas) -> Tensor:
    """`x @ delta.T` of the sum of `deltas`, through which gradients flow to x and to the deltas."""
    views = active_views(deltas)
    if not torch.compiler.is_compiling() and not is_recorded():
        return AddedProduct.apply(x, parameter, deltas, *views)
    zeros = torch.zeros(parameter.shape.numel(), dtype=torch.float32, device=x.device)
    return F.linear(x, total_delta(zeros, deltas, views).view(parameter.shape).to(x.dtype))


def product_gradients(
    grad: Tensor,
    operand: Tensor | None,
    deltas: Deltas,
    views: Sequence[Tensor],
    needed: Sequence[bool],
    transposed: bool = False,
) -> list[Tensor | None]:
    """The gradients of the trainable values of a weight, from those of the output of its product with `operand`."""
    if operand is None:
        return [None] * len(views)
    left, right = as_rows(grad), as_rows(operand)
    if transposed:
        left, right = right, left
    return view_gradients(deltas, views, needed, partial(matrix_gradient, left, right))


def input_gradient(grad: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """From the gradient of the output of [`product`], as rows, to that of its input."""
    return for_product(grad).matmul(for_product(weight.t() if transposed else weight))


def no_view(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that is no view: autograd forbids changing views that a custom function returns, and
    some models change the output of a layer in place."""
    return tensor.new_empty(0).set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def as_rows(tensor: Tensor) -> Tensor:
    """The tensor, or vector, as a matrix whose rows are its last axis."""
    return tensor.reshape(-1, tensor.shape[-1])


def product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """The same calls as in nn.Linear and Conv1D, so that merged and unmerged models agree bitwise."""
    if not transposed:
        return F.linear(x, weight, bias)
    flat = x.view(-1, x.size(-1))
    out = flat.matmul(weight) if bias is None else torch.addmm(bias, flat, weight)
    return out.view(*x.shape[:-1], weight.shape[1])


class SparseDeltaEmbedding(torch.autograd.Function):
    """`weight[ids]` with effective weights; gradients are computed for the rows that the batch uses."""

    @staticmethod
    def forward(
        ctx: Any,
        ids: Tensor,
        weight: Tensor,
        padding_idx: int | None,
        parameter: TunedParameter,
        deltas: Deltas,
        *views: Tensor,
    ) -> Tensor:
        with swapped_in(parameter, weight, deltas, views):
            out = no_view(F.embedding(ids, weight))
        ctx.save_for_backward(ids, *views)
        ctx.deltas, ctx.padding_idx = deltas, padding_idx
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        ids, *views = ctx.saved_tensors
        needed = ctx.needs_input_grad[5:]
        grads = lookup_gradients(grad_output, ids, ctx.padding_idx, ctx.deltas, views, needed)
        return None, None, None, None, None, *grads


def lookup_gradients(
    grad: Tensor, ids: Tensor, padding_idx: int | None, deltas: Deltas, views: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the trainable values of a table, from those of the rows that `ids` selected."""
    rows, inverse = ids.flatten().unique(return_inverse=True)
    dense = grad.new_zeros(rows.numel(), grad.shape[-1], dtype=torch.float32)
    dense.index_add_(0, inverse, as_rows(grad).float())
    if padding_idx is not None:
        dense[rows == padding_idx] = 0
    return view_gradients(deltas, views, needed, partial(row_gradient, rows, dense))


class EffectiveWeight(torch.autograd.Function):
    """A new tensor of effective values, for modules other than Linear and Embedding."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, parameter: TunedParameter, deltas: Deltas, *views: Tensor) -> Tensor:
        # their values are not needed, and what is saved could be freed: layers that are recomputed share one tensor
        ctx.made_of = Snapshot(parameter, deltas, views)
        return parameter.effective(weight, deltas, views)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        return None, None, None, *gradients_of_entries(grad_output, ctx.made_of, needed)


def gradients_of_entries(gradient: Tensor, made_of: Snapshot, needed: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of the trainable values, from that of the effective values that were made of them.

    Raises:
        RuntimeError: the mask has changed since.
    """
    made_of.refuse_other_entries()
    flat = gradient.reshape(-1)
    return view_gradients(made_of.deltas, made_of.views, needed, lambda delta: flat.index_select(0, delta.active))


def effective_weight(weight: Tensor, parameter: TunedParameter, deltas: Deltas) -> Tensor:
    """The effective values of `weight` as a new tensor, from which gradients flow to the deltas."""
    views = active_views(deltas)
    if not torch.compiler.is_compiling() and not is_recorded():
        effective: Tensor = EffectiveWeight.apply(weight, parameter, deltas, *views)
        if parameter.gradient is not None and effective.requires_grad:
            effective.register_hook(parameter.add_gradient)
        return effective
    flat = parameter.restored(weight).reshape(-1)
    total = total_delta(torch.zeros_like(flat, dtype=torch.float32), deltas, views)
    return (at_least_float(flat) + total).to(flat.dtype).view(weight.shape)


def total_delta(total: Tensor, deltas: Deltas, views: Sequence[Tensor]) -> Tensor:
    """A float32 vector plus the deltas at their flat positions, in operations that torch.compile can follow."""
    # ONNX has no other addition at positions
    add = torch.Tensor.scatter_add if is_recorded() else torch.Tensor.index_add
    for delta, view in zip(deltas, views, strict=True):
        total = add(total, 0, delta.active, view.float() * delta.scale)
        if delta.inactive.numel() or not is_recorded():
            total = add(total, 0, delta.inactive, delta.inactive_values.float())
    return total


def view_gradients(
    deltas: Deltas, views: Sequence[Tensor], needed: Sequence[bool], of_active: Callable[[SparseDelta], Tensor]
) -> list[Tensor | None]:
    """The gradients of the trainable values; `of_active` computes that of the active deltas, where it is needed."""
    return [
        view_gradient(delta, of_active(delta), view) if need else None
        for delta, view, need in zip(deltas, views, needed, strict=True)
    ]


def view_gradient(delta: SparseDelta, gradient: Tensor, view: Tensor) -> Tensor:
    """From the gradient of the active deltas to that of the trainable values."""
    delta.state.warn_of_unscored_mask()
    gradient = gradient.float()
    return (gradient * delta.scale if delta.scale != 1.0 else gradient).to(view.dtype)


def autocast_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype in which a linear layer computes here."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.is_floating_point() and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    if x.dtype != weight.dtype:
        raise RuntimeError(f"expected an input of dtype {weight.dtype}, that of the weight, but got {x.dtype}.")
    return weight.dtype


def without_autocast(tensor: Tensor) -> torch.amp.autocast:
    """Autocast switched off: backward passes compute in the dtypes that their forward pass chose."""
    return torch.autocast(tensor.device.type, enabled=False)
