"""The base model, and each method applied to it: a model that is ready for its training steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, ShiraConfig, SupertuningConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSeq2SeqLM, T5Config

from peft_fishdip import FishDipConfig

from ..features import Batch, collate
from .internals import Phases, num_active, top_k
from .settings import GEOMETRIES, Method, Settings

ALL = "all-linear"
"""What PEFT calls all linear modules but the head."""


def make_base(geometry: str, dtype: torch.dtype, dropout: float = 0.1) -> Any:
    """A T5 with random weights."""
    fields = ("d_model", "d_ff", "num_layers", "num_heads", "d_kv", "vocab_size")
    shape: Any = dict(zip(fields, GEOMETRIES[geometry], strict=True))
    ids: Any = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return AutoModelForSeq2SeqLM.from_config(T5Config(**shape, **ids, dropout_rate=dropout), dtype=dtype)


def num_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Tied parameters count once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable)


@torch.no_grad()
def multiply_adds(model: nn.Module, batch: Batch) -> int:
    """Multiply-adds of the products with weight matrices in one forward pass; attention scores are not counted."""
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    return int(counter.get_flop_counts()["Global"][torch.ops.aten.mm] // 2)


@dataclass
class TrainingStep:
    """All that one step of training needs; `step` does it."""

    model: Any
    batch: Batch
    optimizer: torch.optim.Optimizer | None

    def forward(self) -> Any:
        return self.model(**self.batch).loss

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.forward().backward()
            if self.optimizer is not None:
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)


class Workbench:
    """One base model, and the models of all methods, which share the storage of its weights.

    So that many fit into memory at once, steps that train base weights change them for all methods; at a rate of 1e-5
    that does not matter to their costs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = settings.torch_device
        torch.manual_seed(settings.seed)
        self.base = make_base(settings.geometry, settings.torch_dtype, settings.dropout).to(self.device)
        self.size = num_parameters(self.base)
        self.shapes = {name: parameter.shape for name, parameter in self.base.named_parameters()}
        self.real: dict[float, dict[str, Tensor]] = {}
        """The real masks by density; see `real_mask`."""

    def shared(self) -> Any:
        """A model with the base's weights, in eval mode, that requires no gradients."""
        return sharing_weights(self.base)

    def examples(self, count: int, seed: int = 0, length: int | None = None) -> list[dict[str, Tensor]]:
        """Examples of random tokens, of the lengths of the settings or with `length` tokens of source and of target."""
        source, target = length or self.settings.source, length or self.settings.target
        generator = torch.Generator().manual_seed(self.settings.seed + seed)
        size, words = (count, source + target), self.base.config.vocab_size
        ids = torch.randint(3, words, size, generator=generator)  # smaller ids are padding, end and unknown
        return [{"input_ids": x[:source], "attention_mask": x.new_ones(source), "labels": x[source:]} for x in ids]

    def batch(self, examples: list[dict[str, Tensor]] | None = None) -> Batch:
        """A batch on the device: of these examples, or of as many random ones as a training step has."""
        batch = collate(examples or self.examples(self.settings.batch))
        return {key: value.to(self.device) for key, value in batch.items()}

    def make(self, method: Method, batch: Batch | None = None) -> TrainingStep:
        """The training step of a method, before its first one."""
        model = MAKERS[method.kind](self, method).train()
        return TrainingStep(model, batch or self.batch(), make_optimizer(model))

    def chosen(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        """Per parameter the flat positions of the entries with the highest scores."""
        positions = top_k(scores, num_active(density, self.size)).positions
        return {name: found.cpu() for name, found in positions.items()}

    def real_mask(self, density: float) -> dict[str, Tensor]:
        """Flat positions of the entries with the highest Fisher information after a short training on random tokens.

        The first call trains, for the densities of the settings too. Only positions are kept.
        """
        if density not in self.real:
            own = self.settings
            model = adapted(self.shared(), FishDipConfig(density=own.density))
            examples = self.examples(max(own.batch, 25), seed=1)
            optimizer = make_optimizer(model, rate=1e-3)
            step = TrainingStep(model, {}, optimizer)
            model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer)
            model.train()
            for number in range(own.real_steps):
                step.batch = self.batch([examples[(number * own.batch + i) % len(examples)] for i in range(own.batch)])
                step.step()
            with Phases() as phases:
                model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer)
            for wanted in {density, own.density, *own.densities}:
                self.real[wanted] = self.chosen(phases.scores, wanted)
        return self.real[density]


def warm_up(settings: Settings, method: Method) -> None:
    """Two steps of a method on a tiny model, so that the process has loaded what they need."""
    pattern = "uniform" if method.pattern == "real" else method.pattern
    tiny = replace(settings, geometry="tiny", batch=1, source=8, target=8)
    Workbench(tiny).make(replace(method, pattern=pattern)).step(2)


def make_optimizer(model: nn.Module, rate: float | None = None) -> torch.optim.Optimizer | None:
    """Fused AdamW over the trainable parameters; None if there are none. Base weights hardly move by default."""
    rate = rate or (1e-3 if isinstance(model, PeftModel) else 1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True) if parameters else None


def sharing_weights(base: Any) -> Any:
    """A copy of a model in eval mode that has the same weights in memory and requires no gradients."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in base.parameters()}
    return copy.deepcopy(base, memo).eval()


def adapted(base: Any, config: PeftConfig, task_type: str = "SEQ_2_SEQ_LM") -> Any:
    config.task_type = task_type
    return get_peft_model(base, config)


def random_scores(shapes: Mapping[str, torch.Size], pattern: str, seed: int) -> dict[str, Tensor]:
    """Scores per parameter whose highest are a random mask.

    uniform: anywhere. clustered: within about 10 % of the rows and 10 % of the columns of each matrix, as long as the
    mask fits in there.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, shape in shapes.items():
        scores[name] = torch.rand(shape, generator=generator)
        if pattern == "clustered" and len(shape) == 2:
            rows, columns = (torch.rand(size, generator=generator) < 0.1 for size in shape)
            scores[name] += rows[:, None] | columns
    return scores


def indicators(bench: Workbench, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per parameter a boolean tensor of its shape that is True at the flat positions."""
    result = {name: torch.zeros(shape, dtype=torch.bool, device=bench.device) for name, shape in bench.shapes.items()}
    for name, where in positions.items():
        result[name].view(-1)[where.to(bench.device)] = True
    return result


def frozen(bench: Workbench, method: Method) -> Any:
    """Gradients flow from the loss to all token embeddings, but to no weight."""
    model = bench.shared()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is model.shared.weight:
            module.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    return model


def fishdip(bench: Workbench, method: Method) -> Any:
    """Fish-Dip with the mask that the method's name tells."""
    model = adapted(bench.shared(), FishDipConfig(density=method.density))
    if method.pattern == "real":
        scores = {name: x.half() for name, x in indicators(bench, bench.real_mask(method.density)).items()}
    else:
        scores = random_scores(bench.shapes, method.pattern, bench.settings.seed)
    model.base_model.set_mask(scores)
    return model


def shira(bench: Workbench, method: Method) -> Any:
    """SHiRA trains r * (rows + columns) entries of each linear module; r makes them about as many as ours."""
    linear = [x for x in bench.base.modules() if isinstance(x, nn.Linear) and x is not bench.base.lm_head]
    rank = max(1, round(method.density * bench.size / sum(sum(x.weight.shape) for x in linear)))
    return adapted(bench.shared(), ShiraConfig(r=rank, target_modules=ALL, random_seed=bench.settings.seed))


def masked(bench: Workbench, method: Method) -> Any:
    """Full fine-tuning whose gradients are set to zero outside of a uniform mask."""
    model = bench.shared().requires_grad_(True)
    masks = indicators(bench, bench.chosen(random_scores(bench.shapes, "uniform", bench.settings.seed), method.density))
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(partial(apply_mask, masks[name]))
    return model


def apply_mask(mask: Tensor, parameter: Any) -> None:
    parameter.grad.mul_(mask)


MAKERS: dict[str, Callable[[Workbench, Method], Any]] = {
    "frozen": frozen,
    "lora": lambda bench, method: adapted(bench.shared(), LoraConfig(r=8, lora_alpha=16, target_modules=ALL)),
    "fishdip": fishdip,
    "shira": shira,
    "supertuning": lambda b, m: adapted(b.shared(), SupertuningConfig(sparsity=1 - m.density, target_modules=ALL)),
    "full": lambda bench, method: bench.shared().requires_grad_(True),
    "masked": masked,
}
