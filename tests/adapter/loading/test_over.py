"""Every way of loading over an adapter takes the exact mask, and refuses what is damaged before anything changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from ...support.models import classifier_examples, padded
from .damages import DAMAGES, REFUSAL, TENSORS, Tensors, damaged_folder
from .trained import adapter_bits, assert_same_adapter, assert_same_everything, everything, receiver, trained


def load_over_the_same_name(model: Any, folder: Path, damage: Any) -> None:
    model.load_adapter(str(folder), "default", is_trainable=True)


def load_by_peft(model: Any, folder: Path, damage: Any) -> None:
    set_peft_model_state_dict(model, load_file(folder / TENSORS))


def whole_state(damage: Any, base: float = 0.0) -> Tensors:
    """The state dict of the good model, damaged; with `base` added to all base weights."""
    state = {key: tensor.clone() for key, tensor in trained().state_dict().items()}
    if damage is not None:
        damage(state)
        for key in state:
            if "fishdip" not in key and state[key].is_floating_point():
                state[key] += 1.0  # what must not reach the model
    return state


def load_strictly(model: Any, folder: Path, damage: Any) -> None:
    model.load_state_dict(whole_state(damage))


def load_not_strictly(model: Any, folder: Path, damage: Any) -> None:
    state = whole_state(damage)
    state = {key: tensor for key, tensor in state.items() if "fishdip" in key or "query" in key}
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert not any("fishdip" in key for key in found.missing_keys)


def load_from_torch_save(model: Any, folder: Path, damage: Any) -> None:
    state = trained().state_dict()  # with its _metadata
    if damage is not None:
        damage(state)
    torch.save(state, folder / "whole.pt")
    model.load_state_dict(torch.load(folder / "whole.pt", weights_only=True))


def load_from_safetensors(model: Any, folder: Path, damage: Any) -> None:
    save_file({key: tensor.contiguous() for key, tensor in whole_state(damage).items()}, folder / "whole.safetensors")
    model.load_state_dict(load_file(folder / "whole.safetensors"))


def load_by_assignment(model: Any, folder: Path, damage: Any) -> None:
    vector = model.base_model._state(None).flat
    model.load_state_dict(whole_state(damage), assign=True)
    assert model.base_model._state(None).flat is vector  # the optimizer's parameter


def load_into_the_wrapped_model(model: Any, folder: Path, damage: Any) -> None:
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in whole_state(damage).items()}
    model.base_model.model.load_state_dict(state)


def load_within_a_wrapper(model: Any, folder: Path, damage: Any) -> None:
    outer = nn.ModuleDict({"inner": model})
    outer.load_state_dict({f"inner.{key}": tensor for key, tensor in whole_state(damage).items()})


def load_by_accelerate(model: Any, folder: Path, damage: Any) -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(trained())
    accelerator.save_state(str(folder / "state"))
    if damage is not None:
        tensors = load_file(folder / "state" / "model.safetensors")
        damage(tensors)
        save_file(tensors, folder / "state" / "model.safetensors")
    other = Accelerator(cpu=True)
    other.prepare(model)
    other.load_state(str(folder / "state"))


OVER = [
    load_over_the_same_name,
    load_by_peft,
    load_strictly,
    load_not_strictly,
    load_from_torch_save,
    load_from_safetensors,
    load_by_assignment,
    load_into_the_wrapped_model,
    load_within_a_wrapper,
    load_by_accelerate,
]


@pytest.mark.parametrize("way", OVER)
def test_loading_over_an_adapter_takes_mask_deltas_and_number_of_updates(way: Any, good: Path, tmp_path: Path) -> None:
    model, expected = receiver(), trained()
    base = {key: tensor for key, tensor in everything(model).items() if "fishdip" not in key}
    way(model, damaged_folder(good, tmp_path, None), None)
    assert_same_everything(everything(model), everything(expected))
    assert_same_adapter(model, expected)
    assert_same_everything({key: tensor for key, tensor in everything(model).items() if key in base}, base)
    with torch.no_grad():
        batch = padded(classifier_examples(3))
        assert torch.equal(model(**batch).logits, expected.eval()(**batch).logits)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", OVER)
def test_what_is_damaged_is_refused_over_an_adapter_and_nothing_changes(
    way: Any, damage: Any, good: Path, tmp_path: Path
) -> None:
    model, batch = receiver(), padded(classifier_examples(3))
    before, adapter, config = everything(model), adapter_bits(model.base_model), model.peft_config["default"].to_dict()
    expected = model(**batch).logits
    with pytest.raises((ValueError, RuntimeError), match=REFUSAL):
        way(model, damaged_folder(good, tmp_path, damage), damage)
    assert_same_everything(everything(model), before)
    assert_same_everything(adapter_bits(model.base_model), adapter)
    assert torch.equal(model(**batch).logits, expected)
    assert model.peft_config["default"].to_dict() == config
    way(model, damaged_folder(good, tmp_path / "again", None), None)  # the next try
    assert_same_adapter(model, trained())
