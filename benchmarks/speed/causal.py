"""Decoder-only models with a large vocabulary: training steps beside LoRA, logits only where there are targets, and
the share of mask updates in a short training."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from peft_fishdip import FishDipConfig

from .measure import in_turns, seconds
from .models import ALL, TrainingStep, adapted, make_optimizer, num_parameters, sharing_weights
from .settings import Settings

GEMMA_3_270M: dict[str, Any] = {
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
"""The geometry of google/gemma-3-270m, whose embedding has 168 of its 268 million parameters."""


@dataclass
class MixedStep(TrainingStep):
    """A training step whose forward pass runs under bfloat16 autocast, if `autocast`."""

    autocast: bool = False

    def forward(self) -> Any:
        device = self.batch["input_ids"].device.type
        with torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext():
            return super().forward()


class CausalBench:
    """A decoder-only model, and rows of random tokens whose last ones are targets."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        if settings.causal_model:
            model: Any = AutoModelForCausalLM.from_pretrained(settings.causal_model, dtype=settings.torch_dtype)
        else:
            config = Gemma3TextConfig(**GEMMA_3_270M)
            model = AutoModelForCausalLM.from_config(config, dtype=settings.torch_dtype)
        self.base = model.to(settings.torch_device)
        self.size = num_parameters(self.base)

    def rows(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(self.settings.seed + seed)
        width, words = 2 * self.settings.causal_tokens, self.base.config.vocab_size
        return torch.randint(3, words, (count, width), generator=generator).to(self.settings.torch_device)

    def batch(self, rows: Tensor, all_logits: bool = False) -> dict[str, Any]:
        """The second half of each row are targets; by default the model computes the logits for these alone."""
        targets = self.settings.causal_tokens
        batch: dict[str, Any] = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        if all_logits:
            return {**batch, "labels": torch.cat([torch.full_like(rows[:, :targets], -100), rows[:, targets:]], 1)}
        labels = torch.cat([torch.full_like(rows[:, :1], -100), rows[:, targets:]], 1)
        return {**batch, "labels": labels, "logits_to_keep": targets + 1}

    def fishdip(self, auto_update: bool = False, interval: int | None = None) -> Any:
        config = FishDipConfig(density=self.settings.density, auto_update=auto_update, update_interval=interval)
        return adapted(sharing_weights(self.base), config, "CAUSAL_LM")

    def lora(self) -> Any:
        config = LoraConfig(r=8, lora_alpha=16, target_modules=ALL)
        return adapted(sharing_weights(self.base), config, "CAUSAL_LM")


def measure_causal(settings: Settings) -> dict[str, Any]:
    """Seconds per step in rounds, in the model's dtype and under bfloat16 autocast; and a training with its updates."""
    bench = CausalBench(settings)
    rows = bench.rows(settings.causal_batch)
    ours, lora = with_real_mask(bench), bench.lora()
    turns: dict[str, Callable[[], float]] = {}
    for autocast in (False, True):
        for name, model, all_logits in (("fishdip", ours, False), ("all_logits", ours, True), ("lora", lora, False)):
            batch = bench.batch(rows, all_logits)
            step = MixedStep(model.train(), batch, make_optimizer(model), autocast)
            turns[f"{name}, autocast" if autocast else name] = partial(seconds, step.step)
    spent, order = in_turns(turns, settings.warmup + settings.rounds, settings.seed)
    return {
        "parameters": bench.size,
        "model": Path(settings.causal_model).name or "random weights in the geometry of google/gemma-3-270m",
        "order": order,
        "seconds": {name: values[settings.warmup :] for name, values in spent.items()},
        "training": training(bench),
    }


def with_real_mask(bench: CausalBench) -> Any:
    """Fish-Dip whose mask is chosen by the Fisher information of some rows."""
    model = bench.fishdip()
    rows = bench.rows(bench.settings.causal_batch, seed=1)
    batches = (bench.batch(row[None]) for row in rows)
    model.base_model.update_mask(batches)
    return model


def training(bench: CausalBench) -> dict[str, Any]:
    """A training under autocast that updates its mask by itself: its seconds, and those of the updates in it."""
    own = bench.settings
    rows = bench.rows(own.causal_examples, seed=2)
    model = bench.fishdip(auto_update=True, interval=own.causal_interval)
    step = MixedStep(model.train(), {}, make_optimizer(model), autocast=True)
    starts = itertools.cycle(range(0, len(rows), own.causal_batch))
    updates: dict[int, float] = {}

    def train() -> None:
        for _ in range(own.causal_steps):
            start = next(starts)
            step.batch = bench.batch(rows[start : start + own.causal_batch])
            step.step()
            if update := model.base_model.last_update():
                updates[update.step] = update.seconds

    return {"seconds": seconds(train), "updates": updates}
