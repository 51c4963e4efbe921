"""Linear and embedding with sparse deltas as custom operators, which torch.compile does not look into.

In operations that the compiler could follow, each weight would need a dense delta and a dense gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapter.base_parameter import TunedParameter, active_views
from ..adapter.handles import named
from ..adapter.state import AdapterState
from .functional import (
    Deltas,
    as_rows,
    autocast_dtype,
    input_gradient,
    lookup_gradients,
    product,
    product_gradients,
    swapped_in,
    without_autocast,
)

TAGS = (torch.Tag.cudagraph_unsafe,)  # a recorded CUDA graph would keep the positions of the mask at that time


def compiled_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, parameter: TunedParameter, deltas: Deltas, transposed: bool
) -> Tensor:
    """[`functional.SparseDeltaLinear`], for a graph that is being compiled."""
    dtype = autocast_dtype(x, weight)
    handles = [delta.handle for delta in deltas]
    out: Tensor = linear(x.to(dtype), weight.detach(), active_views(deltas), parameter.handle, handles, transposed)
    return out if bias is None else out + bias.to(dtype)


def compiled_embedding(
    ids: Tensor, weight: Tensor, padding_idx: int | None, parameter: TunedParameter, deltas: Deltas
) -> Tensor:
    """[`functional.SparseDeltaEmbedding`], for a graph that is being compiled."""
    handles = [delta.handle for delta in deltas]
    out: Tensor = embedding(ids, weight.detach(), active_views(deltas), parameter.handle, handles, padding_idx)
    return out


@contextmanager
def split_once(states: Iterable[AdapterState]) -> Iterator[None]:
    """Within, all layers share one split of each trainable vector, so its gradient is concatenated once."""
    states = list(states)
    for state in states:
        state.traced = state.views()
    try:
        yield
    finally:
        for state in states:
            state.traced = None


def deltas_of(handles: Sequence[int]) -> Deltas:
    return [named(handle) for handle in handles]


@torch.library.custom_op("peft_fishdip::linear", mutates_args=(), tags=TAGS)
def linear(
    x: Tensor, weight: Tensor, views: Sequence[Tensor], parameter: int, deltas: Sequence[int], transposed: bool
) -> Tensor:
    with without_autocast(x), swapped_in(named(parameter), weight, deltas_of(deltas), views):
        return product(x, weight.to(x.dtype), None, transposed)


@linear.register_fake
def _(x: Tensor, weight: Tensor, views: Any, parameter: int, deltas: Any, transposed: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[1 if transposed else 0])


@torch.library.custom_op("peft_fishdip::linear_backward", mutates_args=(), tags=TAGS)
def linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    views: Sequence[Tensor],
    parameter: int,
    deltas: Sequence[int],
    transposed: bool,
    wants_x: bool,
) -> list[Tensor]:
    parts, rows = deltas_of(deltas), as_rows(grad)
    with without_autocast(grad):
        grad_x = x.new_empty(0)
        if wants_x:
            with swapped_in(named(parameter), weight, parts, views):
                grad_x = input_gradient(rows, weight.to(x.dtype), transposed).to(x.dtype).view(x.shape)
        gradients = product_gradients(rows, x, parts, views, [True] * len(views), transposed)
    return [grad_x, *(gradient for gradient in gradients if gradient is not None)]


@linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, views: Sequence[Tensor], *own: Any) -> list[Tensor]:
    return [torch.empty_like(x) if own[-1] else x.new_empty(0), *map(torch.empty_like, views)]


def keep_of_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, views, *ctx.own = inputs
    ctx.save_for_backward(x, weight, *views)


def gradients_of_linear(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, *views = ctx.saved_tensors
    wants_x = ctx.needs_input_grad[0]
    grad_x, *grads = linear_backward(grad, x, weight, views, *ctx.own, wants_x)
    return grad_x if wants_x else None, None, grads, None, None, None


linear.register_autograd(gradients_of_linear, setup_context=keep_of_linear)


@torch.library.custom_op("peft_fishdip::embedding", mutates_args=(), tags=TAGS)
def embedding(
    ids: Tensor, weight: Tensor, views: Sequence[Tensor], parameter: int, deltas: Sequence[int], padding_idx: int | None
) -> Tensor:
    with swapped_in(named(parameter), weight, deltas_of(deltas), views):
        return F.embedding(ids, weight)


@embedding.register_fake
def _(ids: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(*ids.shape, weight.shape[1])


@torch.library.custom_op("peft_fishdip::embedding_backward", mutates_args=(), tags=TAGS)
def embedding_backward(
    grad: Tensor, ids: Tensor, views: Sequence[Tensor], deltas: Sequence[int], padding_idx: int | None
) -> list[Tensor]:
    gradients = lookup_gradients(grad, ids, padding_idx, deltas_of(deltas), views, [True] * len(views))
    return [gradient for gradient in gradients if gradient is not None]


@embedding_backward.register_fake
def _(grad: Tensor, ids: Tensor, views: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [*map(torch.empty_like, views)]


def keep_of_embedding(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, _, views, _, ctx.deltas, ctx.padding_idx = inputs
    ctx.save_for_backward(ids, *views)


def gradients_of_embedding(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    ids, *views = ctx.saved_tensors
    return None, None, embedding_backward(grad, ids, views, ctx.deltas, ctx.padding_idx), None, None, None


embedding.register_autograd(gradients_of_embedding, setup_context=keep_of_embedding)
