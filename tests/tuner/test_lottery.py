"""Lottery-ticket masks: the entries that full fine-tuning moves most, against plain dense training."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_fishdip import FishDipConfig, lottery_mask
from peft_fishdip.tuner import base_copy

from ..support.models import (
    FAMILIES,
    assert_base_is,
    base_bits,
    bert_classifier,
    bert_tagger,
    classifier_examples,
    flat_of,
    gpt2,
    snapshot,
    tagger_examples,
    tied_t5,
    train,
    tuned,
)


def trainer(examples: list[dict[str, Any]], steps: int = 3) -> Callable[[Any], None]:
    """A function that trains all parameters that want gradients."""

    def run(model: Any) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        train(model, examples, steps, torch.optim.AdamW(parameters, lr=1e-2))

    return run


def moved_by(base: nn.Module, run: Callable[[Any], None]) -> dict[str, Tensor]:
    """By how much training moves each parameter of a copy; tied parameters have their first name."""
    model = copy.deepcopy(base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run(model)
    return {name: (p.detach().float() - before[name].float()).abs() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
def test_the_mask_is_what_dense_training_moves_most(family: str, tmp_path: Path) -> None:
    make, examples = FAMILIES[family]
    run, base = trainer(examples()), make()
    moved, before = moved_by(base, run), snapshot(base)
    model = lottery_mask(base, run, 0.05, folder=tmp_path)
    mask = model.base_model.mask()
    every = torch.cat([change.flatten() for change in moved.values()])
    k = math.floor(0.05 * every.numel())
    assert list(mask) == list(moved)
    assert sum(map(len, mask.values())) == k == flat_of(model).numel()
    chosen = torch.cat([moved[name].flatten()[places] for name, places in mask.items()])
    assert torch.equal(chosen.sort(descending=True).values, every.topk(k).values)
    assert model.base_model.last_update().threshold == chosen.min().item()
    assert_base_is(model, before)
    assert not flat_of(model).any()
    assert all(len(places) == len(mask[name]) for name, (places, _) in model.base_model.delta().items())
    assert list(tmp_path.iterdir()) == []


def test_the_second_phase_trains_the_same_entries_and_nothing_else(tmp_path: Path) -> None:
    run = trainer(classifier_examples(), steps=4)
    model = lottery_mask(bert_classifier(), run, FishDipConfig(density=0.05, update_interval=1))
    mask, base = model.base_model.mask(), base_bits(model)
    run(model)
    assert all(torch.equal(places, mask[name]) for name, places in model.base_model.mask().items())
    assert flat_of(model).count_nonzero() > 0.9 * flat_of(model).numel()
    assert_base_is(model, base)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path), is_trainable=True)
    assert loaded.peft_config["default"].update_interval is None
    run(loaded)
    assert all(torch.equal(places, mask[name]) for name, places in loaded.base_model.mask().items())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_base_is_as_before_when_training_fails(error: type[BaseException], tmp_path: Path) -> None:
    base = bert_classifier()
    base.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    base.register_buffer("counted", torch.zeros(2))
    before = snapshot(base)
    flags = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    run = trainer(classifier_examples())

    def failing(model: Any) -> None:
        run(model)
        model.counted += 1
        model.requires_grad_(True)
        model.train()
        raise error("enough")

    with pytest.raises(error, match="enough"):
        lottery_mask(base, failing, 0.05, folder=tmp_path)
    assert all(torch.equal(bits, before[name]) for name, bits in snapshot(base).items())
    assert {name: parameter.requires_grad for name, parameter in base.named_parameters()} == flags
    assert not any(module.training for module in base.modules())
    assert all(parameter.grad is None for parameter in base.parameters())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_base_is_restored_leaves_it_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    base, real, calls = bert_classifier(), Tensor.copy_, []
    before = snapshot(base)

    def interrupted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    def run(model: Any) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        monkeypatch.setattr(Tensor, "copy_", interrupted)

    with pytest.raises(KeyboardInterrupt):
        lottery_mask(base, run)
    assert len(calls) > 5
    monkeypatch.undo()
    assert all(torch.equal(bits, before[name]) for name, bits in snapshot(base).items())


def test_buffers_and_a_dtype_that_training_changes_are_put_back() -> None:
    base = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).train()
    before = snapshot(base)

    def run(model: Any) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).square()[:, 1].sum().backward()
        optimizer.step()
        model.half()

    model = lottery_mask(base, run, FishDipConfig(density=0.1, target_modules=["0"]))
    assert_base_is(model, before)
    found = {name.replace(".base_layer", ""): tensor for name, tensor in model.base_model.model.state_dict().items()}
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), before[name])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_half_precision_is_compared_in_float32_and_restored_bitwise() -> None:
    base = bert_classifier().bfloat16()
    run, before = trainer(classifier_examples()), snapshot(base)
    moved = moved_by(base, run)
    model = lottery_mask(base, run, 0.02)
    assert_base_is(model, before)
    chosen = torch.cat([moved[name].flatten()[places] for name, places in model.base_model.mask().items()])
    every = torch.cat([change.flatten() for change in moved.values()])
    assert torch.equal(chosen.sort(descending=True).values, every.topk(len(chosen)).values)


def test_no_more_than_two_tensors_that_were_saved_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Any]] = []
    most, real = [0], base_copy.load_file

    def load_file(path: Path) -> dict[str, Tensor]:
        array = real(path)["tensor"].numpy().copy()
        seen.append(weakref.ref(array))
        most[0] = max(most[0], sum(reference() is not None for reference in seen))
        return {"tensor": torch.from_numpy(array)}  # its storage, and so each view of it, keeps the array

    monkeypatch.setattr(base_copy, "load_file", load_file)
    model = lottery_mask(bert_classifier(), trainer(classifier_examples()), 0.03)
    assert most[0] <= 2
    assert len(seen) > 4 * len(model.base_model.mask())


def test_a_tied_matrix_is_one_parameter_and_stays_tied() -> None:
    base = tied_t5()
    model = lottery_mask(base, trainer(FAMILIES["t5"][1]()), 0.05)
    assert "shared.weight" in model.base_model.mask()
    assert not any("lm_head" in name or "embed_tokens" in name for name in model.base_model.mask())
    assert base.lm_head.base_layer.weight is base.shared.base_layer.weight


def test_frozen_parameters_are_not_moved_and_not_chosen() -> None:
    base = gpt2()
    base.transformer.wte.weight.requires_grad_(False)
    model = lottery_mask(base, trainer(FAMILIES["gpt2"][1]()), 0.05)
    assert len(model.base_model.mask()["transformer.wte.weight"]) == 0


def test_a_new_classifier_starts_the_second_phase_from_its_first_values() -> None:
    base = bert_tagger()
    first = base.classifier.weight.detach().clone()
    seen = []

    def run(model: Any) -> None:
        trainer(tagger_examples())(model)
        seen.append(model.classifier.weight.detach().clone())

    model = lottery_mask(base, run, FishDipConfig(task_type="TOKEN_CLS", density=0.05))
    assert not torch.equal(seen[0], first)
    wrapper = model.base_model.model.classifier
    assert torch.equal(wrapper.modules_to_save["default"].weight, first)
    assert torch.equal(wrapper.original_module.weight, first)
    assert wrapper.modules_to_save["default"].weight.requires_grad
    assert not any("classifier" in name for name in model.base_model.mask())


def test_the_caller_s_config_is_unchanged_and_the_name_is_the_adapter_s() -> None:
    config = FishDipConfig(density=0.05, seed=3)
    model = lottery_mask(bert_classifier(), trainer(classifier_examples()), config, adapter_name="ticket")
    assert (config.update_interval, config.auto_update) == ("auto", True)
    assert list(model.peft_config) == ["ticket"]
    assert model.peft_config["ticket"].seed == 3


def nothing(model: Any) -> None:
    """Trains nothing."""


def diverging(model: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).view(-1)[7] = float("nan")


def resizing(model: Any) -> None:
    trainer(classifier_examples())(model)
    model.bert.embeddings.word_embeddings = nn.Embedding(50, 16)


def test_a_module_that_training_takes_out_is_named_and_the_others_are_restored() -> None:
    base = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    before = snapshot(base)

    def run(model: Any) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        model.train()
        model[1] = nn.Identity()

    with pytest.raises(ValueError, match=r"training replaced parts of the model, '1\.weight' among 5, .* load it anew"):
        lottery_mask(base, run, 0.1)
    assert all(torch.equal(found, before[name]) for name, found in snapshot(base).items())
    assert not base.training
    assert not vars(base[1]).keys() & {"running_mean", "running_var"}


@pytest.mark.parametrize(
    ("make", "run", "density", "message"),
    [
        (bert_classifier, nothing, 0.05, r"moved 0 of the targeted entries, and density=0\.05 needs \d+: train longer"),
        (bert_classifier, diverging, 0.05, "is not finite at flat position 7: training has diverged"),
        (bert_classifier, resizing, 0.05, "training replaced parts of the model, '.*word_embeddings.weight' am"),
        (bert_classifier, nothing, FishDipConfig(target_modules=r"none\..*"), "selects no parameter of BertForSeq"),
        (bert_classifier, nothing, 1e-9, "leaves none to train"),
        (lambda: tuned(bert_classifier()), nothing, 0.05, "this PeftModel has adapters: call it in place of"),
        (lambda: bert_classifier().requires_grad_(False), nothing, 0.05, "targeted parameters are frozen"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Callable[[], Any], run: Callable[[Any], None], density: Any, message: str
) -> None:
    base = make()
    with pytest.raises(ValueError, match=message):
        lottery_mask(base, run, density)
    if run in (nothing, diverging) and not isinstance(base, PeftModel):
        before = snapshot(make())
        assert all(torch.equal(bits, before[name]) for name, bits in snapshot(base).items())
