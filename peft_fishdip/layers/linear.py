"""Layers of nn.Linear, transformers' Conv1D and nn.Embedding, which compute with weights that are swapped in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..adapter.base_parameter import active_views
from ..adapter.recording import is_recorded
from ..private import own_parameter
from ..stand_in import calls_only_itself, standing_in
from .compiled import compiled_embedding, compiled_linear
from .functional import SparseDeltaEmbedding, SparseDeltaLinear
from .layer import FishDipLayer
from .recompute import source_of


class FishDipLinear(FishDipLayer):
    """A layer of nn.Linear or transformers' Conv1D."""

    @property
    def has_own_reads(self) -> bool:  # type: ignore[override]
        return not isinstance(self.base_layer, Conv1D)

    def tuned_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        deltas, base = self.deltas("weight"), self.base_layer
        usual = is_plain(base, (nn.Linear, Conv1D)) and not is_recorded()
        if not deltas or args or kwargs or self.wants_whole_gradients or not usual:
            return super().tuned_forward(x, *args, **kwargs)
        weight, bias, parameter = self.base_parameter("weight"), self.effective("bias"), self.tuned["weight"]
        transposed = isinstance(base, Conv1D)
        if torch.compiler.is_compiling():
            return compiled_linear(x, weight, bias, parameter, deltas, transposed)
        views = active_views(deltas)
        return SparseDeltaLinear.apply(x, weight.data, bias, parameter, deltas, transposed, source_of(x), *views)


class FishDipEmbedding(FishDipLayer):
    """A layer of nn.Embedding."""

    def tuned_forward(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        deltas = self.deltas("weight")
        base: Any = self.base_layer
        if not deltas or args or kwargs or self.wants_whole_gradients or is_recorded():
            return super().tuned_forward(ids, *args, **kwargs)
        compiling = torch.compiler.is_compiling()
        if not is_plain(base, (nn.Embedding,)) or base.scale_grad_by_freq:
            if compiling or self.tuned.keys() != {"weight"} or not isinstance(base, nn.Embedding):
                return super().tuned_forward(ids)
            # as in Gemma, whose embedding scales its rows: its own code looks them up, without a copy of the table
            with self.locked(), standing_in(base, "weight", self.current("weight")):
                return base(ids)
        weight, parameter = self.base_parameter("weight"), self.tuned["weight"]
        if compiling:
            return compiled_embedding(ids, weight, base.padding_idx, parameter, deltas)
        views = active_views(deltas)
        return SparseDeltaEmbedding.apply(ids, weight.data, base.padding_idx, parameter, deltas, *views)


def is_plain(module: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether calling `module` is only the product of its input and its weight."""
    weight = own_parameter(module, "weight")
    return (
        weight is not None  # it may be computed, as by weight norm
        and calls_only_itself(module)
        and any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)
        and weight.is_contiguous()
    )
