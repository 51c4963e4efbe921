"""The training loop of all methods, to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm

from peft_fishdip import FishDipModel

from .masks import shares
from .optimizers import make_optimizer, make_scheduler
from .settings import TrainingParams

Features = list[dict[str, list[int]]]


@dataclass
class Trace:
    """What training went through."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """A row every `log_every` steps, in the names of PEFT's method_comparison."""
    updates: list[dict[str, Any]] = field(default_factory=list)
    """Figures of each mask update."""
    step: int = 0
    """Steps that are done."""
    train_time: float = 0.0
    """Seconds, mask updates included."""
    update_time: float = 0.0


def fit(
    model: Any, features: Features, params: TrainingParams, steps: int, seed: int, device: torch.device, trace: Trace
) -> None:
    """Train for so many steps, or until the loss is next to nothing (see `early_stop_loss`).

    Args:
        model: on the device; its trainable parameters are trained.
        features: token ids of the labelled examples.
        seed: of the order of the examples.
        trace: rows are added to it.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(model, params)
    scheduler = make_scheduler(optimizer, params, steps)
    batches = shuffled_batches(features, params.batch_size, seed)
    losses: list[float] = []
    tokens, low = 0, 0
    started = time.perf_counter()
    model.train()
    with tqdm(total=steps, desc="Training", leave=False) as bar:
        for step in range(steps):
            if update_is_due(model, params, step):
                update_mask(model, features, params, optimizer, trace)
            batch = {key: value.to(device) for key, value in next(batches).items()}
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, params.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

            losses.append(loss.item())
            tokens += int(batch["attention_mask"].sum()) + int((batch["labels"] != -100).sum())
            low = low + 1 if losses[-1] < params.early_stop_loss else 0
            over = step + 1 == steps or (low >= params.early_stop_steps > 0)
            trace.step += 1
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if trace.step % params.log_every == 0 or over:
                row = metrics_row(trace.step, losses, params.batch_size, tokens, time.perf_counter() - started)
                trace.metrics.append(row)
                losses = []
            if over:
                break
    trace.train_time += time.perf_counter() - started


def is_fish_dip(model: Any) -> bool:
    return isinstance(model, PeftModel) and isinstance(model.base_model, FishDipModel)


def update_is_due(model: Any, params: TrainingParams, step: int) -> bool:
    """Whether the mask of a model is to be chosen anew before this step."""
    if not is_fish_dip(model) or params.mask == "random":
        return False
    interval = model.base_model.peft_config["default"].update_interval
    return step == 0 if interval is None else step % interval == 0


def update_mask(
    model: Any, features: Features, params: TrainingParams, optimizer: torch.optim.Optimizer, trace: Trace
) -> None:
    """Choose anew what is trained, and note what was chosen."""
    update = model.base_model.update_mask(
        features, data_collator=collate, optimizer=optimizer, batch_size=params.eval_batch_size, step=trace.step
    )
    trace.updates.append({"step": trace.step, **update.figures(), "shares": shares(model.base_model.mask())})
    trace.update_time += update.seconds


def collate(features: Features) -> dict[str, Tensor]:
    """A batch: `input_ids` padded with 0 and masked, `labels` padded with -100; int64."""
    return {
        key: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[key]) for row in features], batch_first=True, padding_value=padding
        )
        for key, padding in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }


def shuffled_batches(features: Features, batch_size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches without end, in a new order for each pass; the last one of a pass may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(features), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield collate([features[i] for i in order[start : start + batch_size]])


def metrics_row(step: int, losses: list[float], batch_size: int, tokens: int, elapsed: float) -> dict[str, Any]:
    return {
        "step": step,
        "train loss": sum(losses) / len(losses),
        "train samples": step * batch_size,
        "train total tokens": tokens,
        "tokens / sec": tokens / elapsed,
        "elapsed time": elapsed,
    }


@torch.no_grad()
def mean_loss(model: Any, features: Features, batch_size: int, device: torch.device) -> float:
    """-log p in nats per target token, without dropout."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(features), batch_size):
        batch = {key: value.to(device) for key, value in collate(features[start : start + batch_size]).items()}
        targets = int((batch["labels"] != -100).sum())
        total += model(**batch).loss.item() * targets
        count += targets
    model.train(was_training)
    return total / count
