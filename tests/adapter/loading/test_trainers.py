"""A Trainer that resumes, or loads its best model at the end, has the mask that was saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainingArguments

from peft_fishdip import FishDipCallback

from ...support.models import bert_classifier, bits, classifier_examples, padded, tuned
from .damages import TENSORS, damaged_folder, swapped_position
from .trained import assert_same_everything, everything


class Masks(FishDipCallback):
    """Also keeps the mask that every step was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[int, dict[str, Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.masks[state.global_step] = kwargs["model"].base_model.mask()
        return super().on_step_end(args, state, control, **kwargs)


def trainer(path: Path, seed: int = 0, **arguments: Any) -> tuple[Trainer, Masks]:
    callback = Masks()
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        **arguments,
    }
    made = Trainer(
        model=tuned(bert_classifier(), update_interval=2, sample_selection="random", num_samples=3, seed=seed),
        args=TrainingArguments(output_dir=str(path), **settings),
        train_dataset=classifier_examples(10),
        eval_dataset=classifier_examples(4, seed=5),
        data_collator=padded,
        callbacks=[callback],
    )
    return made, callback


def test_a_resumed_run_has_the_saved_mask_and_number_of_updates_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    whole, expected = trainer(tmp_path)
    whole.train()
    resumed, found = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.load.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert sorted(found.masks) == [4, 5, 6]
    for step, mask in found.masks.items():  # step 5 comes after an update, whose random examples hang on their number
        assert all(torch.equal(positions, expected.masks[step][name]) for name, positions in mask.items())
    assert any(not torch.equal(mask, expected.masks[4][name]) for name, mask in expected.masks[5].items())
    assert_same_everything(everything(resumed.model), everything(whole.model))

    damaged = damaged_folder(tmp_path / "checkpoint-3", tmp_path / "damaged" / "checkpoint-3", swapped_position)
    third, _ = trainer(tmp_path / "third")
    before = everything(third.model)
    with pytest.raises(ValueError, match="SHA-256"):
        third.train(resume_from_checkpoint=str(damaged))
    assert_same_everything(everything(third.model), before)


def test_the_best_model_at_the_end_has_the_mask_that_was_saved_with_it(tmp_path: Path) -> None:
    made, callback = trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        learning_rate=0.01,
    )
    made.train()
    best = str(made.state.best_model_checkpoint)
    assert best.endswith("checkpoint-3")  # not the last one
    assert all(torch.equal(mask, callback.masks[3][name]) for name, mask in made.model.base_model.mask().items())
    assert any(not torch.equal(mask, callback.masks[6][name]) for name, mask in callback.masks[3].items())
    saved = load_file(Path(best) / TENSORS)
    now = get_peft_model_state_dict(made.model)
    assert_same_everything({k: bits(t) for k, t in now.items()}, {k: bits(t) for k, t in saved.items()})
