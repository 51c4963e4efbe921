"""Rows of several examples, and examples of several rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening

from peft_fishdip.importance.packing import segments

from ..support.models import llama, lm_examples, padded, text, tuned


def test_examples_begin_where_positions_do_and_padding_is_none() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [1, 1, 0, 1, 2, 3]])
    labels = torch.tensor([[-100, 5, 6, -100, 7, -100], [-100, -100, -100, 8, 9, 9]])
    found = segments({"position_ids": positions, "labels": labels})
    assert found == [(0, 0, 3), (0, 3, 5), (1, 2, 6)]  # a row with padding on the left
    assert segments({"position_ids": positions[1:], "labels": labels[1:]}) is None
    assert segments({"labels": labels}) is None
    assert segments({"position_ids": positions.expand(3, 2, 6), "labels": labels}) is None


def test_a_collator_that_flattens_gives_the_mask_of_one_that_pads() -> None:
    examples = lm_examples(6)
    for example in examples:
        example["labels"] = list(example["input_ids"])
    updates = []
    for collator in (padded, DataCollatorWithFlattening()):
        model = tuned(llama(), num_samples=3)
        update = model.base_model.update_mask(examples, data_collator=collator)
        updates.append((update.example_ids, update.losses, model.base_model.mask()))
    (padded_ids, padded_losses, mask), (ids, losses, flat_mask) = updates
    assert ids == padded_ids
    assert losses == pytest.approx(padded_losses, rel=1e-4)
    assert all(torch.equal(mask[name], flat_mask[name]) for name in mask)


def packed(examples: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for example in examples for token in example["input_ids"]],
        "labels": [label for example in examples for label in [-100, *example["labels"][1:]]],
        "position_ids": [place for example in examples for place in range(len(example["input_ids"]))],
    }


def test_ready_batches_of_packed_rows_are_split() -> None:
    examples = lm_examples(4)
    for example in examples:
        example["labels"][0] = -100
    rows = [{key: torch.tensor([value]) for key, value in packed(examples[i : i + 2]).items()} for i in (0, 2)]
    first, second = tuned(llama(), num_samples=2), tuned(llama(), num_samples=2)
    by_rows, by_examples = first.base_model.update_mask(iter(rows)), second.base_model.update_mask(examples)
    assert by_rows.example_ids == by_examples.example_ids
    assert all(torch.equal(positions, second.base_model.mask()[n]) for n, positions in first.base_model.mask().items())


def test_a_data_set_of_packed_rows_is_refused_with_the_remedy() -> None:
    examples = lm_examples(4)
    model = tuned(llama(), num_samples=1)
    with pytest.raises(ValueError, match=r"example 1 is a row of several packed examples .* before they are packed"):
        model.base_model.update_mask([packed(examples[:1]), packed(examples[1:])])


def test_packed_rows_that_say_not_where_are_refused() -> None:
    row = {"input_ids": torch.ones(1, 6).long(), "labels": torch.ones(1, 6).long()}
    with pytest.raises(ValueError, match=r"a batch has cu_seq_lens_q.*return position_ids too"):
        segments({**row, "cu_seq_lens_q": torch.tensor([0, 3, 6])})


def test_a_loss_that_compares_two_rows_of_an_example_scores_it() -> None:
    texts = text(12)
    pairs = [{"better": a[:3], "worse": b[:3]} for a, b in zip(texts[:6], texts[6:], strict=True)]

    def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([f[side] for side in ("better", "worse") for f in features])}

    def margin(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        better, worse = model(**batch).logits.log_softmax(-1).amax(-1).sum(1).chunk(2)
        return torch.nn.functional.softplus(worse - better)

    model = tuned(llama(), num_samples=2)
    update = model.base_model.update_mask(pairs, data_collator=collate, loss_fn=margin)
    plain = [float(margin(llama(), collate([pair])).detach()) for pair in pairs]
    assert list(update.example_ids) == sorted(range(len(pairs)), key=lambda i: -plain[i])[:2]
    with pytest.raises(ValueError, match=r"The data_collator makes 2 rows of 1 example"):
        model.base_model.update_mask(pairs, data_collator=collate, loss_fn=lambda m, b: m(**b).logits.mean((1, 2)))
