"""State dicts in parts: one with a part of an adapter is refused, one without adapters loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from .damages import TENSORS
from .trained import adapter_bits, assert_same_adapter, assert_same_everything, everything, receiver, trained


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("path", ["bert.encoder", "bert.encoder.layer.0", "classifier", "bert.pooler.dense"])
def test_a_part_of_an_adapter_is_refused_and_nothing_changes(path: str, strict: bool) -> None:
    model = receiver()
    part = model.base_model.model.get_submodule(path)
    state = trained().base_model.model.get_submodule(path).state_dict()
    for key in state:
        if "fishdip" not in key:
            state[key] = state[key] + 1.0
    before = everything(model)
    with pytest.raises(RuntimeError, match="the state dict has only a part of adapter 'default': no fishdip_"):
        part.load_state_dict(state, strict=strict)
    assert_same_everything(everything(model), before)


def test_a_part_within_a_container_is_refused() -> None:
    model = receiver()
    layer, other = (m.base_model.model.bert.pooler.dense for m in (model, trained()))
    before = everything(model)
    for name in ("fishdip_values", "fishdip_indices"):
        with pytest.raises(RuntimeError, match="only a part of adapter"):
            getattr(layer, name).load_state_dict(getattr(other, name).state_dict())
    assert_same_everything(everything(model), before)


def test_base_weights_alone_load_into_a_part() -> None:
    model = receiver()
    part = model.base_model.model.bert.encoder
    state = {key: tensor + 1.0 for key, tensor in part.state_dict().items() if "fishdip" not in key}
    adapter = adapter_bits(model.base_model)
    found = part.load_state_dict(state, strict=False)
    assert found.missing_keys
    assert all("fishdip" in key for key in found.missing_keys)
    assert all(torch.equal(part.state_dict()[key], tensor) for key, tensor in state.items())
    assert_same_everything(adapter_bits(model.base_model), adapter)
    with pytest.raises(RuntimeError, match="Missing key"):
        part.load_state_dict(state)


def test_one_damaged_adapter_of_two_keeps_the_other_out() -> None:
    def two(first: int) -> Any:
        model = trained(first=first)
        model.add_adapter("other", type(model.peft_config["default"])(density=0.03, init_weights=False, seed=first))
        return model

    model, state = two(0), two(9).state_dict()
    key = max(  # not the vector, which is never read
        (key for key in state if ".fishdip_values.other." in key and not key.endswith(".flat")),
        key=lambda key: state[key].numel(),
    )
    state[key][0] += 1.0
    before = everything(model)
    with pytest.raises(RuntimeError, match="SHA-256"):
        model.load_state_dict(state)
    assert_same_everything(everything(model), before)
    state[key][0] -= 1.0
    state[key] = two(9).state_dict()[key]
    model.load_state_dict(state)
    assert_same_everything(everything(model), everything(two(9)))


def test_what_peft_has_installed_is_installed_again_if_the_adapter_has_changed_since(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt between PEFT's check and its load, another mask, and then the same tensors once more."""
    model, tensors = receiver(), load_file(good / TENSORS)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "load_state_dict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_peft_model_state_dict(model, tensors)
    with torch.no_grad():
        model.base_model._state(None).flat.add_(1.0)
    state = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        state[f"{path}.default.{leaf}"] = tensor
    model.load_state_dict(state, strict=False)
    assert_same_adapter(model, trained())
