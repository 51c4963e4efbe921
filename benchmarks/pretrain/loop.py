"""The run, to be read from top to bottom. Killed at any time and started again, it goes on to the same losses.

Bit for bit on the CPU, and on a GPU as far as its kernels are deterministic; not if the clock moves the learning rate.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm

from ..settings import SettingsError, read_json
from .batches import Batches, ahead
from .checkpoint import (
    checkpoints,
    load_checkpoint,
    load_weights,
    read_progress,
    save_checkpoint,
    write_json,
    write_text,
)
from .evaluation import HeldOut
from .model import new_model, token_losses
from .optimizer import ScaledAdamW, schedule
from .settings import LENGTH, RunSettings
from .shards import Shards

RNG = "rng."


@dataclass
class Progress:
    """Where a run is; all that a checkpoint keeps beside tensors."""

    step: int = 0
    """Steps that are done."""
    tokens: int = 0
    """Clean tokens that they read."""
    seconds: float = 0.0
    """Wall time of all sessions, evaluation included."""
    training_seconds: float = 0.0
    """... without evaluation and checkpoints."""
    window: dict[str, list[float]] = field(default_factory=dict)
    """Of each part since the last report: sum of losses in nats, labels."""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    """From which step on which machine the run went on."""

    def share(self, settings: RunSettings, more: int = 0) -> float:
        """Share of the run that is done once `more` tokens are read; the tokens or the clock, whichever is ahead."""
        by_tokens = (self.tokens + more) / settings.max_tokens
        by_clock = self.seconds / (60 * settings.max_minutes) if settings.max_minutes else 0.0
        return min(1.0, max(by_tokens, by_clock))


def train(
    shards: Shards,
    settings: RunSettings,
    run: Path,
    *,
    device: torch.device,
    backend: str | None = None,
    stop_after_minutes: float | None = None,
) -> Progress:
    """Pretrain from the start or from the latest checkpoint in `run`, to the end of the budget.

    Args:
        shards: where the text is.
        settings: must be those that the run began with.
        run: folder of the run; made if it is not there.
        device: where to compute.
        backend: of torch.compile; None: not compiled.
        stop_after_minutes: end this process earlier, with a checkpoint; the run can go on later.

    Returns:
        what the last checkpoint says.

    Raises:
        SettingsError: run, shards and settings do not belong together, or the loss is no longer finite.
    """
    begin(run, settings, shards)
    batches = Batches(shards.train, settings, shards.vocab_size)
    held_out = HeldOut(shards.heldout, settings, shards.vocab_size)
    torch.manual_seed(settings.seed)
    model = new_model(settings, shards.vocab_size).to(device).train()  # type: ignore[arg-type]
    parameters = dict(model.named_parameters())
    optimizer = ScaledAdamW(parameters, settings)
    progress = Progress()
    if found := checkpoints(run):
        weights, state, content = load_checkpoint(found[-1])
        load_weights(parameters, weights, str(found[-1] / "model.safetensors"))
        optimizer.load_state(state)
        load_rng(state, device)
        progress = Progress(**content)
    log = Log(run / "log.jsonl", progress.step)
    if progress.share(settings) >= 1:
        return progress
    progress.sessions.append({"step": progress.step, **machine(device, backend)})

    compiled: Any = torch.compile(model, backend=backend, dynamic=False) if backend else model
    # sums stay on the device, so that a step does not wait for the one before
    window = {
        name: torch.tensor(progress.window.get(name, [0.0, 0.0]), dtype=torch.float64, device=device)
        for name in ("spans", "denoising")
    }
    clock, session = Clock(progress), time.perf_counter()
    reported = progress.tokens, progress.training_seconds
    bar = tqdm(total=settings.max_tokens, initial=progress.tokens, unit=" tokens", unit_scale=True, desc=run.name)
    with bar, closing(ahead(batches, progress.step)) as coming:
        for batch in coming:
            reached = progress.tokens + batch.tokens
            rate = schedule(reached, progress.share(settings, batch.tokens), settings)
            for name, part in batch.parts.items():
                losses = token_losses(compiled, part.to(device), settings.bf16).sum()
                (losses / batch.targets).backward()
                window[name] += torch.stack([losses.detach().double(), losses.new_tensor(labels(part)).double()])
            norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.max_grad_norm)
            optimizer.step(progress.step, rate)
            progress.step += 1
            progress.tokens += batch.tokens
            clock.tick()
            bar.update(batch.tokens)

            stopping = stop_after_minutes is not None and time.perf_counter() - session >= 60 * stop_after_minutes
            over = progress.share(settings) >= 1
            if progress.step % settings.log_every == 0 or over:
                row = {"step": progress.step, "tokens": progress.tokens, **means(window), "rate": rate}
                row["gradient_norm"] = norm.item()
                clock.tick()
                since = progress.training_seconds - reported[1]
                row["tokens_per_second"] = (progress.tokens - reported[0]) / since
                row["seconds"] = progress.seconds
                reported = progress.tokens, progress.training_seconds
                log.write("train", row)
                for total in window.values():
                    total.zero_()
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                refuse_infinite(progress.step, [row["loss"], row["gradient_norm"]], settings)
            if progress.step % settings.evaluate_every == 0 or over:
                scores = held_out.scores(model, settings.bf16)
                log.write("heldout", {"step": progress.step, "tokens": progress.tokens, **scores})
                bar.write(f"step {progress.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
                clock.tick(training=False)
            if progress.step % settings.checkpoint_every == 0 or over or stopping:
                progress.window = {name: total.tolist() for name, total in window.items()}
                refuse_infinite(progress.step, [norm.item(), *chain(*progress.window.values())], settings)
                state = {**optimizer.state(), **rng(device)}
                save_checkpoint(run, progress.step, parameters, state, asdict(progress))
            if over or stopping:
                break
            clock.tick(training=False)
    return progress


def refuse_infinite(step: int, figures: Iterable[float], settings: RunSettings) -> None:
    """
    Raises:
        SettingsError: one of the figures, losses or a norm of gradients, is not finite.
    """
    if odd := [figure for figure in figures if not math.isfinite(figure)]:
        raise SettingsError(
            f"step {step}: a loss or the gradient is {odd[0]}; begin another --run with a learning_rate lower than "
            f"{settings.learning_rate}"
        )


def begin(run: Path, settings: RunSettings, shards: Shards) -> None:
    """Write down what the run is made of, or compare with what was written when it began."""
    content = {
        "settings": settings.as_dict(),
        "vocab_size": shards.vocab_size,
        "shards": {"fingerprint": shards.fingerprint, **{k: v for k, v in shards.meta.items() if k != "files"}},
    }
    path = run / "run.json"
    if not path.exists():
        if checkpoints(run):
            raise SettingsError(f"{run} has checkpoints but no run.json")
        run.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return
    before = read_json(path)
    then = RunSettings.from_dict(before["settings"], str(path))
    if changed := [
        f"{name} was {getattr(then, name)!r}, is {value!r}"
        for name, value in settings.as_dict().items()
        if getattr(then, name) != value and not (name in LENGTH and rate_is_level(run, then, settings))
    ]:
        raise SettingsError(f"{run} was begun with other settings: {'; '.join(changed)}")
    if before["shards"]["fingerprint"] != content["shards"]["fingerprint"]:  # type: ignore[index]
        raise SettingsError(f"{run} was begun with other shards than {shards.folder}")
    write_json(path, content)


def rate_is_level(run: Path, *lengths: RunSettings) -> bool:
    """Whether a run has not yet come to where the rate falls, by any of these settings."""
    found = checkpoints(run)
    progress = Progress(**read_progress(found[-1])) if found else Progress()
    return all(progress.share(settings) <= 1 - settings.decay_share for settings in lengths)


class Log:
    """Rows of a run, one JSON object per line; those of steps that a killed run had not kept are taken off."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            kept = [row for row in read_log(path) if row["step"] <= step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, kind: str, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **row}) + "\n")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line that was cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


class Clock:
    """Adds the time since the last tick to the run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.last = time.perf_counter()

    def tick(self, training: bool = True) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.last
        if training:
            self.progress.training_seconds += now - self.last
        self.last = now


def labels(part: Any) -> int:
    return int((part.labels >= 0).sum())


def means(window: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean loss in nats per label: of all parts (`loss`) and of each that had any."""
    sums = {name: total.tolist() for name, total in window.items()}
    loss, count = (sum(column) for column in zip(*sums.values(), strict=True))
    return {"loss": loss / count, **{f"{name}_loss": a / b for name, (a, b) in sums.items() if b}}


def machine(device: torch.device, backend: str | None) -> dict[str, Any]:
    """What a session computes with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "compile": backend,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def rng(device: torch.device) -> dict[str, Tensor]:
    """State of torch's random numbers, which dropout draws."""
    states = {f"{RNG}cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{RNG}cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors[f"{RNG}cpu"])
    if device.type == "cuda" and f"{RNG}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{RNG}cuda"], device)


def run_record(run: Path) -> dict[str, Any]:
    """What a run wrote of itself: `settings`, `vocab_size`, `shards`, `progress` of the latest checkpoint, `log`."""
    if not (run / "run.json").is_file():
        raise SettingsError(f"{run} is no run: it has no run.json")
    record = read_json(run / "run.json")
    found = checkpoints(run)
    record["progress"] = read_progress(found[-1]) if found else asdict(Progress())
    record["log"] = list(read_log(run / "log.jsonl")) if (run / "log.jsonl").exists() else []
    return record
