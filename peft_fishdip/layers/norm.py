"""Layer and RMS norms that keep only their input for backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.base_parameter import active_views
from ..adapter.recording import is_recorded
from ..stand_in import calls_only_itself, standing_in
from .functional import Deltas, view_gradient
from .layer import FishDipLayer
from .once import differentiable_once
from .recompute import Recompute, remember


class FishDipNorm(FishDipLayer):
    """A layer of torch's LayerNorm or RMSNorm, or of an RMS norm of transformers."""

    has_own_reads = False

    def tuned_forward(self, *args: Any, **kwargs: Any) -> Any:
        needs_graph = torch.is_grad_enabled() and not torch.compiler.is_compiling() and not is_recorded()
        usual = needs_graph and not kwargs and len(args) == 1 and calls_only_itself(self.base_layer)
        if not usual or self.wants_whole_gradients:
            return super().tuned_forward(*args, **kwargs)
        (x,) = args
        deltas = {name: self.deltas(name) for name in self.tuned}
        views = {name: active_views(of_name) for name, of_name in deltas.items()}
        parameters = {}
        for name, parameter in self.tuned.items():
            base = self.base_values(name)
            parameters[name] = parameter.effective(base, deltas[name], views[name]) if deltas[name] else base
        recompute = Recompute(self.normed, parameters, x)
        output: Tensor = RecomputedNorm.apply(x, recompute, deltas, *(view for part in views.values() for view in part))
        if output.requires_grad:
            remember(output, x, recompute)
        return output

    def normed(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """The wrapped module's output with the given tensors in place of its parameters."""
        with self.locked(), ExitStack() as stack:
            for name, tensor in parameters.items():
                stack.enter_context(standing_in(self.base_layer, name, tensor))
            return self.base_layer(x)


class RecomputedNorm(torch.autograd.Function):
    """A norm whose backward pass computes the output again, under autograd, to differentiate it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recompute: Recompute, deltas: Mapping[str, Deltas], *views: Tensor) -> Tensor:
        ctx.save_for_backward(x, *views)
        ctx.recompute, ctx.deltas = recompute, deltas
        recompute.wants_input = ctx.needs_input_grad[0]
        if any(ctx.needs_input_grad[3:]):
            recompute.trained = [name for name, of_name in deltas.items() if of_name]
        recompute.users += any(ctx.needs_input_grad)
        return recompute(x)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, *views = ctx.saved_tensors
        leaf, parameters, output = ctx.recompute.last(x)
        wanted = [tensor for tensor in (leaf, *parameters.values()) if tensor.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(output, wanted, grad_output), strict=True))
        flat: Sequence[tuple[str, Any]] = [(name, delta) for name, of_name in ctx.deltas.items() for delta in of_name]
        grads = [
            view_gradient(delta, found[id(parameters[name])].reshape(-1).index_select(0, delta.active), view)
            if needed
            else None
            for (name, delta), view, needed in zip(flat, views, ctx.needs_input_grad[3:], strict=True)
        ]
        return found.get(id(leaf)), None, None, *grads


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm over the last axis, with vectors as its only parameters, no children or buffers."""
    known = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    plain = all(parameter.dim() == 1 for parameter in module.parameters(recurse=False))
    return known and plain and not list(module.children()) and not list(module.buffers())
