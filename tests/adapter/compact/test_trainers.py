"""Training with compact=True: checkpoints resume exactly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from peft_fishdip import FishDipCallback

from ...support.models import classifier_examples, padded, tuned
from ..loading.trained import assert_same_everything, everything
from .saved import TENSORS, assert_same_effective, classifier, config_of, saved


def trainer(path: Path) -> Trainer:
    settings: dict[str, Any] = {"update_interval": 2, "sample_selection": "random", "num_samples": 3}
    return Trainer(
        model=tuned(classifier(), compact=True, delta_scale="auto", **settings),
        args=TrainingArguments(
            output_dir=str(path),
            max_steps=6,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            save_strategy="steps",
            save_steps=3,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=3,
        ),
        train_dataset=classifier_examples(12),
        data_collator=padded,
        callbacks=[FishDipCallback()],
    )


def test_a_run_that_is_resumed_from_a_compact_checkpoint_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trainer(tmp_path)
    whole.train()
    tensors = load_file(tmp_path / "checkpoint-3" / TENSORS)
    kinds = {key.split("fishdip_")[1].split(".")[0]: tensor.dtype for key, tensor in tensors.items()}
    assert kinds == {"indices": torch.uint8, "values": torch.float32, "summary": torch.int64}
    resumed = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.load.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_everything(everything(resumed.model), everything(whole.model))

    model = whole.model.requires_grad_(False)
    saved(model, tmp_path / "final")
    sizes = [(folder / TENSORS).stat().st_size for folder in (tmp_path / "final", tmp_path / "checkpoint-6")]
    assert sizes[0] < sizes[1]
    assert "bfloat16" in {line.split()[1] for line in config_of(tmp_path / "final")["compact_storage"].values()}
    assert_same_effective(PeftModel.from_pretrained(classifier(), str(tmp_path / "final")), model)
