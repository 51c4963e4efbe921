"""FishDipCallback in a Trainer: schedule, log, resuming, the best model; and the plain loop."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.utils.data import IterableDataset

from peft_fishdip import FishDipCallback, FishDipConfig

from .support.models import (
    bert_classifier,
    classifier_examples,
    flat_of,
    num_updates,
    padded,
    seq2seq_examples,
    tied_t5,
    tuned,
)
from .support.training import Recorder, same, trainer


@pytest.mark.parametrize(("interval", "expected"), [(2, [0, 2, 4]), (4, [0, 4]), (None, [0]), ("auto", [0])])
def test_the_mask_is_updated_before_the_first_step_and_then_every_interval(
    interval: int | str | None, expected: list[int], tmp_path: Path
) -> None:
    callback = FishDipCallback()
    model = tuned(bert_classifier(), update_interval=interval)
    runner, _ = trainer(tmp_path, model, callback)
    runner.train()
    assert [update.step for update in callback.updates] == expected
    assert num_updates(model) == len(expected)
    assert flat_of(model).abs().sum() > 0


def test_an_interval_that_never_comes_due_is_told(tmp_path: Path) -> None:
    runner, _ = trainer(tmp_path, tuned(bert_classifier(), update_interval=4), FishDipCallback(), max_steps=4)
    with pytest.warns(UserWarning, match=r"update_interval=4, but training has 4 steps.* update_interval='auto'"):
        runner.train()


def test_two_callbacks_on_one_adapter_are_refused(tmp_path: Path) -> None:
    model = tuned(bert_classifier())
    for second in (FishDipCallback(), FishDipCallback(adapter_name="default")):
        runner, recorder = trainer(tmp_path, model, FishDipCallback())
        runner.add_callback(second)
        with pytest.raises(ValueError, match=r"two FishDipCallbacks update adapter 'default'.* give the Trainer one"):
            runner.train()
        assert not recorder.steps
    runner, recorder = trainer(tmp_path, model, FishDipCallback(), max_steps=1)
    runner.train()
    runner.train()  # the same callback in another training
    assert len(recorder.steps) == 1
    assert num_updates(model) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": 5}, TypeError, "dataset=5 must be a Dataset or a list of feature dicts"),
        ({"data_collator": 5}, TypeError, "data_collator=5 must be a function from a list of feature dicts"),
        ({"loss_fn": 5}, TypeError, "loss_fn=5 must be a function of the model and a batch"),
        ({"reuse_training_losses": "yes"}, TypeError, "reuse_training_losses='yes' must be True or False"),
        ({"adapter_name": 5}, TypeError, "adapter_name=5 must be the name of an adapter"),
        ({"dataset": iter([]), "reuse_training_losses": True}, ValueError, "the dataset, a list_iterator, is a stream"),
    ],
)
def test_a_wrong_argument_is_named_at_once(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FishDipCallback(**arguments)


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path) -> None:
    callback = FishDipCallback()
    model = tuned(bert_classifier(), update_interval=2)
    runner, recorder = trainer(tmp_path, model, callback, gradient_accumulation_steps=3, max_steps=4)
    runner.train()
    assert [update.step for update in callback.updates] == [0, 2]
    assert list(recorder.steps) == [1, 2, 3, 4]
    masks = [recorder.steps[step][0] for step in (1, 2)]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_the_callback_chooses_as_a_plain_loop_does(tmp_path: Path) -> None:
    callback = FishDipCallback()
    runner, recorder = trainer(tmp_path, tuned(bert_classifier()), callback, max_steps=1)
    runner.train()
    plain = tuned(bert_classifier())
    update = plain.base_model.update_mask(classifier_examples(10))
    assert update.example_ids == callback.updates[0].example_ids
    assert all(torch.equal(plain.base_model.mask()[n], p) for n, p in recorder.steps[1][0].items())


def test_figures_of_each_update_are_logged(tmp_path: Path) -> None:
    runner, _ = trainer(tmp_path, tuned(bert_classifier(), update_interval=2), FishDipCallback())
    runner.train()
    rows = [row for row in runner.state.log_history if "mask_overlap" in row and "loss" not in row]
    assert [row["step"] for row in rows] == [0, 2, 4]
    names = {
        "mask_overlap",
        "mask_threshold",
        "mask_active",
        "mask_support",
        "mask_examples",
        "mask_max_loss",
        "mask_seconds",
    }
    assert all(names <= set(row) for row in rows)
    assert rows[0]["mask_active"] == rows[0]["mask_support"]
    assert rows[-1]["mask_support"] >= rows[-1]["mask_active"]
    assert all(0 <= row["mask_overlap"] <= 1 and row["mask_examples"] == 3 for row in rows)


def test_a_dataset_collator_and_loss_function_of_its_own_are_used(tmp_path: Path) -> None:
    seen: list[int] = []

    def loss_fn(model: Any, batch: Any) -> torch.Tensor:
        seen.append(len(batch["labels"]))
        return torch.nn.functional.cross_entropy(model(batch["input_ids"]).logits, batch["labels"], reduction="none")

    own = classifier_examples(7, seed=9)
    callback = FishDipCallback(dataset=own, data_collator=padded, loss_fn=loss_fn)
    runner, _ = trainer(tmp_path, tuned(bert_classifier()), callback, max_steps=1)
    runner.train()
    assert seen == [7, 2, 1, 1, 3]  # all; a try whether examples can share a pass; the chosen ones
    assert max(callback.updates[0].example_ids) < 7


@pytest.mark.parametrize("dropped", ["freeze", "reset"])
@pytest.mark.parametrize("saved_at", [2, 3])  # just before an update, and between two
def test_a_resumed_run_goes_on_exactly(saved_at: int, dropped: str, tmp_path: Path) -> None:
    def model() -> Any:
        return tuned(
            bert_classifier(), update_interval=2, dropped=dropped, delta_scale="rms", sample_selection="random"
        )

    whole, expected = trainer(tmp_path / "whole", model(), FishDipCallback())
    whole.train()
    settings = {"save_strategy": "steps", "save_steps": saved_at}
    first, _ = trainer(tmp_path / "parts", model(), FishDipCallback(), **settings)
    first.train()
    resumed, found = trainer(tmp_path / "parts", model(), FishDipCallback(), **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.load.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{saved_at}"))
    assert list(found.steps) == list(range(saved_at + 1, 7))
    for step, state in found.steps.items():
        assert same(state, expected.steps[step]), step
    assert num_updates(resumed.model) == 3


@pytest.mark.parametrize("restore", [False, True])
def test_a_run_resumes_whether_or_not_the_trainer_restores_callbacks(restore: bool, tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 3, "restore_callback_states_from_checkpoint": restore}
    first, expected = trainer(tmp_path, tuned(bert_classifier(), update_interval=2), FishDipCallback(), **settings)
    first.train()
    resumed, found = trainer(tmp_path, tuned(bert_classifier(), update_interval=2), FishDipCallback(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert all(same(state, expected.steps[step]) for step, state in found.steps.items())
    assert list(found.steps) == [4, 5, 6]


def test_a_trainer_that_would_lose_the_callback_s_dataset_is_refused(tmp_path: Path) -> None:
    own = classifier_examples(7, seed=9)
    settings = {"save_strategy": "steps", "save_steps": 3, "restore_callback_states_from_checkpoint": True}
    first, _ = trainer(tmp_path, tuned(bert_classifier()), FishDipCallback(own, padded), **settings)
    first.train()
    resumed, _ = trainer(tmp_path, tuned(bert_classifier()), FishDipCallback(own, padded), **settings)
    with pytest.raises(
        ValueError, match="without the dataset and data_collator that the first one was given; leave it"
    ):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_the_best_model_at_the_end_has_its_mask_and_values(tmp_path: Path) -> None:
    model = tuned(bert_classifier(), update_interval=2)
    runner, recorder = trainer(
        tmp_path,
        model,
        FishDipCallback(),
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=2,
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # so that an early checkpoint is the best
        learning_rate=0.1,
    )
    runner.train()
    best = int(runner.state.best_model_checkpoint.rpartition("-")[2])
    assert same((model.base_model.mask(), model.base_model.delta()), recorder.steps[best])
    loaded = PeftModel.from_pretrained(bert_classifier(), runner.state.best_model_checkpoint)
    assert same((loaded.base_model.mask(), loaded.base_model.delta()), recorder.steps[best])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(classifier_examples(20))


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize("stream", [Stream, StreamWithLength])
def test_a_stream_asks_for_a_dataset_and_works_with_one(stream: Any, tmp_path: Path) -> None:
    runner, _ = trainer(tmp_path, tuned(bert_classifier()), FishDipCallback(), examples=stream(), max_steps=1)
    with pytest.raises(ValueError, match=r"training set .* give FishDipCallback\(dataset=\.\.\.\) the examples"):
        runner.train()
    callback = FishDipCallback(dataset=classifier_examples(5))
    runner, _ = trainer(tmp_path, tuned(bert_classifier()), callback, examples=stream(), max_steps=1)
    runner.train()
    assert len(callback.updates) == 1


def test_one_of_several_active_adapters_is_trained_on_top_of_the_others(tmp_path: Path) -> None:
    model = tuned(bert_classifier(), init_weights=False)
    model.add_adapter("second", FishDipConfig(density=0.02, update_interval=3, delta_scale="rms"))
    model.base_model.set_adapter(["default", "second"])
    model.base_model.set_requires_grad("default", False)
    runner, _ = trainer(tmp_path, model, FishDipCallback())
    runner.remove_callback(Recorder)
    with pytest.raises(ValueError, match="the active adapters are 'default', 'second'; name the one you mean"):
        runner.train()

    below = model.base_model.mask("default"), model.base_model.delta("default")
    callback = FishDipCallback(adapter_name="second")
    runner, _ = trainer(tmp_path, model, callback, save_strategy="steps", save_steps=2)
    runner.remove_callback(Recorder)
    runner.train()
    assert same((model.base_model.mask("default"), model.base_model.delta("default")), below)
    assert [update.step for update in callback.updates] == [0, 3]
    assert num_updates(model, "second") == 2
    assert flat_of(model, "second").abs().sum() > 0


def test_a_callback_that_the_trainer_makes_anew_does_as_the_first_one() -> None:
    callback = FishDipCallback(reuse_training_losses=True, adapter_name="default")
    anew = FishDipCallback.from_state(callback.state())
    assert anew.reuse_training_losses
    assert anew.adapter_name == "default"


def test_a_model_without_an_adapter_is_refused(tmp_path: Path) -> None:
    runner, _ = trainer(tmp_path, bert_classifier(), FishDipCallback())
    runner.remove_callback(Recorder)
    with pytest.raises(ValueError, match="no Fish-Dip adapter in BertForSequenceClassification; add one with"):
        runner.train()


def test_training_on_a_mask_that_no_example_scored_works_and_warns_once(tmp_path: Path) -> None:
    model = tuned(bert_classifier())
    runner, _ = trainer(tmp_path, model, max_steps=3)
    with pytest.warns(UserWarning, match=r"data-free random mask: no example has scored .* FishDipCallback") as caught:
        runner.train()
    assert len([warning for warning in caught if "data-free" in str(warning.message)]) == 1
    assert flat_of(model).abs().sum() > 0


def test_a_plain_loop_trains_and_learns() -> None:
    model, examples = tuned(tied_t5(), density=0.1, delta_scale="auto"), seq2seq_examples(6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)  # all parameters: frozen ones have no gradient
    losses = []
    for step in range(12):
        if step % 4 == 0:
            update = model.base_model.update_mask(examples, optimizer=optimizer)
            assert update.step == step // 4
            assert update.losses == tuple(sorted(update.losses, reverse=True))
        loss = model(**padded(examples)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(first > second for first, second in itertools.pairwise(losses[:3]))
