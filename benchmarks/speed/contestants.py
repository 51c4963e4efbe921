"""The contestants: one model each, on shared weights or its own, and one training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, ShiraConfig, SupertuningConfig, get_peft_model
from torch import Tensor, nn

from peft_fishdip import FishDipConfig

from .data import Example, make_batch
from .geometry import make_base, num_parameters
from .patterns import as_scores, make_positions
from .real import RealMasks
from .settings import Settings
from .spec import Spec

RATE = 1e-5
"""Learning rate of all contestants; it changes no cost."""


@dataclass
class Contestant:
    """A model, and all that one step of its training takes."""

    spec: Spec
    model: Any
    batch: Example
    optimizer: torch.optim.Optimizer | None
    masks: Mapping[nn.Parameter, Tensor] | None = None
    """What dense gradients are multiplied by."""
    autocast: bool = False

    def forward(self) -> Tensor:
        device = self.batch["input_ids"].device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            loss: Tensor = self.model(**self.batch).loss
        return loss

    def step(self) -> None:
        self.forward().backward()
        if self.masks is not None:
            for parameter, mask in self.masks.items():
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    @property
    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


class Workbench:
    """One base model, and contestants that are made on it.

    Each contestant has modules and parameters of its own, but their storage is that of the base, so that many can
    live at once. Those that train base weights change them for all, by 1e-5 per step, which changes no cost.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = settings.torch_device
        self.base: Any = make_base(settings)
        self.size = num_parameters(self.base)
        self.shapes = {name: parameter.shape for name, parameter in self.base.named_parameters()}
        self.real = RealMasks(self.shared, settings)

    def shared(self) -> Any:
        """A model with the base's weights, in eval mode, that requires gradients nowhere."""
        memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in self.base.parameters()}
        return copy.deepcopy(self.base, memo).eval()

    def batch(self, size: int | None = None) -> Example:
        own = self.settings
        return make_batch(size or own.batch, own.source, own.target, self.base.config.vocab_size, own.seed, self.device)

    def make(self, spec: Spec, batch: Example | None = None) -> Contestant:
        """A contestant that is ready for its first step, in training mode."""
        model, masks = MAKERS[spec.method](self, spec)
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(trained) if trained else None
        return Contestant(spec, model, batch or self.batch(), optimizer, masks, self.settings.autocast)

    def fishdip(self, spec: Spec, **config: Any) -> Any:
        """A Fish-Dip model with the mask that the contestant's name tells."""
        model = adapted(self.shared(), FishDipConfig(density=spec.density, **config))
        if spec.pattern == "real":
            positions = self.real.positions(spec.density)
        else:
            positions = make_positions(self.shapes, spec.pattern, spec.density, self.settings.seed)
        model.base_model.set_mask(as_scores(positions, self.shapes, self.device))
        return model


def warm_up(settings: Settings, spec: Spec) -> None:
    """Two steps of a contestant on a tiny model: afterwards the process has loaded what they need."""
    pattern = "uniform" if spec.pattern == "real" else spec.pattern
    tiny = replace(settings, geometry="tiny", model=None, adapter=None, batch=1, source=8, target=8)
    contestant = Workbench(tiny).make(replace(spec, pattern=pattern))
    for _ in range(2):
        contestant.step()


def make_optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, fused where the device and the dtype have that."""
    try:
        return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)


def adapted(base: Any, config: PeftConfig) -> Any:
    config.task_type = "SEQ_2_SEQ_LM"
    return get_peft_model(base, config)


def linear_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear modules but the head: what PEFT's all-linear means."""
    return {name: x for name, x in model.named_modules() if isinstance(x, nn.Linear) and name != "lm_head"}


def linear_names(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in linear_modules(model)})


Made = tuple[Any, Mapping[nn.Parameter, Tensor] | None]


def frozen(bench: Workbench, spec: Spec) -> Made:
    """Gradients flow from the loss to all token embeddings, and to no weight."""
    model = bench.shared()

    def require(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.requires_grad_(True)

    table = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is table:
            module.register_forward_hook(require)
    return model, None


def lora(bench: Workbench, spec: Spec) -> Made:
    return adapted(bench.shared(), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")), None


def fishdip(bench: Workbench, spec: Spec) -> Made:
    return bench.fishdip(spec), None


def shira(bench: Workbench, spec: Spec) -> Made:
    """SHiRA trains r * (rows + columns) entries of each linear module: r such that they are as many as Fish-Dip's."""
    sides = sum(x.in_features + x.out_features for x in linear_modules(bench.base).values())
    rank = max(1, round(spec.density * bench.size / sides))
    config = ShiraConfig(r=rank, target_modules=linear_names(bench.base), random_seed=bench.settings.seed)
    return adapted(bench.shared(), config), None


def supertuning(bench: Workbench, spec: Spec) -> Made:
    config = SupertuningConfig(sparsity=1 - spec.density, target_modules=linear_names(bench.base))
    return adapted(bench.shared(), config), None


def full(bench: Workbench, spec: Spec) -> Made:
    return bench.shared().requires_grad_(True), None


def masked(bench: Workbench, spec: Spec) -> Made:
    """Full fine-tuning whose gradients are zero outside of a uniform mask."""
    model = bench.shared().requires_grad_(True)
    positions = make_positions(bench.shapes, "uniform", spec.density, bench.settings.seed)
    masks = {}
    for name, parameter in model.named_parameters():
        mask = torch.zeros(parameter.shape, dtype=torch.bool, device=bench.device)
        mask.view(-1)[positions[name].to(bench.device)] = True
        masks[parameter] = mask
    return model, masks


MAKERS: dict[str, Callable[[Workbench, Spec], Made]] = {
    "frozen": frozen,
    "lora": lora,
    "fishdip": fishdip,
    "shira": shira,
    "supertuning": supertuning,
    "full": full,
    "masked": masked,
}
