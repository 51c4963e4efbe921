"""One training of an adapter, with checkpoints to go on from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState

from ..config import FishDipConfig
from ..optim.adafactor import SparseAdafactor
from ..schedule import Interval, update_is_due
from ..tasks.collator import TaskCollator
from ..tasks.families import CAUSAL, task_type
from ..tasks.features import to_features
from ..tasks.self_training.loop import SelfTrained, self_train
from .base_model import load_base
from .data import Example
from .recipe import Recipe
from .settings import Settings

WARMUP = 0.1
"""Share of the steps in which the rate of SparseAdafactor rises: its first steps are as large as any."""
STATE = "trainer_state.json"
"""The last file of a checkpoint that a Trainer writes."""


class Trained(NamedTuple):
    """A trained model, its tokenizer, how many tokens it has read at once, at most, and the rounds of self-training."""

    model: Any
    tokenizer: Any
    longest: int
    self_training: SelfTrained | None = None


class OneDevice(TrainingArguments):
    """Arguments of a Trainer that uses one GPU where it sees several: DataParallel cannot train an adapter."""

    @property
    def n_gpu(self) -> int:
        return min(int(super().n_gpu), 1)


def checkpoint_interval(steps: int, interval: Interval) -> int:
    """Steps between two checkpoints: about a tenth of all, so that no mask is due at one where that can be.

    A mask that is due when a training goes on comes some steps later, when the model has heard a few losses.
    """
    least = max(steps // 10, 10)
    for found in range(least, 2 * least):
        if not any(update_is_due(interval, step) for step in range(found, steps, found)):
            return found
    return least


class Bar(TrainerCallback):
    """A progress bar on stderr, with the loss."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, file=sys.stderr)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def train(
    examples: Sequence[Example],
    settings: Settings,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    title: str = "Training",
    progress: bool = True,
    unlabelled: Sequence[str] | None = None,
    rounds: int = 2,
) -> Trained:
    """The base model with a trained adapter.

    Args:
        examples: labelled.
        folder: of the checkpoints; training goes on from the last complete one, or the last round of self-training.
        title: of the progress bar.
        unlabelled: texts for self-training; None for none.
        rounds: of self-training.
    """
    set_seed(recipe.seed)
    model, tokenizer = load_base(settings, "auto" if device.type == "cuda" else torch.float32)
    task: Any = settings.make_task()
    kind = task_type(model)
    steps = recipe.steps_for(len(examples))
    features = to_features(
        task, tokenizer, examples, model=model, template=settings.template, chat=settings.chat, windows=True
    )
    self_training = unlabelled is not None
    sparse = recipe.optimizer_for(kind, self_training) == "sparse_adafactor"
    rate = recipe.rate_for(kind, self_training)
    config = FishDipConfig(
        task_type=kind,
        density=recipe.density_for(sum(parameter.numel() for parameter in model.parameters())),
        update_interval=recipe.interval,
        delta_scale="rms" if sparse else "auto",
        seed=recipe.seed,
    )
    model = get_peft_model(model, config)
    longest = max(num_read(feature, kind) for feature in features)
    on_gpu = device.type == "cuda"
    bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if unlabelled is not None:
        found = self_train(
            model.to(device),
            tokenizer,
            task,
            examples,
            unlabelled,
            rounds,
            folder=folder,
            template=settings.template,
            chat=settings.chat,
            progress=progress,
            steps=steps,
            tuning_steps=steps // 4,
            batch_size=recipe.batch_size,
            learning_rate=rate,
            bf16=bf16,
            seed=recipe.seed,
        )
        return Trained(model, tokenizer, longest, found)
    arguments = OneDevice(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=rate,
        warmup_steps=WARMUP if sparse else 0,
        seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=bf16,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        logging_steps=10,
        save_steps=checkpoint_interval(steps, recipe.interval),
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    optimizer = SparseAdafactor(model.to(device), lr=rate) if sparse else None  # None: AdamW
    trainer = Trainer(
        model,
        arguments,
        train_dataset=features,
        data_collator=TaskCollator(tokenizer, model),
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    if progress:
        trainer.add_callback(Bar(title))
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return Trained(model, tokenizer, longest)


def num_read(feature: Mapping[str, Any], kind: str) -> int:
    """The tokens that a model reads of an example: of a decoder-only model those of the prompt."""
    return feature["labels"].count(-100) if kind == CAUSAL else len(feature["input_ids"])


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end."""
    found = [path for path in folder.glob("checkpoint-*") if (path / STATE).is_file() and path.name[11:].isdecimal()]
    return str(max(found, key=lambda path: int(path.name[11:]))) if found else None
