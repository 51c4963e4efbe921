"""What takes over from masks that update themselves, and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peft_fishdip import FishDipCallback

from ...support.models import (
    ANY_RATE,
    UNSCORED,
    bert_classifier,
    bert_tagger,
    classifier_examples,
    flat_of,
    llama,
    lm_examples,
    padded,
    random_scores,
    tagger_examples,
)
from ...support.training import trainer
from .loops import adamw, batches, driven, loop, mask_of, unlabelled_loss


def own_update(model: Any) -> None:
    model.base_model.update_mask(classifier_examples(5))


def own_mask(model: Any) -> None:
    model.base_model.set_mask(random_scores(model))


def own_record(model: Any) -> None:
    model.base_model.recent_examples()
    own_mask(model)


@pytest.mark.parametrize("takes_over", [own_update, own_mask, own_record])
def test_whoever_updates_the_mask_takes_over(takes_over: Any) -> None:
    model = driven(bert_classifier())
    takes_over(model)
    mask = mask_of(model)
    course = loop(model, batches(classifier_examples(10), 2, 6))
    assert all(found == mask for found in course.masks)
    assert course.values[0].any()
    model = driven(bert_classifier())
    loop(model, batches(classifier_examples(10), 2, 6))
    takes_over(model)
    mask = mask_of(model)
    assert all(found == mask for found in loop(model, batches(classifier_examples(10), 2, 6)).masks)


def test_a_callback_takes_over_and_nothing_is_updated_twice(tmp_path: Path) -> None:
    alone = driven(bert_classifier(), auto_update=False, update_interval=2)
    model = driven(bert_classifier(), update_interval=2)
    callbacks = [FishDipCallback(), FishDipCallback()]
    for one, callback, folder in zip((alone, model), callbacks, ("a", "b"), strict=True):
        trainer(tmp_path / folder, one, callback, learning_rate=1e-3)[0].train()
    assert [update.step for update in callbacks[1].updates] == [0, 2, 4]
    assert mask_of(model) == mask_of(alone)
    assert torch.equal(flat_of(model), flat_of(alone))


def in_turn(model: Any, names: list[str], steps: int) -> dict[str, list[Any]]:
    """Train adapters in turn, each on texts of one length, and tell the chosen examples' numbers and losses."""
    data = {name: torch.randint(3, 40, (4, 6 + 2 * i), generator=torch.manual_seed(i)) for i, name in enumerate(names)}
    vectors = [flat_of(model, name) for name in names]
    optimizer = torch.optim.AdamW(vectors, lr=1e-9)
    updates: dict[str, list[Any]] = {name: [] for name in names}
    model.train()
    for step in range(steps):
        name = names[step % len(names)]
        model.set_adapter(name)
        model(input_ids=data[name], labels=data[name]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        update = model.base_model.last_update(name)
        if update is not None and update not in updates[name]:
            updates[name].append(update)
    return updates


@pytest.mark.filterwarnings(ANY_RATE)
def test_adapters_that_are_trained_in_turn_hear_their_own_examples() -> None:
    """The oracle: each adapter trained alone on its texts. What the others are trained on is of another length."""
    config = {"update_interval": 2, "num_samples": 3}
    model = driven(llama(), **config)
    model.add_adapter("other", model.peft_config["default"])
    found = in_turn(model, ["default", "other"], 10)
    alone = in_turn(driven(llama(), **config), ["default"], 5)
    assert [update.step for update in found["default"]] == [0, 2, 4] == [update.step for update in found["other"]]
    for one, expected in zip(found["default"], alone["default"], strict=True):
        assert one.losses == pytest.approx(expected.losses, rel=1e-4)
    lengths = torch.tensor([update.losses for update in found["other"]]).mean() / found["default"][0].losses[0]
    assert lengths > 1.2  # sums over 7 tokens and over 5


@pytest.mark.filterwarnings(UNSCORED)
@pytest.mark.parametrize("explicit", [True, False])
def test_calls_of_the_disabled_adapter_are_not_heard(explicit: bool) -> None:
    model = driven(llama(), num_samples=4, auto_update=not explicit)
    recent = model.base_model.recent_examples() if explicit else None
    others, own = torch.full((3, 8), 30), torch.randint(3, 20, (2, 8))
    model.train()
    with model.disable_adapter():
        model(input_ids=others, labels=others)
    optimizer = adamw(model)
    model(input_ids=own, labels=own).loss.backward()
    with model.disable_adapter():
        model(input_ids=others, labels=others)
    update = model.base_model.update_mask(recent) if explicit else optimizer.step() or model.base_model.last_update()
    assert sorted(update.example_ids) == [0, 1]


def test_switched_off_nothing_is_updated() -> None:
    model = driven(bert_classifier(), auto_update=False)
    with pytest.warns(UserWarning, match="data-free random mask"):
        assert loop(model, batches(classifier_examples(4), 2, 2)).updates == []


def test_a_mask_that_nothing_can_choose_stays_with_a_warning() -> None:
    model = driven(bert_classifier())

    def never_finite(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return unlabelled_loss(model, batch) * float("nan")

    data = batches(classifier_examples(4), 2, 6)
    assert not loop(model, data[:4], loss=never_finite).values[-1].any()
    with pytest.warns(UserWarning, match=r"the mask of adapter 'default' stays as it is: 5 training steps .*set_mask"):
        loop(model, data[4:], torch.optim.SGD([flat_of(model)], lr=0.0), loss=never_finite)
    assert model.base_model.last_update() is None


def test_an_example_whose_loss_is_not_finite_is_left_out_with_a_warning() -> None:
    model = driven(bert_classifier(), num_samples=3)
    batch = padded(classifier_examples(4))
    model.train()

    def spoil(module: nn.Module, args: Any, output: Any) -> Any:
        logits = output.logits.clone()
        logits[2] = float("nan")
        output.logits = logits
        return output

    handle = model.base_model.model.register_forward_hook(spoil, prepend=True)
    optimizer = adamw(model)
    model(**batch).loss.backward()
    handle.remove()
    with pytest.warns(UserWarning, match="the losses of 1 examples were not finite in training"):
        optimizer.step()
    assert 2 not in model.base_model.last_update().example_ids


@pytest.mark.parametrize("selection", ["random", "all"])
def test_other_selections_choose_among_the_examples_of_training(selection: str) -> None:
    model = driven(bert_classifier(), sample_selection=selection, num_samples=3, update_interval=None)
    course = loop(model, batches(classifier_examples(10), 5, 3))
    assert course.steps == [0]
    assert len(course.updates[0].example_ids) == (5 if selection == "all" else 3)


def test_examples_without_a_target_are_not_chosen() -> None:
    examples = tagger_examples(4)
    examples[1]["labels"] = [-100] * len(examples[1]["labels"])
    model = driven(bert_tagger(), num_samples=4)
    course = loop(model, batches(examples, 4, 1))
    assert sorted(course.updates[0].example_ids) == [0, 2, 3]


@pytest.mark.parametrize("padding", [0, 3])
def test_packed_rows_are_split_where_positions_begin_anew(padding: int) -> None:
    """The oracle: the same examples in rows of their own."""
    examples = lm_examples(4)
    for example in examples:
        example["labels"][0] = -100
    tokens = [token for example in examples for token in example["input_ids"]]
    labels = [label for example in examples for label in example["labels"]]
    positions = [position for example in examples for position in range(len(example["input_ids"]))]
    row = {
        "input_ids": torch.tensor([tokens + [0] * padding]),
        "labels": torch.tensor([labels + [-100] * padding]),
        "position_ids": torch.tensor([positions + [0] * padding]),
    }
    model, apart = driven(llama(), num_samples=2), driven(llama(), num_samples=2, auto_update=False)
    (update,) = loop(model, [row]).updates
    expected = apart.base_model.update_mask(examples, data_collator=padded)
    assert update.example_ids == expected.example_ids
    assert update.losses == pytest.approx(expected.losses, rel=1e-4)
    assert mask_of(model) == mask_of(apart)
