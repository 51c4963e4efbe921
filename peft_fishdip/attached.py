"""The tuner of a model, however its adapters came in."""

from __future__ import annotations

from typing import Any

from torch import nn

from .layer import FishDipLayer
from .model import FishDipModel


def tuner_of(model: nn.Module) -> FishDipModel:
    """The tuner, with `update_mask`, `mask`, `delta` and so on, of any model that has Fish-Dip adapters.

    Of a PeftModel it is `model.base_model`. transformers' `model.add_adapter(FishDipConfig(...))` and
    `model.load_adapter(...)`, like PEFT's `inject_adapter_in_model`, keep none; for these it is made anew.

    Raises:
        ValueError: there is no such adapter in the model.
    """
    for module in model.modules():
        if isinstance(module, FishDipModel):
            return module
    for module in [model, *model.modules()]:
        configs = module.__dict__.get("peft_config")
        if isinstance(configs, dict) and any(isinstance(layer, FishDipLayer) for layer in module.modules()):
            return AttachedTuner(module)
    raise ValueError(
        f"there is no Fish-Dip adapter in {type(model).__name__}; add one with get_peft_model(model, "
        "FishDipConfig(...)), or with transformers' model.add_adapter(FishDipConfig(...))."
    )


class AttachedTuner(FishDipModel):
    """A tuner over a model that has its adapters already. It holds nothing of its own: the model and its layers do."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.targeted_module_names = [
            name for name, module in model.named_modules() if isinstance(module, FishDipLayer)
        ]
        self.targeted_parameter_names = []

    @property
    def active_adapter(self) -> Any:
        """As the layers have it, which transformers' `set_adapter` tells alone."""
        return next(self._layers()).active_adapter

    @active_adapter.setter
    def active_adapter(self, value: Any) -> None:
        """BaseTuner notes here what it has told the layers."""
