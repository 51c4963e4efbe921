"""The tuner: puts prefixes into the attentions of T5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention

from .config import SITES, FullPrefixConfig
from .layer import DirectPrefix, PrefixAttention, Trunk


class FullPrefixModel(BaseTuner):
    """Prefix tuning (Li & Liang, ACL 2021) at every attention of a T5 or mT5.

    Reached as `model.base_model` of what `get_peft_model(model, FullPrefixConfig(...))` returns.
    """

    prefix: str = "full_prefix_"
    tuner_layer_cls = PrefixAttention
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT's own declaration)

    @torch.no_grad()
    def drop_reparametrisation(self, adapter_name: str = "default") -> None:
        """Replace the MLPs of an adapter by the prefixes that they make, as the paper does after training.

        The model computes the same; the adapter becomes as small as one with `bottleneck_size=None`.

        Raises:
            ValueError: there is no such adapter.
        """
        if adapter_name not in self.peft_config:
            raise ValueError(f"there is no adapter {adapter_name!r}; there are {', '.join(self.peft_config)}.")
        layers = [layer for layer in prefix_layers(self.model) if adapter_name in layer.full_prefix_tokens]
        for layer in layers:
            prefix = layer.full_prefix_tokens[adapter_name]
            trains = next(prefix.parameters()).requires_grad
            layer.full_prefix_tokens[adapter_name] = DirectPrefix(prefix().clone()).requires_grad_(trains)
        for layer in layers:
            if adapter_name in layer.full_prefix_trunk:
                del layer.full_prefix_trunk[adapter_name]
        config: Any = self.peft_config[adapter_name]
        config.bottleneck_size = None

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Raises ValueError: the model has no T5 attention at one of the sites."""
        for site in peft_config.sites:
            if not any(
                re.fullmatch(SITES[site], name) and isinstance(module, (T5Attention, MT5Attention, PrefixAttention))
                for name, module in model.named_modules()
            ):
                raise ValueError(
                    f"sites={peft_config.sites!r}: {type(model).__name__} has no attention at {site!r}; use a T5 or "
                    "mT5 model, and name only sites that it has."
                )

    def _create_and_replace(
        self,
        peft_config: FullPrefixConfig,  # type: ignore[override]
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        site = next(site for site, pattern in SITES.items() if re.fullmatch(pattern, current_key))
        trunk = trunk_of(self.model, adapter_name, site)
        layer = target if isinstance(target, PrefixAttention) else PrefixAttention(target, site)
        layer.update_layer(adapter_name, peft_config, trunk)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """PEFT's own looks for a `weight`, which attentions lack."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        for layer in prefix_layers(self.model):
            layer.merge()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names: one batch cannot use several prefixes; call the model once for each, with set_adapter."
            )
        yield


def prefix_layers(model: nn.Module) -> Iterator[PrefixAttention]:
    return (module for module in model.modules() if isinstance(module, PrefixAttention))


def trunk_of(model: nn.Module, adapter_name: str, site: str) -> Trunk | None:
    """The part of the MLP that all layers of a site share, once the first of them has made it."""
    for layer in prefix_layers(model):
        if layer.site == site and adapter_name in layer.full_prefix_trunk:
            return layer.full_prefix_trunk[adapter_name]  # type: ignore[return-value]
    return None
