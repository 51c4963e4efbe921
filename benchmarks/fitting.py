"""The training loop of all methods, to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.auto import tqdm

from .features import Batch, Collate, Features, collate, moved, num_targets, num_tokens
from .mask_updates import update_is_due, update_mask
from .optimizers import make_optimizer, make_scheduler
from .outcome import Trace
from .settings import TrainingParams


def fit(
    model: Any,
    features: Features,
    params: TrainingParams,
    steps: int,
    seed: int,
    device: torch.device,
    trace: Trace,
    optimizer: torch.optim.Optimizer | None = None,
    collator: Collate = collate,
) -> None:
    """Train for so many steps, or until the loss is next to nothing (see `early_stop_loss`).

    Args:
        model: on the device; its trainable parameters are trained.
        features: token ids of the labelled examples.
        seed: of the order of the examples.
        trace: rows are added to it.
        optimizer: instead of the one that `params` describes.
        collator: makes batches.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or make_optimizer(model, params)
    scheduler = make_scheduler(optimizer, params, steps)
    batches = shuffled_batches(features, params.batch_size, seed, collator)
    losses: list[float] = []
    low = 0
    trace.begins.append(trace.step)
    started = time.perf_counter()
    model.train()
    with tqdm(total=steps, desc="Training", leave=False) as bar:
        for step in range(steps):
            batch = moved(next(batches), device)
            with precision(params, device):
                if update_is_due(model, params, step, trace):
                    update_mask(model, features, params, optimizer, trace, collator)
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, params.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

            losses.append(loss.item())
            trace.samples += len(batch["labels"])
            trace.tokens += num_tokens(batch, model)
            low = low + 1 if losses[-1] < params.early_stop_loss else 0
            over = step + 1 == steps or (low >= params.early_stop_steps > 0)
            trace.step += 1
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if trace.step % params.log_every == 0 or over:
                trace.add_row(losses, trace.train_time + time.perf_counter() - started)
                losses = []
            if over:
                break
    trace.train_time += time.perf_counter() - started


def precision(params: TrainingParams, device: torch.device) -> torch.autocast:
    """The context of forward passes: torch.autocast in bfloat16, if `params.bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=params.bf16)


def shuffled_batches(features: Features, batch_size: int, seed: int, collator: Collate = collate) -> Iterator[Batch]:
    """Batches without end, in a new order for each pass; the last one of a pass may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(features), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield collator([features[i] for i in order[start : start + batch_size]])


@torch.no_grad()
def mean_loss(
    model: Any, features: Features, batch_size: int, device: torch.device, collator: Collate = collate
) -> float:
    """-log p in nats per target token, without dropout; of a classifier, per word or text with a label."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(features), batch_size):
        batch = moved(collator(features[start : start + batch_size]), device)
        if targets := num_targets(batch):
            total += model(**batch).loss.item() * targets
            count += targets
    model.train(was_training)
    return total / count
