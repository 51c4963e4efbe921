"""Attention over a trainable prefix and the words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.t5.modeling_t5 import eager_attention_forward

from .config import FullPrefixConfig

ATTENTION = "full_prefix"
"""The name under which `attend` is registered with transformers."""

DIRECT_STD = 0.02


class DirectPrefix(nn.Module):
    """Keys and values as they are: (tokens, 2 * inner size), float32."""

    def __init__(self, keys_values: Tensor) -> None:
        super().__init__()
        self.keys_values = nn.Parameter(keys_values)

    def forward(self) -> Tensor:
        return self.keys_values


class Trunk(nn.Module):
    """What the layers of a site share of their MLP: the positions' embedding, the first product, tanh."""

    def __init__(self, tokens: int, d_model: int, bottleneck: int, device: torch.device) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(tokens, d_model, device=device))
        self.weight = nn.Parameter(uniform((bottleneck, d_model), d_model, device))
        self.bias = nn.Parameter(uniform((bottleneck,), d_model, device))

    def forward(self) -> Tensor:
        """Shape (tokens, bottleneck)."""
        return linear(self.embedding, self.weight, self.bias).tanh()


class ReparametrisedPrefix(nn.Module):
    """Keys and values of one layer from its site's trunk: (tokens, 2 * inner size), float32."""

    def __init__(self, trunk: Trunk, width: int, device: torch.device) -> None:
        super().__init__()
        bottleneck = trunk.weight.shape[0]
        self.weight = nn.Parameter(uniform((width, bottleneck), bottleneck, device))
        self.bias = nn.Parameter(uniform((width,), bottleneck, device))
        self.trunk = (trunk,)  # in a tuple it is no submodule: the first layer of the site owns and saves it

    def forward(self) -> Tensor:
        return linear(self.trunk[0](), self.weight, self.bias)


class PrefixAttention(nn.Module, BaseTunerLayer):
    """Wraps a T5 attention module and puts the prefixes of the active adapters before its keys.

    The wrapped class's own forward runs with this module as `self` and finds everything but the `config` in the
    wrapped one. So `attend` comes in where transformers chooses the attention function: after the key-value cache,
    which therefore never holds a prefix, and after the position bias, whose shape stays that of the words.

    Attributes:
        base_layer: the wrapped module, unchanged.
        site: its key in SITES.
        full_prefix_tokens: by adapter, what makes the keys and values.
        full_prefix_trunk: by adapter, the shared part of their MLPs; only in the first layer of a site.
    """

    adapter_layer_names = ("full_prefix_tokens", "full_prefix_trunk")
    config = SimpleNamespace(_attn_implementation=ATTENTION)

    def __init__(self, base_layer: nn.Module, site: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.site = site
        self.full_prefix_tokens = nn.ModuleDict()
        self.full_prefix_trunk = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.train(base_layer.training)

    def __getattr__(self, name: str) -> Any:
        """What this module lacks is the wrapped one's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)

    def update_layer(self, adapter_name: str, config: FullPrefixConfig, trunk: Trunk | None) -> None:
        """Add an adapter; `trunk` is that of its site, None if this layer is the first."""
        device = self.q.weight.device
        width = 2 * self.inner_dim
        prefix: nn.Module
        if config.bottleneck_size is None:
            prefix = DirectPrefix(DIRECT_STD * torch.randn(config.num_virtual_tokens, width, device=device))
        else:
            if trunk is None:
                trunk = Trunk(config.num_virtual_tokens, self.d_model, config.bottleneck_size, device)
                self.full_prefix_trunk[adapter_name] = trunk
            prefix = ReparametrisedPrefix(trunk, width, device)
        self.full_prefix_tokens[adapter_name] = prefix

    def keys_and_values(self) -> Tensor:
        """Of all active adapters, one after the other: (2, heads, tokens, head size)."""
        active = [name for name in self.active_adapters if name in self.full_prefix_tokens]
        tokens = torch.cat([self.full_prefix_tokens[name]() for name in active])
        return tokens.view(len(tokens), 2, self.n_heads, self.key_value_proj_dim).permute(1, 2, 0, 3)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.disable_adapters or not any(name in self.full_prefix_tokens for name in self.active_adapters):
            return self.base_layer(*args, **kwargs)
        return type(self.base_layer).forward(self, *args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: no weight of the base could hold a prefix."""
        raise ValueError(
            "a prefix cannot be merged: it adds keys and values to the attention, which no base weight holds. Keep the "
            "adapter, or take it out with unload()."
        )

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def __repr__(self) -> str:
        return "full_prefix." + super().__repr__()


def attend(
    module: PrefixAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: the one that the wrapped module would use, over prefix and words.

    Args:
        module: has the prefix.
        query, key, value: (batch, heads, positions, head size) of the words; their dtype is given to the prefix.
        attention_mask: (batch, 1, 1 or queries, keys), bool or added to the scores; it says nothing of the prefix.
        position_bias: (1 or batch, heads, queries, keys), of the words alone.

    Raises:
        ValueError: an implementation other than "eager" and "sdpa", whose mask has another form.
    """
    base: Any = module.base_layer
    implementation = base.config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"attn_implementation={implementation!r} cannot have a prefix; load the model with 'sdpa' or 'eager'."
        )
    prefix = module.keys_and_values().to(key.dtype)
    keys, values = prefix.unsqueeze(1).expand(-1, len(key), -1, -1, -1)
    causal = base.is_causal if is_causal is None else is_causal
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)(
        base,
        query,
        torch.cat([keys, key], dim=2),
        torch.cat([values, value], dim=2),
        None,
        position_bias=pad(masked_bias(position_bias, attention_mask, causal), (keys.shape[2], 0)),
        is_causal=False,
        **options,
    )


def masked_bias(bias: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Mask and position bias as one tensor to add to the scores, (1 or batch, heads, queries, keys).

    Without a mask, a causal attention of several queries lets each see the keys up to its own position.
    """
    queries, keys = bias.shape[2:]
    if mask is None:
        if not causal or queries == 1:
            return bias
        mask = torch.ones(queries, keys, dtype=torch.bool, device=bias.device).tril()
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def uniform(shape: tuple[int, ...], fan_in: int, device: torch.device) -> Tensor:
    """Initial values as torch.nn.Linear has them."""
    return torch.empty(shape, device=device).uniform_(-(fan_in**-0.5), fan_in**-0.5)


AttentionInterface.register(ATTENTION, attend)
