"""Options of the Trainer that change losses, batches or dtypes, with FishDipCallback: against plain loops and each
other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from peft_fishdip import FishDipCallback

from ..support.models import (
    ANY_RATE,
    assert_base_is,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    seq2seq_examples,
    snapshot,
    tied_t5,
    tuned,
)
from ..support.training import Examples, Recorder, same, trainer

SMOOTHING = 0.2


def with_decoder_inputs(examples: Any) -> dict[str, Tensor]:
    """As DataCollatorForSeq2Seq(tokenizer, model) makes them; label smoothing takes the labels away from the model."""
    batch = padded(examples)
    return {**batch, "decoder_input_ids": tied_t5().prepare_decoder_input_ids_from_labels(batch["labels"])}


def seq2seq_trainer(path: Path, model: Any, callback: Any, metrics: Any = None, **arguments: Any) -> Any:
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "predict_with_generate": True,
        "generation_max_length": 8,
        **arguments,
    }
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(output_dir=str(path), **settings),
        train_dataset=Examples(seq2seq_examples(6)),
        eval_dataset=Examples(seq2seq_examples(4, seed=5)),
        data_collator=with_decoder_inputs,
        compute_metrics=metrics,
        callbacks=[callback, Recorder()],
    )


def close(a: tuple[Any, Any], b: tuple[Any, Any], rtol: float) -> None:
    """The same masks, and deltas that are equal but for rounding."""
    for name in a[0]:
        assert torch.equal(a[0][name], b[0][name]), name
        torch.testing.assert_close(a[1][name][1], b[1][name][1], rtol=rtol, atol=1e-6)


def mean_over_all(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """BERT's own loss is that of one batch, and the Trainer, which takes it to know better, does not divide it."""
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path: Path) -> None:
    found = {}
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = tuned(bert_classifier(), update_interval=2)
        callback = FishDipCallback()
        runner, recorder = trainer(
            tmp_path,
            model,
            callback,
            Examples(classifier_examples(16)),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=4,
            optim="sgd",
        )
        runner.compute_loss_func = mean_over_all
        runner.train()
        assert [update.step for update in callback.updates] == [0, 2]
        found[steps] = recorder.steps
    for steps in (2, 4):
        for step in range(1, 5):
            close(found[steps][step], found[1][step], rtol=1e-3)


def test_bf16_scores_and_trains_nearly_as_float32(tmp_path: Path) -> None:
    found, callbacks = {}, {}
    for bf16 in (False, True):
        base = bert_classifier()
        before = snapshot(base)
        model, callbacks[bf16] = tuned(base), FishDipCallback()
        runner, recorder = trainer(tmp_path, model, callbacks[bf16], bf16=bf16, max_steps=3, optim="sgd")
        runner.train()
        assert flat_of(model).dtype == torch.float32
        assert_base_is(model, before)
        found[bf16] = recorder.steps
    scanned = [callbacks[bf16].updates[0].losses for bf16 in (False, True)]
    assert scanned[1] == pytest.approx(scanned[0], rel=0.02)
    assert scanned[1] != scanned[0]
    close(found[True][1], found[False][1], rtol=0.3)
    assert not same(found[True][3], found[False][3])  # or nothing was computed in bfloat16
    exact, rounded = (torch.cat([values for _, values in found[bf16][3][1].values()]) for bf16 in (False, True))
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_label_smoothing_trains_on_the_smoothed_loss_and_scores_by_the_plain_one(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 10, "max_steps": 2, "optim": "sgd", "lr_scheduler_type": "constant"}
    model, callback = tuned(bert_classifier()), FishDipCallback()
    trainer(tmp_path, model, callback, label_smoothing_factor=SMOOTHING, **settings)[0].train()
    plain = tuned(bert_classifier())
    optimizer = torch.optim.SGD([flat_of(plain)], lr=0.02)
    update = plain.base_model.update_mask(classifier_examples(10), optimizer=optimizer)
    assert update.example_ids == callback.updates[0].example_ids
    batch = padded(classifier_examples(10))
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(plain(**batch).logits, batch["labels"], label_smoothing=SMOOTHING)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    a, b = ((m.base_model.mask(), m.base_model.delta()) for m in (model, plain))
    close(a, b, rtol=1e-3)
    unsmoothed = tuned(bert_classifier())
    trainer(tmp_path, unsmoothed, FishDipCallback(), **settings)[0].train()
    assert not torch.allclose(flat_of(unsmoothed), flat_of(model), rtol=1e-2)


def test_sequences_of_like_length_share_a_batch(tmp_path: Path) -> None:
    spread = {}
    for strategy in ("random", "group_by_length"):
        seen: list[int] = []

        def collate(examples: Any, seen: list[int] = seen) -> dict[str, Tensor]:
            lengths = [len(example["input_ids"]) for example in examples]
            seen.append(max(lengths) - min(lengths))
            return padded(examples)

        model, callback = tuned(bert_classifier(), update_interval=2), FishDipCallback(data_collator=padded)
        examples = Examples(classifier_examples(64))
        runner, _ = trainer(tmp_path, model, callback, examples, train_sampling_strategy=strategy)
        runner.data_collator = collate
        runner.train()
        assert [update.step for update in callback.updates] == [0, 2, 4]
        spread[strategy] = sum(seen) / len(seen)
    assert spread["group_by_length"] < 0.5 * spread["random"]


def exact_match(prediction: Any) -> dict[str, float]:
    labels = prediction.label_ids
    width = min(labels.shape[1], prediction.predictions.shape[1] - 1)
    return {"match": float((prediction.predictions[:, 1 : 1 + width] == labels[:, :width]).mean())}


@pytest.mark.filterwarnings(ANY_RATE)
def test_a_seq2seq_trainer_generates_with_the_adapter_and_ends_with_its_best(tmp_path: Path) -> None:
    model, callback = tuned(tied_t5(), update_interval=2, density=0.2, task_type="SEQ_2_SEQ_LM"), FishDipCallback()
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    runner = seq2seq_trainer(
        tmp_path,
        model,
        callback,
        exact_match,
        load_best_model_at_end=True,
        metric_for_best_model="match",
        greater_is_better=False,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        **steps,
    )
    runner.train()
    assert [update.step for update in callback.updates] == [0, 2, 4]
    best = str(runner.state.best_model_checkpoint)
    loaded = PeftModel.from_pretrained(tied_t5(), best)
    assert same(
        (model.base_model.mask(), model.base_model.delta()), (loaded.base_model.mask(), loaded.base_model.delta())
    )
    rows = [row for row in runner.state.log_history if "eval_match" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    batch = padded(seq2seq_examples(4, seed=5))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = loaded.eval().generate(**inputs, max_length=8)
    found = torch.from_numpy(runner.predict(Examples(seq2seq_examples(4, seed=5))).predictions)
    assert torch.equal(found[:, : expected.shape[1]], expected)
    merged = loaded.merge_and_unload()
    assert torch.equal(merged.generate(**inputs, max_length=8), expected)
    assert not torch.equal(tied_t5().generate(**inputs, max_length=8), expected)


# within an epoch, the Trainer itself does not find the batches of group_by_length again
@pytest.mark.parametrize(("saved_at", "strategy"), [(2, "group_by_length"), (3, "random")])
def test_a_resumed_seq2seq_run_goes_on_exactly_with_all_options(saved_at: int, strategy: str, tmp_path: Path) -> None:
    options = {
        "gradient_accumulation_steps": 2,
        "label_smoothing_factor": SMOOTHING,
        "bf16": True,
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": strategy,
        "max_steps": 4,
    }

    def recorder(runner: Any) -> Recorder:
        return next(callback for callback in runner.callback_handler.callbacks if isinstance(callback, Recorder))

    def model() -> Any:
        return tuned(tied_t5(), update_interval=2, density=0.1, delta_scale="rms", task_type="SEQ_2_SEQ_LM")

    saving = {"save_strategy": "steps", "save_steps": saved_at}
    whole = seq2seq_trainer(tmp_path, model(), FishDipCallback(), **options, **saving)
    whole.train()
    resumed = seq2seq_trainer(tmp_path, model(), FishDipCallback(), **options, **saving)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.load.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{saved_at}"))
    found, expected = recorder(resumed).steps, recorder(whole).steps
    assert list(found) == list(range(saved_at + 1, 5))
    assert all(same(state, expected[step]) for step, state in found.items())
