"""A Trainer on tiny examples, and a record of what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from peft_fishdip import tuner_of

from .models import classifier_examples, padded


class Examples(Dataset):
    """A Dataset of a list."""

    def __init__(self, examples: list[dict[str, Any]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


class Recorder(TrainerCallback):
    """The mask and values after each optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[Any, Any]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tuner = tuner_of(kwargs["model"])
        self.steps[state.global_step] = (tuner.mask(), tuner.delta())


def trainer(
    path: Path, model: Any, callback: Any = None, examples: Any = None, **arguments: Any
) -> tuple[Trainer, Recorder]:
    """A Trainer of six steps, and what it records."""
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.02,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        **arguments,
    }
    recorder = Recorder()
    made = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(path), **settings),
        train_dataset=Examples(classifier_examples(10)) if examples is None else examples,
        eval_dataset=Examples(classifier_examples(4, seed=5)),
        data_collator=padded,
        callbacks=[*([callback] if callback else []), recorder],
    )
    return made, recorder


def same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Whether two pairs of mask and deltas are bitwise equal."""
    return all(torch.equal(a[0][n], b[0][n]) for n in a[0]) and all(
        torch.equal(a[1][n][0], b[1][n][0]) and torch.equal(a[1][n][1], b[1][n][1]) for n in a[1]
    )
