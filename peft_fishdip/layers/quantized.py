"""Linear layers whose weight is quantized."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn

from ..adapter.base_parameter import active_views, write
from ..quantization import unknown_torchao_config
from .functional import added_product
from .layer import FishDipLayer


class FishDipQuantizedLinear(FishDipLayer):
    """A linear layer with a quantized weight: `base_layer(x) + x @ delta.T`.

    The base layer computes as without an adapter, quantized activations included, so an adapter of zeros changes
    nothing. Effective values cannot be swapped into quantized storage: merging quantizes the sum anew, which rounds
    it, as for LoRA. The base weight is kept while it is merged, and restored bitwise.
    """

    kept_out_of_merging = frozenset({"weight"})
    has_own_reads = False

    def __init__(self, base_layer: nn.Module, backend: QuantizationBackend) -> None:
        super().__init__(base_layer)
        self.quantization_backend = backend
        self._before_merge: tuple[Tensor, dict[str, Any], Any] | None = None

    def base_values(self, name: str) -> Tensor:
        """See FishDipLayer; the values of the quantized weight are a new tensor."""
        return self.get_base_weight().detach() if name == "weight" else super().base_values(name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = super().forward(x, *args, **kwargs)
        deltas = self.deltas("weight")
        if not deltas or self.disable_adapters or self.tuned["weight"].merged_adapters:
            return out
        self.base_parameter("weight")  # not in a replica
        return out + added_product(x, self.tuned["weight"], deltas).to(out.dtype)

    def refuse_merge(self) -> None:
        if getattr(self.quantization_backend, "get_apply_tensor_subclass", None) is unknown_torchao_config:
            unknown_torchao_config()

    def merge_parameter(self, name: str, adapters: Sequence[str]) -> None:
        if name != "weight":
            super().merge_parameter(name, adapters)
            return
        parameter = self.tuned[name]
        with parameter.lock, torch.no_grad():
            merged = list(dict.fromkeys([*parameter.merged_adapters, *adapters]))
            self.unmerge_parameter(name)
            deltas = parameter.of(merged)
            if deltas:
                values = self.base_values(name)
                positions, _, effective = parameter.entries(values, deltas, active_views(deltas))
                write(values, positions, effective)
                self._keep_base()
                try:
                    self.set_base_weight(values)
                except BaseException:
                    self._restore_base()
                    raise
            parameter.merged_adapters = [name for name in merged if name in parameter.deltas]

    def unmerge_parameter(self, name: str) -> None:
        if name != "weight":
            super().unmerge_parameter(name)
            return
        with self.tuned[name].lock:
            if self._before_merge is not None:
                self._restore_base()
            self.tuned[name].merged_adapters = []

    def _keep_base(self) -> None:
        """Keep the quantized weight and the attributes that bitsandbytes sets on it, which PEFT's backends change."""
        weight = self.base_parameter("weight")
        self._before_merge = (weight, dict(weight.__dict__), copy.copy(getattr(self.base_layer, "state", None)))

    def _restore_base(self) -> None:
        assert self._before_merge is not None
        weight, attributes, state = self._before_merge
        weight.__dict__.update(attributes)
        self.base_layer.__dict__.pop("weight", None)  # a backend that failed may have left merged values here
        self.base_layer.register_parameter("weight", weight)  # type: ignore[arg-type]
        if state is not None:
            self.base_layer.state = state
        self._before_merge = None
