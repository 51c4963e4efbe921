"""One run: a model, a method, the loop, the score. To be read from top to bottom."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from peft_fishdip import FishDipModel, MaskUpdate
from peft_fishdip.tasks import evaluate

from .base_model import padded
from .data import Data
from .settings import Experiment, TrainingParams


@dataclass
class Outcome:
    """What a run measured."""

    scores: dict[str, float] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    updates: list[MaskUpdate] = field(default_factory=list)
    num_trainable_params: int = 0
    num_total_params: int = 0
    train_time: float = 0.0
    """Seconds, mask updates included."""
    update_time: float = 0.0
    eval_time: float = 0.0
    file_size: int = 0
    """Bytes of the saved adapter, or of the whole model."""
    peak_memory: int = 0
    """Bytes by which the process's largest resident size grew, or CUDA's largest allocation."""
    adapter_config: dict[str, Any] | None = None


def run(experiment: Experiment, data: Data, base_model: Path, seed: int, device: torch.device) -> Outcome:
    """Fine-tune the base model as the experiment says, on the labelled examples, and score it on the test ones."""
    outcome = Outcome()
    params = experiment.params
    set_seed(seed)
    memory = MemoryMeter(device)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(base_model, dtype=torch.float32).to(device)
    if experiment.adapter is not None:
        config = PeftConfig.from_pretrained(str(experiment.adapter))
        model = get_peft_model(model, config)
        outcome.adapter_config = model.peft_config["default"].to_dict()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    outcome.num_trainable_params = sum(parameter.numel() for parameter in trainable)
    outcome.num_total_params = sum(parameter.numel() for parameter in model.parameters())

    features = encode(data, tokenizer, params.max_length)
    optimizer = torch.optim.AdamW(trainable, lr=params.learning_rate, weight_decay=params.weight_decay)
    scheduler = LambdaLR(optimizer, lambda step: warmup_and_decay(step, params))
    batches = shuffled_batches(features, params.batch_size, seed)

    model.train()
    started = time.perf_counter()
    losses: list[float] = []
    tokens = 0
    with tqdm(total=params.steps, desc=f"{experiment.title} seed {seed}") as bar:
        for step in range(params.steps):
            if update_is_due(model, step):
                update = model.base_model.update_mask(features, data_collator=collate, optimizer=optimizer, step=step)
                outcome.updates.append(update)
                outcome.update_time += update.seconds
            batch = {key: value.to(device) for key, value in next(batches).items()}
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, params.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            losses.append(loss.item())
            tokens += int(batch["attention_mask"].sum()) + int((batch["labels"] != -100).sum())
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if (step + 1) % params.log_every == 0 or step + 1 == params.steps:
                elapsed = time.perf_counter() - started
                outcome.metrics.append(metrics_row(step + 1, losses, params, tokens, elapsed))
                losses = []
    outcome.train_time = time.perf_counter() - started

    started = time.perf_counter()
    outcome.scores = dict(
        evaluate(
            model,
            tokenizer,
            data.task,
            data.test,
            batch_size=params.eval_batch_size,
            max_source_length=params.max_length,
            max_new_tokens=params.max_length,
        )
    )
    outcome.eval_time = time.perf_counter() - started
    outcome.file_size = saved_size(model)
    outcome.peak_memory = memory.growth()
    return outcome


def update_is_due(model: Any, step: int) -> bool:
    """Whether the model is a Fish-Dip model whose mask is to be updated before this step."""
    if not (isinstance(model, PeftModel) and isinstance(model.base_model, FishDipModel)):
        return False
    interval = model.base_model.peft_config["default"].update_interval  # type: ignore[attr-defined]
    return step == 0 if interval is None else step % interval == 0


def encode(data: Data, tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """The labelled examples as token ids in the task's text format."""
    texts = [data.task.encode(example) for example in data.train]
    sources = tokenizer([text.source for text in texts], truncation=True, max_length=max_length)["input_ids"]
    targets = tokenizer([text.target for text in texts], truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": x, "labels": y} for x, y in zip(sources, targets, strict=True)]


def collate(features: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return padded({key: [feature[key] for feature in features] for key in ("input_ids", "labels")})


def shuffled_batches(features: list[dict[str, list[int]]], batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches without end, in a new order for each pass; the last one of a pass may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(features), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield collate([features[i] for i in order[start : start + batch_size]])


def warmup_and_decay(step: int, params: TrainingParams) -> float:
    """Share of the peak learning rate: up linearly, then down linearly to zero."""
    warmup = max(1, round(params.warmup_share * params.steps))
    return min((step + 1) / warmup, (params.steps - step) / max(1, params.steps - warmup))


def metrics_row(step: int, losses: list[float], params: TrainingParams, tokens: int, elapsed: float) -> dict[str, Any]:
    return {
        "step": step,
        "train loss": sum(losses) / len(losses),
        "train samples": step * params.batch_size,
        "train total tokens": tokens,
        "tokens / sec": tokens / elapsed,
        "elapsed time": elapsed,
    }


def saved_size(model: Any) -> int:
    """Bytes of the files that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


class MemoryMeter:
    """How much memory a run needs at most, beyond what the process had before it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.before = resident_peak()

    def growth(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resident_peak() - self.before


def resident_peak() -> int:
    """Largest resident size of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
