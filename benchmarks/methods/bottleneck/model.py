"""The tuners: which modules of a T5 get adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerFF, T5LayerSelfAttention

from .config import BottleneckConfig
from .layer import BottleneckLayer, CompacterLayer, HoulsbyLayer, refuse_merge

SUBLAYERS = {"self_attention": T5LayerSelfAttention, "feed_forward": T5LayerFF}


class BottleneckModel(BaseTuner):
    """Puts adapters behind the sublayers that `config.sites` names.

    Several active adapters add up. None can be merged.
    """

    tuner_layer_cls: type[BottleneckLayer]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT's own declaration)

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config  # there are no target modules to look up

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """PEFT calls this before it changes anything.

        Raises:
            ValueError: the model has no such sublayers.
        """
        if not any(is_adapted(module, peft_config) for module in model.modules()):
            raise ValueError(
                f"sites={peft_config.sites!r}: {type(model).__name__} has no such sublayers of a T5; take a T5 of "
                "transformers, such as T5ForConditionalGeneration."
            )

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        parent, _, name = key.rpartition(".")
        return name == "dropout" and is_adapted(self.model.get_submodule(parent), peft_config)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: Any,
        current_key: str,
    ) -> None:
        layer: Any = target if isinstance(target, self.tuner_layer_cls) else self.tuner_layer_cls(target)
        norm = parent.layer_norm.weight
        layer.update_layer(
            adapter_name,
            peft_config,
            norm.shape[0],
            device=norm.device,
            dtype=norm.dtype,
            **self._shared(layer, adapter_name),
        )
        self._replace_module(parent, target_name, layer, target)

    def _shared(self, layer: BottleneckLayer, adapter_name: str) -> dict[str, Any]:
        """What `layer` needs to know of the other layers."""
        return {}

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own wants a weight to take the device from

    def _check_merge_allowed(self) -> None:
        refuse_merge()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names: bottleneck adapters cannot differ within one batch; call the model once for each, with "
                "set_adapter."
            )
        yield


class HoulsbyModel(BottleneckModel):
    """The adapter of Houlsby et al. (ICML 2019) in T5."""

    prefix: str = "houlsby_"
    tuner_layer_cls = HoulsbyLayer


class CompacterModel(BottleneckModel):
    """Compacter (Karimi Mahabadi et al., NeurIPS 2021) in T5."""

    prefix: str = "compacter_"
    tuner_layer_cls = CompacterLayer

    def _shared(self, layer: BottleneckLayer, adapter_name: str) -> dict[str, Any]:
        owners = (
            module
            for module in self.model.modules()
            if isinstance(module, CompacterLayer) and adapter_name in module.compacter_rule
        )
        return {"rule_owner": next(owners, layer)}


def is_adapted(module: nn.Module, config: BottleneckConfig) -> bool:
    return isinstance(module, tuple(SUBLAYERS[site] for site in config.sites))
