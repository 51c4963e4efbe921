"""Masks chosen by the losses of training steps: which examples are kept, chosen and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peft_fishdip import FishDipCallback, callback
from peft_fishdip.importance.fisher import scoring_mode
from peft_fishdip.importance.losses import default_loss_fn
from peft_fishdip.importance.recent import RecentExamples

from ..support.models import FAMILIES, num_hooks, padded, tied_t5, tuned
from ..support.training import Examples, trainer


def listened(model: Any, examples: list[dict[str, Any]], size: int) -> RecentExamples:
    """A pass of training over the examples, with a learning rate of zero."""
    recent = model.base_model.recent_examples()
    model.train()
    for start in range(0, len(examples), size):
        model(**padded(examples[start : start + size]))
    return recent


@pytest.mark.parametrize("family", FAMILIES)
def test_recent_losses_choose_the_examples_that_a_scan_chooses(family: str) -> None:
    build, make = FAMILIES[family]
    updates = []
    for listening in (True, False):
        model, examples = tuned(build(), density=0.05, num_samples=4), make(10)
        source = listened(model, examples, 3) if listening else examples
        updates.append((model.base_model.update_mask(source), model.base_model.mask()))
    (heard, heard_mask), (scanned, scanned_mask) = updates
    assert heard.example_ids == scanned.example_ids
    assert heard.losses == pytest.approx(scanned.losses, rel=1e-4)
    same = sum(len(set(heard_mask[n].tolist()) & set(scanned_mask[n].tolist())) for n in heard_mask)
    assert same >= 0.99 * heard.num_active


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_of_steps_under_bfloat16_are_scored_under_it(family: str) -> None:
    build, make = FAMILIES[family]
    model, examples = tuned(build(), density=0.05, num_samples=4), make(10)
    with torch.autocast("cpu", torch.bfloat16):
        recent = listened(model, examples, 5)
    found = model.base_model.update_mask(recent)
    numbers = list(found.example_ids)
    base = build()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [default_loss_fn(base, "sum")(base, padded([examples[number]])).sum() for number in numbers]
    assert found.losses == pytest.approx([loss.item() for loss in losses], rel=1e-2)
    names = dict(base.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in names.items()}
    for loss in losses:
        for name, gradient in zip(names, torch.autograd.grad(loss, list(names.values())), strict=True):
            total[name] += gradient.float() ** 2
    threshold = torch.cat([x.flatten() for x in total.values()]).topk(found.num_active).values[-1]
    chosen = torch.cat([total[name].flatten()[positions] for name, positions in model.base_model.mask().items()])
    assert (chosen >= 0.8 * threshold).float().mean() > 0.95


def test_a_mask_that_is_chosen_within_autocast_is_that_of_steps_under_it() -> None:
    _, make = FAMILIES["gemma"]
    examples, chosen = make(10), []
    for recent in (False, True):
        model = tuned(FAMILIES["gemma"][0](), density=0.05, num_samples=4)
        with torch.autocast("cpu", torch.bfloat16):
            source = listened(model, examples, 5) if recent else examples
            update = model.base_model.update_mask(source)
        chosen.append((update.example_ids, update.losses))
    assert chosen[0][0] == chosen[1][0]
    assert chosen[0][1] == pytest.approx(chosen[1][1], rel=1e-2)
    float32 = tuned(FAMILIES["gemma"][0](), density=0.05, num_samples=4).base_model.update_mask(examples)
    assert float32.losses != chosen[0][1]


def test_scoring_within_autocast_sees_the_weights_of_its_time() -> None:
    """torch.autocast keeps casts of weights, and does not notice that deltas are written into them."""
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.randn(2, 4)

    def scored() -> torch.Tensor:
        with scoring_mode(layer, layer.parameters()), torch.no_grad():
            return layer(x)

    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        with torch.no_grad():
            layer.weight.data.mul_(2)
        first = scored()
        layer.weight.data.mul_(2)
        second, after = scored(), layer(x)
    layer.weight.data.div_(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first, layer(x))
    assert torch.equal(second, 2 * first)
    assert torch.equal(after, second)


def test_steps_under_float16_are_scored_in_float32() -> None:
    _, make = FAMILIES["t5"]
    examples, masks = make(6), []
    for autocast in (False, True):
        model = tuned(tied_t5(), density=0.05, num_samples=6)
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            recent = listened(model, examples, 3)
        model.base_model.update_mask(recent)
        masks.append(model.base_model.mask())
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_losses_are_those_of_each_example_and_only_the_highest_are_kept() -> None:
    _, make = FAMILIES["t5"]
    model, examples = tuned(tied_t5(), density=0.05, num_samples=3), make(8)
    recent = listened(model, examples, 4)
    recent.close()
    alone = default_loss_fn(model.base_model.model, "sum")
    losses = [alone(model.base_model.model, padded([example])).sum().item() for example in examples]
    assert recent.seen == 8
    assert len(recent) == 3
    expected = sorted(((loss, i) for i, loss in enumerate(losses)), reverse=True)[:3]
    heard = sorted(((loss, number) for loss, number, _ in recent.candidates()), reverse=True)
    assert [number for _, number in heard] == [i for _, i in expected]
    assert [loss for loss, _ in heard] == pytest.approx([loss for loss, _ in expected], rel=1e-5)


def test_a_share_of_samples_is_of_all_examples_seen() -> None:
    _, make = FAMILIES["t5"]
    model = tuned(tied_t5(), density=0.05, num_samples=0.5)
    recent = listened(model, make(12), 4)
    assert len(model.base_model.update_mask(recent).example_ids) == 6


def test_an_update_forgets_and_listening_goes_on_until_it_is_closed() -> None:
    _, make = FAMILIES["t5"]
    model, examples = tuned(tied_t5(), density=0.05), make(6)
    recent = listened(model, examples, 3)
    model.base_model.update_mask(recent)
    assert (recent.seen, len(recent)) == (0, 0)
    model(**padded(examples[:2]))
    assert recent.seen == 2
    model.eval()
    model(**padded(examples))
    model.train()
    model(
        **{key: value for key, value in padded(examples).items() if key != "labels"},
        decoder_input_ids=torch.ones(6, 2).long(),
    )
    model(**padded(examples), return_dict=False)
    assert recent.seen == 2
    recent.close()
    model(**padded(examples))
    assert recent.seen == 2


def test_recent_examples_that_cannot_be_chosen_from_are_refused() -> None:
    model = tuned(tied_t5(), density=0.05, sample_selection="random")
    with pytest.raises(ValueError, match="sample_selection='random' does not look at losses"):
        model.base_model.recent_examples()
    model = tuned(tied_t5(), density=0.05)
    recent = model.base_model.recent_examples()
    model.eval()
    model(**padded(FAMILIES["t5"][1](4)))
    with pytest.raises(ValueError, match=r"no training step has recorded losses .* call model\.train\(\)"):
        model.base_model.update_mask(recent)


def test_a_trainer_scans_once_and_then_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, make = FAMILIES["t5"]
    monkeypatch.setattr(callback, "FIRST_LOOK", 5)
    model = tuned(tied_t5(), density=0.05, update_interval=2)
    scanned: list[int] = []
    model.base_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: scanned.append(len(kwargs["input_ids"])) if not torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    before = num_hooks(model)
    listener = FishDipCallback(reuse_training_losses=True)
    run, _ = trainer(tmp_path, model, listener, Examples(make(12)))
    run.train()
    assert [update.step for update in listener.updates] == [0, 2, 4]
    assert sum(scanned) == 5
    assert num_hooks(model) == before
    assert [len(update.example_ids) for update in listener.updates] == [3, 3, 3]


def test_a_trainer_whose_steps_compute_no_losses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, make = FAMILIES["bert"]
    monkeypatch.setattr(callback, "FIRST_LOOK", 5)
    model = tuned(build(), density=0.05, update_interval=2)
    listener = FishDipCallback(reuse_training_losses=True)
    run, _ = trainer(tmp_path, model, listener, Examples(make(12)), label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="no training step has recorded losses"):
        run.train()
