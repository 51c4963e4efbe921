"""Masked LMs: the collator draws the targets, sometimes none, and never the same ones twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForMaskedLM

from ..support.models import base_parameters, bert_config, padded, text, tuned

MASK_TOKEN = 1


def masked_lm() -> Any:
    torch.manual_seed(2)
    return BertForMaskedLM(bert_config()).eval()


class Drawing:
    """A collator that masks at random, and keeps what it has made of each example. Those in `never` get no target."""

    def __init__(self, share: float = 0.4, never: tuple[int, ...] = ()) -> None:
        self.share, self.never = share, never
        self.made: dict[int, list[dict[str, Tensor]]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = padded([{"input_ids": f["input_ids"], "labels": f["input_ids"]} for f in features])
        drawn = torch.rand(batch["labels"].shape, generator=self.generator) < self.share
        drawn &= batch["attention_mask"].bool()
        for row, feature in enumerate(features):
            if feature["number"] in self.never:
                drawn[row] = False
            elif not drawn[row].any():
                drawn[row, 0] = True
        batch["labels"] = batch["labels"].masked_fill(~drawn, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(drawn, MASK_TOKEN)
        for row, feature in enumerate(features):
            self.made.setdefault(feature["number"], []).append(
                {key: value[row : row + 1] for key, value in batch.items()}
            )
        return batch


def examples(count: int = 10) -> list[dict[str, Any]]:
    return [{"input_ids": ids, "number": number} for number, ids in enumerate(text(count, low=3))]


def loss_of(model: Any, batch: dict[str, Tensor], mean: bool = False) -> Tensor:
    logits, labels = model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits, batch["labels"]
    targets = labels != -100
    picked = logits.log_softmax(-1)[targets].gather(1, labels[targets][:, None])
    return -(picked.mean() if mean else picked.sum())


@pytest.mark.parametrize("mean", [False, True])
def test_chosen_examples_are_scored_on_the_masking_that_their_loss_came_from(mean: bool) -> None:
    collator = Drawing(never=(3, 7))
    model = tuned(masked_lm(), num_samples=4, density=0.02, example_loss="mean" if mean else "sum")
    update = model.base_model.update_mask(examples(), data_collator=collator, batch_size=4)
    assert all(len(made) == 1 for made in collator.made.values())

    plain = masked_lm()
    losses = {n: float(loss_of(plain, made[0], mean).detach()) for n, made in collator.made.items() if n not in (3, 7)}
    highest = sorted(losses, key=lambda number: -losses[number])[:4]
    assert list(update.example_ids) == highest
    torch.testing.assert_close(torch.tensor(update.losses), torch.tensor([losses[number] for number in highest]))

    names = list(base_parameters(model))
    tensors = dict(plain.named_parameters())
    scores = {name: torch.zeros_like(tensors[name]) for name in names if name in tensors}
    for number in highest:
        plain.zero_grad()
        loss_of(plain, collator.made[number][0], mean).backward()
        for name, total in scores.items():
            total += tensors[name].grad.square()
    k = sum(len(positions) for positions in model.base_model.mask().values())
    threshold = torch.cat([total.flatten() for total in scores.values()]).topk(k).values[-1]
    for name, positions in model.base_model.mask().items():
        chosen = torch.zeros(scores[name].numel(), dtype=torch.bool)
        chosen[positions] = True
        close = torch.isclose(scores[name].flatten(), threshold, rtol=1e-3)
        assert torch.equal(chosen[~close], (scores[name].flatten() > threshold)[~close]), name


@pytest.mark.parametrize("selection", ["highest_loss", "random", "all"])
def test_examples_without_a_target_are_not_chosen_while_others_have_one(selection: str) -> None:
    never = tuple(range(2, 10))
    model = tuned(masked_lm(), num_samples=10 if selection == "random" else 4, sample_selection=selection)
    update = model.base_model.update_mask(examples(), data_collator=Drawing(never=never))
    assert sorted(update.example_ids) == [0, 1]
    assert all(loss > 0 for loss in update.losses)


def test_ready_batches_may_have_rows_without_a_target() -> None:
    collator, rows = Drawing(never=(0, 4)), examples(6)
    model = tuned(masked_lm(), num_samples=5, density=0.02)
    update = model.base_model.update_mask(iter([collator(rows[:3]), collator(rows[3:])]))
    assert sorted(update.example_ids) == [1, 2, 3, 5]


def test_an_error_says_so_if_no_example_has_a_target() -> None:
    model = tuned(masked_lm(), num_samples=4)
    before = model.base_model.mask()
    with pytest.raises(ValueError, match=r"no example has a target.*mlm_probability"):
        model.base_model.update_mask(examples(), data_collator=Drawing(never=tuple(range(10))))
    assert all(torch.equal(positions, before[name]) for name, positions in model.base_model.mask().items())


def test_collators_that_copy_the_tokens_are_called_again_in_groups() -> None:
    calls: list[int] = []

    def copying(features: list[dict[str, Any]]) -> dict[str, Tensor]:
        calls.append(len(features))
        return padded([{"input_ids": f["input_ids"], "labels": f["input_ids"]} for f in features])

    model = tuned(masked_lm(), num_samples=4)
    model.base_model.update_mask(examples(), data_collator=copying, batch_size=10)
    assert calls[0] == 10
    assert max(calls[1:]) > 1
