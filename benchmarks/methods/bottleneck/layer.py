"""Modules that add a bottleneck adapter to the output of a sublayer."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from .config import CompacterConfig, HoulsbyConfig


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """Wraps the dropout at the end of a sublayer: from s to s + Σ A(s) over the active adapters.

    The sublayer adds that to its input x, so that y = x + A(s) + s with s = dropout(sublayer(LN(x))).
    """

    other_param_names: tuple[str, ...] = ("non_linearities",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.non_linearities: dict[str, nn.Module] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []

    @abstractmethod
    def adapter_output(self, adapter_name: str, s: Tensor) -> Tensor:
        """A(s), of the shape of `s`, (..., d_model)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """From (..., d_model) to the same shape and dtype."""
        s = self.base_layer(hidden_states)
        if self.disable_adapters:
            return s
        adapted = s
        for name in self.active_adapters:
            if name in self.non_linearities:
                adapted = adapted + self.adapter_output(name, s).to(s.dtype)
        return adapted

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> NoReturn:
        """Raises ValueError: the adapter is no linear map."""
        refuse_merge()

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class HoulsbyLayer(BottleneckLayer):
    """A(s) = W_up f(W_down s + b_down) + b_up, the bottleneck of Houlsby et al. (ICML 2019, Fig. 2)."""

    adapter_layer_names = ("houlsby_down", "houlsby_up")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.houlsby_down = nn.ModuleDict()
        self.houlsby_up = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: HoulsbyConfig, width: int, **factory: Any) -> None:
        """Make an adapter for s of that width; `factory` has the device and dtype of its parameters.

        Raises:
            ValueError: the config's numbers don't divide the width. Nothing has changed then.
        """
        narrow = config.bottleneck(width)
        self.non_linearities[adapter_name] = ACT2FN[config.non_linearity]
        for projections, sizes in ((self.houlsby_down, (width, narrow)), (self.houlsby_up, (narrow, width))):
            projection = nn.Linear(*sizes, **factory)
            nn.init.normal_(projection.weight, std=config.init_range)
            nn.init.zeros_(projection.bias)
            projections[adapter_name] = projection

    def adapter_output(self, adapter_name: str, s: Tensor) -> Tensor:
        down, up = self.houlsby_down[adapter_name], self.houlsby_up[adapter_name]
        dtype = next(down.parameters()).dtype
        return up(self.non_linearities[adapter_name](down(s.to(dtype))))


class CompacterLayer(BottleneckLayer):
    """The same with hypercomplex weights (Karimi Mahabadi et al., NeurIPS 2021).

    An adapter's A, shape (n, n, n), is a parameter of one of its layers, which the others know as its owner.

    So it is saved, counted and given to an optimizer once, and stays shared whatever takes the parameter's place.
    """

    adapter_layer_names = ("compacter_down", "compacter_up", "compacter_rule")
    other_param_names = ("non_linearities", "rule_owners")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.compacter_down = nn.ModuleDict()
        self.compacter_up = nn.ModuleDict()
        self.compacter_rule = nn.ParameterDict()
        self.rule_owners: dict[str, CompacterLayer] = {}

    def update_layer(
        self, adapter_name: str, config: CompacterConfig, width: int, *, rule_owner: CompacterLayer, **factory: Any
    ) -> None:
        """As in HoulsbyLayer; the owner makes A."""
        narrow = config.bottleneck(width)
        self.non_linearities[adapter_name] = ACT2FN[config.non_linearity]
        self.compacter_down[adapter_name] = PHMLinear(width, narrow, config.phm_dim, config.phm_rank, **factory)
        self.compacter_up[adapter_name] = PHMLinear(narrow, width, config.phm_dim, config.phm_rank, **factory)
        self.rule_owners[adapter_name] = rule_owner
        if rule_owner is self:
            rule = torch.empty(config.phm_dim, config.phm_dim, config.phm_dim, **factory)
            self.compacter_rule[adapter_name] = nn.Parameter(nn.init.normal_(rule, std=config.phm_init_range))

    def rule(self, adapter_name: str) -> Tensor:
        return self.rule_owners[adapter_name].compacter_rule[adapter_name]

    def adapter_output(self, adapter_name: str, s: Tensor) -> Tensor:
        rule = self.rule(adapter_name)
        narrow = self.compacter_down[adapter_name](s.to(rule.dtype), rule)
        return self.compacter_up[adapter_name](self.non_linearities[adapter_name](narrow), rule)


class PHMLinear(nn.Module):
    """x W + b with W = Σ_i A_i ⊗ (L_i R_i), a parameterized hypercomplex multiplication of low rank.

    Attributes:
        left: L, shape (n, in / n, rank).
        right: R, shape (n, rank, out / n).
        bias: b, shape (out).
    """

    def __init__(self, in_features: int, out_features: int, phm_dim: int, rank: int, **factory: Any) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(phm_dim, in_features // phm_dim, rank, **factory))
        self.right = nn.Parameter(torch.empty(phm_dim, rank, out_features // phm_dim, **factory))
        self.bias = nn.Parameter(torch.zeros(out_features, **factory))
        for matrix in (*self.left.data, *self.right.data):
            nn.init.xavier_uniform_(matrix, gain=math.sqrt(2))

    def weight(self, rule: Tensor) -> Tensor:
        """W, shape (in, out), for `rule` = A, shape (n, n, n)."""
        blocks = torch.einsum("iab,icd->acbd", rule, self.left @ self.right)
        return blocks.flatten(2).flatten(0, 1)

    def forward(self, x: Tensor, rule: Tensor) -> Tensor:
        """From (..., in) to (..., out)."""
        return linear(x, self.weight(rule).T, self.bias)


def refuse_merge() -> NoReturn:
    raise ValueError(
        "a bottleneck adapter cannot be merged into the base weights: it has a non-linearity of its own. Keep it as "
        "it is, or call unload() for the base model without it."
    )
