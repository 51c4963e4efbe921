"""SparseAdafactor in training: real losses, modules trained whole, several adapters, and transformers' Trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, get_linear_schedule_with_warmup

from peft_fishdip import FishDipCallback, SparseAdafactor

from ..support.models import bert_classifier, classifier_examples, flat_of, padded, seq2seq_examples, tied_t5, tuned
from .dense_adafactor import TOLERANCE, DenseAdafactor, difference, give, gradients_of, scores_of


@pytest.mark.parametrize("delta_scale", ["none", "rms"])
def test_a_training_run_is_that_of_the_dense_optimizer(delta_scale: str) -> None:
    """Masks by Fisher information, gradients of real losses, the whole recipe of the paper."""
    base = tied_t5().double()
    model, dense = tuned(copy.deepcopy(base), density=0.02, delta_scale=delta_scale), DenseAdafactor(base)
    optimizer = SparseAdafactor(model)
    schedulers = [get_linear_schedule_with_warmup(o, 0, 32) for o in (optimizer, dense.optimizer)]
    examples = seq2seq_examples(12)
    clip = 1.0 if delta_scale == "none" else 1e9

    def loss() -> float:
        with torch.no_grad():
            return model(**padded(examples)).loss.item()

    before = loss()
    for step in range(32):
        if step % 8 == 0:
            update = model.base_model.update_mask(examples, optimizer=optimizer)
            assert step == 0 or 0 < update.overlap < 1
            dense.take_mask(model)
        batch = padded([examples[(3 * step + i) % len(examples)] for i in range(3)])
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        dense.model(**batch).loss.backward()
        dense.mask_gradients()
        nn.utils.clip_grad_norm_(dense.parameters.values(), clip)
        for stepper in (optimizer, dense.optimizer, *schedulers):
            stepper.step()
        optimizer.zero_grad()
        dense.optimizer.zero_grad()
        assert difference(model, dense) < TOLERANCE
    assert loss() < before - 0.01


def test_modules_that_are_trained_whole_get_ordinary_adafactor() -> None:
    base = bert_classifier()
    model = tuned(copy.deepcopy(base), density=0.02, modules_to_save=["classifier"], task_type="SEQ_CLS")
    dense = DenseAdafactor(base, torch.float64)
    optimizer = SparseAdafactor(model)
    whole = {
        name: dict(model.named_parameters())[f"base_model.model.classifier.modules_to_save.default.{name}"]
        for name in ("weight", "bias")
    }
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == (
        flat_of(model).numel() + whole["weight"].numel() + whole["bias"].numel()
    )
    for step in range(12):
        if step % 4 == 0:
            model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            dense.take_mask(model)
        gradients = gradients_of(model, step)
        for name, parameter in whole.items():
            gradient = torch.randn(parameter.shape)
            parameter.grad = gradient
            gradients[f"classifier.{name}"] = gradient
            dense.mask[f"classifier.{name}"].fill_(True)
        give(model, gradients)
        dense.give(gradients)
        optimizer.step()
        dense.optimizer.step()
        assert difference(model, dense) < TOLERANCE
        for name, parameter in whole.items():
            torch.testing.assert_close(
                parameter.detach().double(), dense.parameters[f"classifier.{name}"].detach(), rtol=1e-5, atol=1e-6
            )


def test_several_adapters_are_stepped_independently() -> None:
    model = tuned(tied_t5(), density=0.02)
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    dense = {name: DenseAdafactor(tied_t5(), torch.float64) for name in ("default", "other")}
    optimizer = SparseAdafactor(model)
    assert [p is flat_of(model, "default") for group in optimizer.param_groups for p in group["params"]] == [True]
    optimizer.add_param_group({"params": [flat_of(model, "other")], "lr": 3e-2})
    for group in dense["other"].optimizer.param_groups:
        group["lr"] = 3e-2
    for step in range(9):
        for name, twin in dense.items():
            if step % 3 == 0:
                seed = step + 50 * (name == "other")
                model.base_model.set_mask(scores_of(model, seed), optimizer=optimizer, adapter_name=name)
                twin.take_mask(model, name)
            if name == "default" or step % 2:  # the other one has no gradient at times
                gradients = gradients_of(model, step)
                give(model, gradients, name)
                twin.give(gradients)
                twin.optimizer.step()
        optimizer.step()
        optimizer.zero_grad()
        for name, twin in dense.items():
            assert difference(model, twin, name) < TOLERANCE


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.values: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["lr_scheduler"].get_last_lr()[0])
        self.values.append(flat_of(kwargs["model"]).detach().clone())


@pytest.mark.parametrize("by", ["optimizers", "optimizer_cls_and_kwargs"])
def test_a_trainer_runs_the_recipe_and_resumes_it(by: str, tmp_path: Path) -> None:
    def run(**arguments: Any) -> Recorder:
        model, recorder = tuned(bert_classifier(), density=0.05, update_interval=2), Recorder()
        how: dict[str, Any] = {
            "optimizers": {"optimizers": (SparseAdafactor(model), None)},
            "optimizer_cls_and_kwargs": {"optimizer_cls_and_kwargs": (SparseAdafactor, {"model": model, "lr": 1e-2})},
        }[by]
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=6,
                per_device_train_batch_size=2,
                save_steps=3,
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=classifier_examples(10),
            data_collator=padded,
            callbacks=[FishDipCallback(), recorder],
            **how,
        ).train(**arguments)
        return recorder

    whole = run()
    assert whole.rates == pytest.approx([1e-2 * (1 - step / 6) for step in range(1, 7)])
    assert whole.values[-1].abs().max() > 0
    resumed = run(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(resumed.values) == 3
    assert all(torch.equal(a, b) for a, b in zip(resumed.values, whole.values[3:], strict=True))
