"""Parameters that are copied or averaged without the mask: equal to the adapter they come from, or a warning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from peft import PeftModel
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim.swa_utils import AveragedModel

from peft_fishdip import FishDipConfig

from ..support.models import (
    UNSCORED,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    random_scores,
    randomise,
    tuned,
)

pytestmark = pytest.mark.filterwarnings(UNSCORED, "ignore:the learning rate:UserWarning")
BATCH = padded(classifier_examples(4))
COPIED = r"adapter 'ref' has values that no training gave it.*ref_model="


def trained(masks: int = 2, **settings: Any) -> tuple[Any, torch.optim.Optimizer]:
    model = tuned(bert_classifier(), **settings).train()
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.01)
    for seed in range(masks):
        model.base_model.set_mask(random_scores(model, seed), optimizer=optimizer)
        step(model, optimizer)
    return model, optimizer


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model(**BATCH).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(**BATCH).logits


class silently(warnings.catch_warnings):
    """Within, no warning is given."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("error")
        return entered


# ----- one adapter to another ---------------------------------------------------------------------------------------


def by_data(source: Tensor, target: Tensor) -> None:
    target.data.copy_(source.data)


def in_place(source: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


def by_setting_data(source: Tensor, target: Tensor) -> None:
    target.data = source.detach().clone()


@pytest.mark.parametrize("write", [by_data, in_place, by_setting_data])
def test_a_reference_policy_that_is_copied_by_parameter_is_warned_of_when_it_is_called(write: Any) -> None:
    model, _ = trained()
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in list(model.named_parameters()):
        if ".default." in name:
            write(parameter, model.get_parameter(name.replace(".default.", ".ref.")))
    with silently():
        logits(model)  # the policy itself
    model.set_adapter("ref")
    with pytest.warns(UserWarning, match=COPIED):
        logits(model)
    with silently():
        logits(model)  # once


def test_copies_with_positions_are_equal_and_silent(tmp_path: Path) -> None:
    model, _ = trained()
    expected = logits(model)
    model.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path), "ref")
    model.set_adapter("ref")
    with silently():
        assert torch.equal(logits(model), expected)
    fresh = tuned(bert_classifier(), seed=5)
    with silently():
        fresh.load_state_dict({k: v for k, v in model.state_dict().items() if ".ref." not in k})
        assert torch.equal(logits(fresh), expected)


def test_a_copy_on_the_same_mask_is_equal_and_silent() -> None:
    model = tuned(bert_classifier(), seed=3)
    model.add_adapter("ref", model.peft_config["default"])  # the same seed, so the same data-free mask
    randomise(model, adapter="default")
    by_data(flat_of(model, "default"), flat_of(model, "ref"))
    with silently():
        expected = logits(model)
        model.set_adapter("ref")
        assert torch.equal(logits(model), expected)


# ----- what requires gradients alone --------------------------------------------------------------------------------


def trainable(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_saving_only_what_requires_gradients_is_refused_or_warned_of() -> None:
    saved = trainable(trained()[0])
    fresh = tuned(bert_classifier())
    with pytest.raises(RuntimeError, match="only a part of adapter 'default'"):
        fresh.load_state_dict(saved, strict=False)
    for name, parameter in fresh.named_parameters():
        if name in saved:
            parameter.data.copy_(saved[name])
    with pytest.warns(UserWarning, match=r"'default' has values that no training gave it.*save_pretrained"):
        fresh.train()(**BATCH)


def test_going_back_to_values_from_before_a_change_of_mask_is_warned_of() -> None:
    model, optimizer = trained()
    best = trainable(model)
    logits(model)
    model.train()
    model.base_model.set_mask(random_scores(model, 7), optimizer=optimizer)
    step(model, optimizer)
    for name, parameter in model.named_parameters():
        if name in best:
            parameter.data.copy_(best[name])
    with pytest.warns(UserWarning, match=r"were not written by its optimizer, and its mask has changed"):
        logits(model)


# ----- averages ------------------------------------------------------------------------------------------------------


def averages(model: Any, optimizer: Any, masks: list[int | None], swap: Callable[[Tensor, Tensor], None]) -> None:
    """An exponential average of all parameters, swapped in for evaluation and out again."""
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    for seed in masks:
        model.train()
        if seed is not None:
            model.base_model.set_mask(random_scores(model, seed), optimizer=optimizer)
        step(model, optimizer)
        for name, parameter in model.named_parameters():
            shadow[name].lerp_(parameter.detach(), 0.5)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        swap(shadow[name], parameter)
    logits(model)
    for name, parameter in model.named_parameters():
        swap(own[name], parameter)
    model.train()
    step(model, optimizer)


@pytest.mark.parametrize("swap", [by_data, in_place])
def test_an_average_over_changes_of_mask_is_warned_of_when_it_is_evaluated(swap: Any) -> None:
    model, optimizer = trained()
    with pytest.warns(UserWarning, match=r"mixes entries of different masks.*Begin an average anew") as told:
        averages(model, optimizer, [None, 8, None], swap)
    assert len(told) == 1


def test_an_average_on_one_mask_is_silent() -> None:
    model = tuned(bert_classifier()).train()
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.01)
    with silently():
        model.base_model.set_mask(random_scores(model), optimizer=optimizer)
        averages(model, optimizer, [None, None, None], by_data)


@pytest.mark.parametrize("moves", [True, False])
def test_averages_of_torch(moves: bool) -> None:
    model, optimizer = trained()
    average = AveragedModel(model)
    for seed in (None, 9, None):
        if seed is not None and moves:
            model.base_model.set_mask(random_scores(model, seed), optimizer=optimizer)
        step(model.train(), optimizer)
        average.update_parameters(model)
    if moves:
        with pytest.warns(UserWarning, match=r"of a copy of the model, were written after the mask.*update_interval"):
            logits(average)
    else:
        with silently():
            logits(average)


def test_copies_that_train_on_their_own_are_silent() -> None:
    model, _ = trained()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.AdamW([flat_of(twin)], lr=0.01)
    with silently():
        model.base_model.set_mask(random_scores(model, 5))
        step(twin.train(), optimizer)
        logits(twin)
        twin.base_model.set_mask(random_scores(twin, 6), optimizer=optimizer)
        step(twin.train(), optimizer)
        logits(twin)
        step(twin.train(), optimizer)


def test_ordinary_training_evaluation_casts_loads_and_weighted_sums_are_silent(tmp_path: Path) -> None:
    model, optimizer = trained()
    with silently():
        for seed in (3, 4):
            logits(model)
            model.train().base_model.set_mask(random_scores(model, seed), optimizer=optimizer)
            logits(model)
            step(model.train(), optimizer)
            step(model, optimizer)
            with model.disable_adapter():
                logits(model)
        logits(model)
        model.save_pretrained(str(tmp_path))
        step(model.train(), optimizer)
        model.load_adapter(str(tmp_path), "default", is_trainable=True)
        logits(model)
        model.add_adapter("other", FishDipConfig(density=0.05, auto_update=False, delta_scale="none"))
        model.base_model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
        model.set_adapter("sum")
        logits(model)
        model.merge_adapter()
        logits(model)


# ----- torch.distributed.checkpoint ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_distributed_checkpoints_load_into_a_fresh_adapter_or_are_refused(tmp_path: Path) -> None:
    model, _ = trained(masks=1)
    dcp.save({"model": model.state_dict()}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    model.save_pretrained(str(tmp_path / "config"))

    fresh = tuned(bert_classifier())
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(CheckpointException, match="Size mismatch"):
        dcp.load({"model": fresh.state_dict()}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())

    sized = PeftModel.from_pretrained(bert_classifier(), str(tmp_path / "config"))  # the sizes, and other values
    randomise(sized, adapter="default")
    state = {"model": sized.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    sized.load_state_dict(state["model"])
    with silently():
        assert torch.equal(logits(sized), logits(model))
