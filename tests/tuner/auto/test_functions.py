"""Masks that update themselves by an importance function: from losses, from a step's gradient, and from nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from peft_fishdip import ExampleGradients, FishDipCallback, register_importance
from peft_fishdip.layers.layer import layers_of

from ...support.models import bert_classifier, classifier_examples, flat_of, padded, scales_of
from ...support.reference import example_loss, global_top_k
from .loops import Mask, batches, driven, labelled_loss, loop, mask_of, overlap, unlabelled_loss

EXAMPLES = classifier_examples(10)


@pytest.fixture(autouse=True)
def no_names_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_fishdip.criteria.registry._registered", {})


def top(model: Any, scores: dict[str, Tensor]) -> Mask:
    chosen = global_top_k({name: scores[name] for name in mask_of(model)}, flat_of(model).numel())
    return {name: mask.flatten().nonzero().squeeze(1).tolist() for name, mask in chosen.items()}


def mean_gradients(base: nn.Module, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    base.zero_grad()
    example_loss(base, "bert", padded(examples)).mean().backward()
    return {name: p.grad for name, p in base.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", [labelled_loss, unlabelled_loss])
@pytest.mark.parametrize("importance", ["gradient", "gallop"])
def test_the_first_mask_is_that_of_the_mean_gradient(importance: str, loss: Callable[..., Tensor]) -> None:
    model = driven(bert_classifier(), importance=importance, num_samples=6)
    course = loop(model, batches(EXAMPLES, 6, 2), loss=loss)
    gradients, base = mean_gradients(bert_classifier(), EXAMPLES[:6]), bert_classifier()
    if importance == "gradient":
        expected = top(model, {name: tensor.abs() * scales_of(model)[name] for name, tensor in gradients.items()})
    else:
        weights = {name: p.detach() for name, p in base.named_parameters()}
        expected = top(model, {name: g.abs() / (weights[name].abs() + 1e-8) for name, g in gradients.items()})
    assert overlap(course.masks[0], expected) > 0.99
    assert course.steps == [0]
    assert len(course.updates[0].example_ids) == (6 if loss is labelled_loss else 0)


@pytest.mark.parametrize("loss", [labelled_loss, unlabelled_loss])
def test_a_function_without_examples_moves_the_mask_without_losses_or_dense_gradients(
    loss: Callable[..., Tensor],
) -> None:
    def loss_without_dense_gradients(model: Any, batch: dict[str, Tensor]) -> Tensor:
        found = loss(model, batch)
        assert not any(layer.wants_whole_gradients for layer in layers_of(model))
        return found

    model = driven(bert_classifier(), importance="magnitude", update_interval=2, delta_scale="rms")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.3)
    course = loop(model, batches(EXAMPLES, 2, 5), optimizer, loss=loss_without_dense_gradients)
    assert course.steps == [0, 2, 4]
    assert course.masks[0] == top(model, {name: p.detach().abs() for name, p in bert_classifier().named_parameters()})
    assert course.masks[1] != course.masks[2] != course.masks[4]  # training has changed the effective weights
    assert all(update.example_ids == () for update in course.updates)


def test_a_step_s_gradient_is_one_gradient_in_all_its_averages() -> None:
    seen: list[tuple[int, bool]] = []

    def function(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        mean = gradients.mean
        same = torch.equal(gradients.mean_square, mean**2) and torch.equal(gradients.mean_absolute, mean.abs())
        seen.append((gradients.count, same))
        return gradients.mean_square

    register_importance("all", function, needs=("mean", "mean_square", "mean_absolute"))
    model = driven(bert_classifier(), importance="all", delta_scale="none")
    course = loop(model, batches(EXAMPLES, 6, 1), loss=unlabelled_loss)
    assert set(seen) == {(0, True)}
    gradients = mean_gradients(bert_classifier(), EXAMPLES[:6])
    assert overlap(course.masks[0], top(model, {name: g.square() for name, g in gradients.items()})) > 0.99


@pytest.mark.parametrize(("importance", "examples"), [("gallop", 3), ("lift", 0)])
def test_the_callback_updates_by_functions(importance: str, examples: int, tmp_path: Any) -> None:
    model = driven(bert_classifier(), importance=importance, update_interval=2, num_samples=3)
    callback = FishDipCallback()
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(str(tmp_path), max_steps=3, learning_rate=1e-3, use_cpu=True, **quiet)
    Trainer(model, args, train_dataset=EXAMPLES, data_collator=padded, callbacks=[callback]).train()
    assert [update.step for update in callback.updates] == [0, 2]
    assert [len(update.example_ids) for update in callback.updates] == [examples, examples]
