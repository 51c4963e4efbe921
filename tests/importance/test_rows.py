"""Whether the rows of a batch are its examples, and by what an example is known when it comes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peft_fishdip import FishDipCallback
from peft_fishdip import callback as callback_module
from peft_fishdip.importance.digests import keys
from peft_fishdip.importance.losses import Numbered, batch_size
from peft_fishdip.importance.rows import RowsError, rows, why_not_rows

from ..support.models import IMAGE, llava, padded, tuned
from ..support.training import Examples, trainer

IDS = torch.arange(3, 27).view(4, 6)


def features(count: int = 5) -> list[dict[str, Any]]:
    """Examples of which every second one has an image."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        ids = torch.randint(3, 40, (10,), generator=generator)
        if i % 2 == 0:
            ids[2:6] = IMAGE
        labels = ids.masked_fill(ids == IMAGE, -100)
        image = torch.randn(1, 3, 8, 8, generator=generator)
        found.append({"input_ids": ids, "labels": labels, "images": image[: int(i % 2 == 0)]})
    return found


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The images of all examples one after the other, as processors of vision-language models give them."""
    batch = {key: torch.stack([example[key] for example in examples]) for key in ("input_ids", "labels")}
    images = torch.cat([example["images"] for example in examples])
    return {**batch, "pixel_values": images} if len(images) else batch


def own_losses(examples: list[dict[str, Any]]) -> list[float]:
    """Of each example by itself, the sum over its targets, as the model's own loss gives it."""
    base = llava()
    targets = [int((example["labels"][1:] != -100).sum()) for example in examples]
    return [float(base(**collate([example])).loss.detach()) * n for example, n in zip(examples, targets, strict=True)]


@pytest.mark.parametrize("selection", ["highest_loss", "all"])
def test_examples_whose_batches_have_no_rows_are_collated_one_by_one(selection: str) -> None:
    examples = features()
    model = tuned(llava(), num_samples=3, sample_selection=selection)
    update = model.base_model.update_mask(examples, data_collator=collate)
    own = own_losses(examples)
    order = sorted(range(5), key=lambda i: -own[i])[: 5 if selection == "all" else 3]
    assert list(update.example_ids) == order
    assert update.losses == pytest.approx([own[i] for i in order], rel=1e-4)
    alone = tuned(llava(), num_samples=3, sample_selection=selection)
    alone.base_model.update_mask(examples, data_collator=collate, batch_size=1)
    masks = model.base_model.mask(), alone.base_model.mask()
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[1])


def test_a_callback_collates_them_one_by_one_in_a_trainer(tmp_path: Path) -> None:
    model = tuned(llava(), num_samples=2, update_interval=2)
    callback = FishDipCallback()
    run, _ = trainer(tmp_path, model, callback, Examples(features()), remove_unused_columns=False)
    run.data_collator = collate
    run.train()
    assert [update.step for update in callback.updates] == [0, 2, 4]
    own = own_losses(features())
    assert list(callback.updates[0].example_ids) == sorted(range(5), key=lambda i: -own[i])[:2]


def test_losses_of_training_that_cannot_be_reused_are_refused_by_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback_module, "FIRST_LOOK", 3)
    model = tuned(llava(), num_samples=2, update_interval=2)
    callback = FishDipCallback(reuse_training_losses=True)
    settings = {"remove_unused_columns": False, "per_device_train_batch_size": 4}
    run, _ = trainer(tmp_path, model, callback, Examples(features()), **settings)
    run.data_collator = collate
    with pytest.raises(ValueError, match=r"reuse_training_losses=True.*'pixel_values' has the shape.* leave it False"):
        run.train()


def test_ready_batches_without_rows_are_refused_with_the_remedy() -> None:
    model = tuned(llava(), num_samples=2)
    message = r"a batch of 3 examples cannot be split into them: 'pixel_values' has the shape \(2, 3, 8, 8\).*collates"
    with pytest.raises(ValueError, match=message):
        model.base_model.update_mask(iter([collate(features(3))]))
    assert model.base_model.last_update() is None
    model.base_model.update_mask(iter([collate([example]) for example in features(3)]))


def test_recorded_steps_without_rows_are_refused_with_the_remedy() -> None:
    model = tuned(llava(), num_samples=2)
    recent = model.base_model.recent_examples()
    model.train()(**collate(features(3)))
    message = "cannot be computed one by one: 'pixel_values' has the shape.* as update_mask.dataset"
    with pytest.raises(ValueError, match=message):
        model.base_model.update_mask(recent)


def test_ready_batches_whose_rows_depend_on_each_other_are_refused() -> None:
    """Here each row is compared with the first one of its batch."""

    def loss_fn(model: Any, batch: Any) -> Tensor:
        logits = model(input_ids=batch["input_ids"]).logits.mean((1, 2))
        return (logits - logits[:1]).square() + logits.square()

    model = tuned(llava(), num_samples=2)
    batch = {"input_ids": IDS, "places": torch.zeros(4, 2, 2)}
    with pytest.raises(ValueError, match=r"example \d has a loss of .* in its batch and of .* by itself"):
        model.base_model.update_mask(iter([batch]), loss_fn=lambda model, batch: 1e3 * loss_fn(model, batch))


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (torch.zeros(3, 5), r"'x' has the shape \(3, 5\)"),
        ({"a": torch.zeros(4, 5)}, "'x' is a dict"),
        ([torch.zeros(5)] * 4, "'x' is a list"),
        ((1, 2), "'x' is a tuple"),
    ],
)
def test_arguments_without_rows_are_told(argument: Any, reason: str) -> None:
    batch = {"input_ids": IDS, "x": argument}
    with pytest.raises(RowsError, match=reason):
        rows(Numbered([0, 1, 2, 3], batch), [1])
    assert rows(Numbered([7], batch), [0]).batch["x"] is argument  # a single example is whole


def test_arguments_with_rows_or_for_all_rows_are_cut_or_kept() -> None:
    shared = {"flag": True, "name": "a", "number": 3, "scalar": torch.tensor(2.0), "none": None, "dtype": torch.float}
    shared |= {"position_ids": torch.arange(6)[None], "cache_position": torch.arange(4)}
    batch = {**shared, "input_ids": IDS, "texts": ["a", "b", "c", "d"], "labels": torch.arange(4)}
    assert why_not_rows(batch, 4) is None
    assert batch_size(batch) == 4
    found = rows(Numbered([10, 11, 12, 13], batch), [2, 0])
    assert found.ids == [12, 10]
    assert all(found.batch[key] is value for key, value in shared.items())
    assert found.batch["input_ids"].tolist() == [IDS[2].tolist(), IDS[0].tolist()]
    assert found.batch["texts"] == ["c", "a"]
    assert found.batch["labels"].tolist() == [2, 0]


def test_the_number_of_rows_is_that_of_labels_or_tokens() -> None:
    places = torch.arange(6)[None]
    assert batch_size({"position_ids": places, "labels": torch.zeros(4), "input_ids": torch.zeros(2, 3)}) == 4
    assert batch_size({"position_ids": places, "input_ids": torch.zeros(2, 3)}) == 2
    assert batch_size({"x": torch.tensor(1.0), "pixel_values": torch.zeros(5, 3, 8, 8)}) == 5


def text_batch(left: int, right: int) -> dict[str, Tensor]:
    """One example of three tokens, padded on both sides, in a batch with a longer one."""
    width = left + 3 + right

    def place(values: list[Any], fill: Any) -> Tensor:
        return torch.tensor([[fill] * left + values + [fill] * right, [values[0]] * width])

    return {
        "input_ids": place([5, 6, 7], 0),
        "attention_mask": place([1, 1, 1], 0),
        "labels": place([-100, 6, 7], -100),
        "token_type_ids": place([0, 1, 1], 0),
        "position_ids": torch.arange(width).expand(2, -1),
        "bbox": place([[1, 2], [3, 4], [5, 6]], [0, 0]),
        "decoder_input_ids": place([1, 6, 7], 0),
        "decoder_attention_mask": place([1, 1, 1], 0),
        "pixel_values": torch.arange(24.0).view(2, 3, 2, 2),
    }


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (2, 4)])
def test_padding_does_not_make_another_example(left: int, right: int) -> None:
    assert keys(text_batch(left, right), 2)[0] == keys(text_batch(1, 1), 2)[0]


@pytest.mark.parametrize("name", ["input_ids", "labels", "token_type_ids", "bbox", "pixel_values", "decoder_input_ids"])
@pytest.mark.parametrize("count", [1, 2])
def test_every_argument_of_an_example_makes_another_one(name: str, count: int) -> None:
    first, second = (
        {key: value[:count].clone() for key, value in text_batch(1, 2).items()},
        {key: value[:count].clone() for key, value in text_batch(1, 2).items()},
    )
    second[name][0, 2] = 9
    found = keys(first, count), keys(second, count)
    assert found[0][0] != found[1][0]
    assert found[0][1:] == found[1][1:]


def test_images_of_a_single_example_tell_it_from_others() -> None:
    """They are not one row, however many images or parts there are."""
    batch = {"input_ids": IDS[:1], "labels": IDS[:1], "pixel_values": torch.zeros(5, 3)}
    other = {**batch, "pixel_values": torch.ones(5, 3)}
    assert keys(batch, 1) != keys(other, 1)


def test_texts_of_one_length_are_still_padded_alike() -> None:
    examples = [{"input_ids": [3, 4, 5], "labels": 0}, {"input_ids": [6, 7, 8, 9], "labels": 1}]
    assert keys(padded(examples), 2)[0] == keys(padded(examples[:1]), 1)[0]
