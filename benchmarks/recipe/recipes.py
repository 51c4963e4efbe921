"""The recipes that are compared: a method with its optimizer and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model

from peft_fishdip import FishDipConfig
from peft_fishdip.config import DeltaScale

from ..optimizers import make_optimizer
from ..settings import TrainingParams


@dataclass(frozen=True)
class Recipe:
    """A way to train. `delta_scale` is that of Fish-Dip; `classifier_rate` differs from `rate` if it is given.

    `template` is one of TEMPLATES for the prompts of a decoder, and empty for that of the tasks.
    """

    method: str
    optimizer: str
    rate: float
    delta_scale: str = ""
    classifier_rate: float | None = None
    template: str = ""

    @property
    def name(self) -> str:
        """Also the name of its files."""
        scale = self.delta_scale and f"-{self.delta_scale}"
        own = "" if self.classifier_rate is None else f"-classifier-{self.classifier_rate:g}"
        prompt = self.template and f"-{self.template}"
        return f"{self.method}{scale}-{self.optimizer}-{self.rate:g}{own}{prompt}"

    def adapted(self, model: Any, task_type: str, seed: int) -> Any:
        """The model with its adapter; for full fine-tuning the model itself."""
        if self.method == "full":
            return model
        if self.method == "lora":
            new = ["classifier"] if task_type == "TOKEN_CLS" else None
            config = LoraConfig(task_type=task_type, r=8, target_modules="all-linear", exclude_modules=new)
            return get_peft_model(model, config)
        scale = cast(DeltaScale, self.delta_scale)
        return get_peft_model(model, FishDipConfig(task_type=task_type, delta_scale=scale, seed=seed))

    def make_optimizer(self, model: Any, params: TrainingParams) -> torch.optim.Optimizer:
        """The optimizer of `params`, with the classifier in a group of its own if it has its own rate."""
        if self.classifier_rate is None:
            return make_optimizer(model, params)
        groups: Any = [{"params": []}, {"params": [], "lr": self.classifier_rate}]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups["fishdip_values" not in name]["params"].append(parameter)
        return torch.optim.AdamW(groups, lr=params.learning_rate, weight_decay=params.weight_decay)


def adamw(delta_scale: str, *rates: float, classifier_rate: float | None = None) -> tuple[Recipe, ...]:
    return tuple(Recipe("fishdip", "adamw", rate, delta_scale, classifier_rate) for rate in rates)


DEFAULT = Recipe("fishdip", "adamw", 1e-3, "auto")
ADAFACTOR = tuple(Recipe("fishdip", "sparse_adafactor", rate, "rms") for rate in (1e-2, 3e-2, 1e-1))
TEMPLATES = {
    "blank-line": "{source}\n\n",
    "arrow": "{source} => ",
    "words": "Text: {source}\nEntities marked: ",
}
"""Prompts to compare with that of the tasks, the source and a line end."""
RECIPES = {
    "tagger": (
        *adamw("auto", 3e-4, 1e-3, 2e-3, 4e-3),
        *ADAFACTOR,
        *adamw("none", 1e-3, 3e-3, 1e-2),
        *adamw("rms", 4e-3, 8e-3, 1.6e-2, 2e-2, 5e-2, 1e-1, classifier_rate=1e-3),
        *(Recipe("lora", "adamw", rate) for rate in (1e-3, 2e-3)),
        *(Recipe("full", "adamw", rate) for rate in (1e-4, 3e-4)),
    ),
    "writer": (
        *adamw("auto", 3e-4, 1e-3, 2e-3),
        *ADAFACTOR,
        *adamw("none", 1e-2),
        *(Recipe("lora", "adamw", rate) for rate in (1e-3, 3e-3, 1e-2)),
        *(Recipe("full", "adamw", rate) for rate in (1e-3,)),
    ),
    "decoder": (
        *(Recipe("lora", "adamw", 1e-3, template=template) for template in ("", *TEMPLATES)),
        Recipe("full", "adamw", 5e-5),
        *adamw("auto", 3e-4, 1e-3),
    ),
}
"""Those of each kind of model."""
