"""A plain loop that knows nothing of Fish-Dip: when masks change, and that they are those of the paper's formulas."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from peft_fishdip.criteria import ExampleGradients
from peft_fishdip.layers.layer import layers_of

from ...support.models import (
    FAMILIES,
    bert_classifier,
    classifier_examples,
    enable_checkpointing,
    flat_of,
    num_hooks,
    padded,
    scales_of,
    tied_t5,
)
from ...support.reference import example_loss
from .loops import (
    adamw,
    batches,
    driven,
    fisher_mask,
    in_evaluation,
    labelled_loss,
    loop,
    mask_of,
    overlap,
    past_the_hooks,
    unlabelled_loss,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_mask_is_that_of_the_examples_with_the_highest_loss(family: str) -> None:
    build, make = FAMILIES[family]
    examples = make(6)
    model = driven(build())
    course = loop(model, batches(examples, 6, 1))
    losses = [float(example_loss(build(), family, padded([example])).detach()) for example in examples]
    highest = sorted(range(6), key=lambda i: -losses[i])[:2]
    (update,) = course.updates
    assert update.step == 0
    assert list(update.example_ids) == highest
    assert update.losses == pytest.approx([losses[i] for i in highest], rel=1e-4)
    expected = fisher_mask(model, build(), family, [examples[i] for i in highest])
    assert overlap(mask_of(model), expected) > 0.99


def test_the_first_step_trains_nothing_and_masks_move_at_the_interval() -> None:
    model = driven(bert_classifier())
    course = loop(model, batches(classifier_examples(10), 2, 10))
    assert course.steps == [0, 4, 8]
    assert not course.values[0].any()
    assert course.values[1].any()
    assert course.masks[0] == course.masks[3] != course.masks[4] == course.masks[7] != course.masks[8]
    assert [update.num_active for update in course.updates] == [flat_of(model).numel()] * 3


def test_a_training_that_ends_when_an_update_is_due_does_not_grow_by_it() -> None:
    model = driven(bert_classifier())
    course = loop(model, batches(classifier_examples(10), 2, 8))
    assert course.steps == [0, 4]


def test_only_the_last_examples_before_an_update_are_heard_and_each_once() -> None:
    model = driven(bert_classifier(), update_interval=3, num_samples=0.5)
    course = loop(model, batches(classifier_examples(4), 2, 4))
    assert len(set(course.updates[1].example_ids)) == len(course.updates[1].example_ids) == 3  # of 4 different ones


def test_examples_of_all_micro_batches_are_heard() -> None:
    model = driven(bert_classifier(), num_samples=6)
    course = loop(model, batches(classifier_examples(6), 2, 6), accumulate=3)
    assert sorted(course.updates[0].example_ids) == [0, 1, 2, 3, 4, 5]
    assert course.steps == [0]


def test_without_labels_the_mask_is_that_of_the_squared_gradient_of_a_step() -> None:
    examples = classifier_examples(10)
    model = driven(bert_classifier())
    course = loop(model, batches(examples, 2, 6), loss=unlabelled_loss, accumulate=1)
    assert course.steps == [0, 4]
    assert [update.example_ids for update in course.updates] == [(), ()]
    assert not course.values[0].any()
    base = bert_classifier()
    labelled_loss(base, padded(examples[:2])).backward()
    gradients = {name: parameter.grad for name, parameter in base.named_parameters()}
    for name, positions in course.masks[0].items():
        assert not positions or gradients[name].flatten()[positions].abs().min() > 0
    again = driven(bert_classifier(), auto_update=False)
    again.base_model.set_mask({name: (scales_of(again)[name] * gradients[name]).square() for name in scales_of(again)})
    assert overlap(course.masks[0], mask_of(again)) > 0.99


@pytest.mark.parametrize("loss", [past_the_hooks, in_evaluation])
def test_of_calls_that_are_not_heard_the_second_step_tells(loss: Any) -> None:
    examples = classifier_examples(10)
    model, apart = driven(bert_classifier()), driven(bert_classifier())
    course = loop(model, batches(examples, 2, 6), loss=loss)
    assert course.steps == [1, 4]
    assert [update.example_ids for update in course.updates] == [(), ()]
    assert not course.values[1].any()
    assert course.values[2].any()
    assert overlap(course.masks[1], loop(apart, batches(examples, 2, 2)[1:], loss=unlabelled_loss).masks[0]) > 0.99
    interval = driven(bert_classifier())
    loop(interval, batches(examples, 2, 4), loss=loss)
    assert not any(layer.wants_whole_gradients for layer in layers_of(interval))  # though an update is due
    for one in (copy.deepcopy(interval), interval):
        assert loop(one, batches(examples, 2, 1), loss=loss).steps == [0]  # of a new optimizer


def test_a_step_with_and_without_labels_leaves_no_gradients_behind() -> None:
    examples = classifier_examples(10)
    model = driven(bert_classifier())
    losses = iter([labelled_loss, unlabelled_loss] * 5)
    course = loop(model, batches(examples, 2, 10), loss=lambda *call: next(losses)(*call), accumulate=2)
    assert course.steps == [0, 4]
    assert not any(layer.wants_whole_gradients for layer in layers_of(model))


def test_losses_without_labels_train_like_those_with_labels() -> None:
    """The gradients of a step in which the mask is chosen by them are those of any other step."""
    examples = classifier_examples(8)
    models = [driven(bert_classifier(), update_interval=None) for _ in range(2)]
    loop(models[0], batches(examples, 8, 1), loss=unlabelled_loss)
    models[1].base_model.set_mask({n: torch.zeros(s.shape) for n, s in named(models[1]).items()} | chosen(models[0]))
    assert mask_of(models[0]) == mask_of(models[1])
    courses = [loop(model, batches(examples, 4, 4)) for model in models]
    assert torch.equal(courses[0].values[-1], courses[1].values[-1])


def named(model: Any) -> dict[str, torch.Tensor]:
    plain = dict(bert_classifier().named_parameters())
    return {name: plain[name] for name in model.base_model.mask()}


def chosen(model: Any) -> dict[str, torch.Tensor]:
    scores = {}
    for name, positions in model.base_model.mask().items():
        scores[name] = torch.zeros(named(model)[name].numel())
        scores[name][positions] = 1.0
        scores[name] = scores[name].view(named(model)[name].shape)
    return scores


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("loss", [labelled_loss, unlabelled_loss])
def test_gradient_checkpointing_changes_no_mask(reentrant: bool, loss: Any) -> None:
    courses = []
    for checkpointed in (False, True):
        model = driven(bert_classifier())
        if checkpointed:
            enable_checkpointing(model, {"use_reentrant": reentrant})
        courses.append(loop(model, batches(classifier_examples(10), 2, 6), loss=loss))
    assert courses[0].steps == courses[1].steps == [0, 4]
    assert courses[0].masks == courses[1].masks


def test_a_closure_within_the_step_is_heard() -> None:
    data = batches(classifier_examples(10), 2, 6)
    model, twin = driven(bert_classifier()), driven(bert_classifier())
    optimizer = adamw(model)
    model.train()
    for batch in data:

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            return loss

        assert optimizer.step(closure).requires_grad
    course = loop(twin, data)
    assert mask_of(model) == course.masks[-1]
    assert torch.equal(flat_of(model), flat_of(twin))


def test_mixed_precision_with_a_scaler_that_overflows_first() -> None:
    model = driven(bert_classifier())
    optimizer = adamw(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=100)
    model.train()
    updates = []
    for batch in batches(classifier_examples(10), 2, 260):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss * 1000
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if model.base_model.last_update() not in updates:
            updates.append(model.base_model.last_update())
    assert [None if update is None else update.step for update in updates][:3] == [None, 0, 4]


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_drives_itself(way: Any) -> None:
    data = batches(classifier_examples(10), 2, 5)
    model = driven(bert_classifier())
    twin = way(model)
    course = loop(twin, data)
    assert course.steps == [0, 4]
    assert model.base_model.last_update() is None
    assert loop(model, data).masks == course.masks


def test_an_optimizer_of_something_else_and_evaluation_do_not_count() -> None:
    model = driven(bert_classifier())
    other = torch.nn.Linear(2, 2)
    elsewhere = torch.optim.SGD(other.parameters(), lr=0.1)
    batch = padded(classifier_examples(4))
    model.train()
    for _ in range(6):
        other(torch.ones(1, 2)).sum().backward()
        elsewhere.step()
        with torch.no_grad():
            model(**batch)
    model.eval()
    model(**batch)
    adamw(model).step()  # no gradient
    assert model.base_model.last_update() is None
    assert loop(model, [batch]).steps == [0]


def test_a_model_without_adapter_keeps_no_hook() -> None:
    base = tied_t5()
    before = num_hooks(base)
    model = driven(base)
    loop(model, batches(FAMILIES["t5"][1](6), 2, 2))
    assert num_hooks(base) > before
    model.add_adapter("other", type(model.peft_config["default"])(density=0.02))
    model.base_model.set_adapter("other")
    model.delete_adapter("default")
    model.base_model.set_adapter("other")
    assert loop(model, batches(FAMILIES["t5"][1](6), 2, 2)).steps == [0]
    assert num_hooks(model.unload()) == before


def test_two_adapters_each_drive_their_own_mask() -> None:
    model = driven(bert_classifier())
    model.add_adapter("second", type(model.peft_config["default"])(density=0.02, update_interval=3, num_samples=2))
    data = batches(classifier_examples(10), 2, 5)
    loop(model, data)
    assert model.base_model.last_update("second") is None
    model.base_model.set_adapter(["default", "second"])
    first = model.base_model.mask("default")
    optimizer = adamw(model)
    model.train()
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.base_model.last_update("second").step == 3
    assert model.base_model.last_update("default").step == 4
    assert any(not torch.equal(first[name], now) for name, now in model.base_model.mask("default").items())


def test_adapters_that_one_optimizer_trains_update_in_the_order_they_were_added() -> None:
    """Updates of several processes gather their results one after the other, so all must have one order."""
    names, order = [f"adapter{number}" for number in range(7)], list[str]()

    def function_of(name: str) -> Any:
        def function(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
            order.append(name)
            return gradients.mean.abs()

        return function

    model = driven(bert_classifier(), importance=function_of("default"), target_modules=["classifier"], density=0.2)
    for name in names:
        config = copy.copy(model.peft_config["default"])
        config.importance = function_of(name)
        model.add_adapter(name, config)
    model.base_model.set_adapter(["default", *names])
    optimizer = adamw(model)
    model.train()(**padded(classifier_examples(4))).loss.backward()
    optimizer.step()
    assert list(dict.fromkeys(order)) == ["default", *names]
