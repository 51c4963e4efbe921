"""The Trainer, accelerate and torch.compile, as they are used with any PEFT method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import PeftModel
from torch.utils.data import DataLoader

from peft_fishdip import FishDipConfig, tuner_of

from ...support.models import (
    ANY_RATE,
    bert_classifier,
    classifier_examples,
    flat_of,
    num_updates,
    padded,
    seq2seq_examples,
    tied_t5,
)
from ...support.training import Examples, Recorder, trainer
from .loops import adamw, batches, driven, loop, mask_of


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_trainer_without_callback_is_a_plain_loop(smoothing: float, tmp_path: Path) -> None:
    model = driven(bert_classifier(), update_interval=2)
    run, recorder = trainer(tmp_path, model, learning_rate=1e-3, label_smoothing_factor=smoothing)
    run.train()
    assert num_updates(model) == 3
    last = model.base_model.last_update()
    assert last.step == 4
    assert bool(last.example_ids) == (smoothing == 0)  # a Trainer that smooths keeps the labels to itself
    assert not any(values.any() for _, values in recorder.steps[1][1].values())
    assert any(values.any() for _, values in recorder.steps[2][1].values())
    first, third = recorder.steps[1][0], recorder.steps[3][0]
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_an_adapter_of_transformers_own_drives_itself(tmp_path: Path) -> None:
    plain = bert_classifier()
    plain.add_adapter(FishDipConfig(density=0.05, update_interval=2))
    run, _ = trainer(tmp_path, plain, learning_rate=1e-3)
    run.remove_callback(Recorder)
    run.train()
    assert tuner_of(plain).last_update().step == 4  # type: ignore[union-attr]


def test_a_resumed_training_goes_on_counting(tmp_path: Path) -> None:
    model = driven(bert_classifier(), update_interval=4)
    run, _ = trainer(tmp_path, model, learning_rate=1e-3, save_strategy="steps", save_steps=3, max_steps=3)
    run.train()
    again = driven(bert_classifier(), update_interval=4)
    run, recorder = trainer(tmp_path, again, learning_rate=1e-3, max_steps=6)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert num_updates(again) == 2
    assert again.base_model.last_update().step == 4
    before = mask_of(model)
    assert {name: positions.tolist() for name, positions in recorder.steps[4][0].items()} == before


def test_a_training_that_goes_on_when_an_update_is_due_hears_some_steps_first() -> None:
    data = batches(classifier_examples(10), 2, 30)
    model = driven(bert_classifier(), update_interval=20)
    optimizer = adamw(model)
    assert loop(model, data[:20], optimizer).steps == [0]
    again = driven(bert_classifier(), update_interval=20)
    again.load_state_dict(model.state_dict())
    restored = adamw(again)
    restored.load_state_dict(optimizer.state_dict())
    assert loop(again, data[20:], restored).steps == [22]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_with_accumulation(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # which keeps the first precision of a process
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
    model = driven(tied_t5(), update_interval=2, num_samples=3)
    optimizer = adamw(model)
    loader = DataLoader(Examples(seq2seq_examples(12)), batch_size=2, collate_fn=padded)  # type: ignore[arg-type]
    outer, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    outer.train()
    steps = []
    for batch in loader:
        with accelerator.accumulate(outer):
            accelerator.backward(outer(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        last = model.base_model.last_update()
        steps.append(None if last is None else last.step)
    assert steps == [None, 0, 0, 0, 2, 2]
    assert all(last.example_ids for last in [model.base_model.last_update()])
    assert flat_of(model).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo reads it
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_drives_itself() -> None:
    data = batches(classifier_examples(8), 2, 6)
    expected = loop(driven(bert_classifier()), data)
    model = driven(bert_classifier())
    torch.compiler.reset()
    compiled: Any = torch.compile(model, backend="aot_eager")
    course = loop(model, data, loss=lambda _, batch: compiled(**batch).loss)
    assert course.steps == expected.steps == [0, 4]
    assert course.masks[0] == expected.masks[0]


@pytest.mark.filterwarnings(ANY_RATE)
def test_what_a_trainer_saves_is_loaded_and_trained_on(tmp_path: Path) -> None:
    model = driven(bert_classifier(), update_interval=3)
    run, _ = trainer(tmp_path, model, learning_rate=1e-3, max_steps=2)
    run.train()
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path / "adapter"), is_trainable=True)
    assert torch.equal(
        loaded(**padded(classifier_examples(3))).logits, model.eval()(**padded(classifier_examples(3))).logits
    )
    course = loop(loaded, batches(classifier_examples(10), 2, 4))
    assert course.steps == [0, 3]  # steps of this optimizer
