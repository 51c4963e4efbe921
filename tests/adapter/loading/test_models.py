"""Models with modules at two places, parameters without entries, and values of another precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...support.models import gpt2, llama, tied_t5
from .damages import TENSORS
from .trained import assert_same_adapter, assert_same_everything, everything, receiver, trained


class Twice(nn.Module):
    """A module that stands at two places, and one whose weight is tied to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
        self.second = nn.ModuleDict({"again": self.first[0], "own": nn.Linear(6, 6)})
        self.third = nn.Linear(6, 6)
        self.third.weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second["own"](self.second["again"](self.first(x)).relu()))


@pytest.mark.parametrize("way", ["folder", "folder, low memory", "over", "state dict", "plain dict", "accelerate"])
def test_a_module_at_two_places_loads(way: str, tmp_path: Path) -> None:
    model, other = trained(Twice, density=0.2), trained(Twice, density=0.2, first=9)
    assert len([key for key in model.state_dict() if "fishdip_summary" in key]) == 2
    if way.startswith("folder"):
        model.save_pretrained(str(tmp_path))
        other = PeftModel.from_pretrained(Twice(), str(tmp_path), low_cpu_mem_usage="low" in way)
    elif way == "over":
        model.save_pretrained(str(tmp_path))
        other.load_adapter(str(tmp_path), "default")
    elif way == "accelerate":
        load_with_accelerate(model, other, tmp_path)
    else:
        state = model.state_dict()
        other.load_state_dict(state if way == "state dict" else dict(state))
    assert_same_adapter(other, model)
    x = torch.randn(3, 6)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("place", ["first.0.", "second.again."])
def test_a_damage_at_one_of_two_places_is_refused(place: str) -> None:
    model, other = trained(Twice, density=0.2), trained(Twice, density=0.2, first=9)
    state = model.state_dict()
    (key,) = [key for key in state if f"{place}fishdip_values" in key and key.endswith(".weight")]
    state[key][0] += 1.0
    before = everything(other)
    with pytest.raises(RuntimeError, match=r"SHA-256|is of a shared module"):
        other.load_state_dict(state)
    assert_same_everything(everything(other), before)


def load_with_accelerate(model: Any, other: Any, folder: Path) -> None:
    first, second = Accelerator(cpu=True), Accelerator(cpu=True)
    first.prepare(model)
    first.save_state(str(folder / "state"))
    second.prepare(other)
    second.load_state(str(folder / "state"))


@pytest.mark.parametrize("density", [0.002, 0.05])
@pytest.mark.parametrize("build", [tied_t5, gpt2, llama])
def test_accelerate_s_states_load_also_where_many_parameters_have_no_entry(
    build: Any, density: float, tmp_path: Path
) -> None:
    model, other = trained(build, density=density), trained(build, density=density, first=9)
    empty = sum(positions.numel() == 0 for positions, _ in model.base_model.delta().values())
    assert (empty > 3) == (density < 0.01)
    load_with_accelerate(model, other, tmp_path)
    assert_same_everything(everything(other), everything(model))


def test_an_adapter_without_the_tensors_of_parameters_that_have_no_entry_loads(tmp_path: Path) -> None:
    model = trained(llama, density=0.002)
    model.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / TENSORS)
    save_file({key: tensor for key, tensor in tensors.items() if tensor.numel()}, tmp_path / TENSORS)
    assert_same_adapter(PeftModel.from_pretrained(llama(), str(tmp_path)), model)
    inactive = next(  # a parameter without active entries, whose inactive ones are missing
        name
        for name, positions in model.base_model.mask().items()
        if not positions.numel() and model.base_model.delta()[name][0].numel()
    )
    path, _, leaf = inactive.rpartition(".")
    save_file(
        {
            key: tensor
            for key, tensor in tensors.items()
            if not (key.startswith(f"base_model.model.{path}.fishdip_") and key.endswith(f".{leaf}"))
        },
        tmp_path / TENSORS,
    )
    with pytest.raises(ValueError, match="SHA-256"):
        PeftModel.from_pretrained(llama(), str(tmp_path))


def test_what_was_cast_to_half_precision_loads_with_a_warning_and_keeps_its_mask(tmp_path: Path) -> None:
    model, other = trained(), receiver()
    state = {key: t.bfloat16() if "fishdip_values" in key else t for key, t in model.state_dict().items()}
    with pytest.warns(UserWarning, match="are not float32, as they were saved"):
        other.load_state_dict(state)
    for name, positions in model.base_model.mask().items():
        assert torch.equal(other.base_model.mask()[name], positions)
        for (p, v), (q, w) in zip(model.base_model.delta().values(), other.base_model.delta().values(), strict=True):
            assert torch.equal(p, q)
            assert torch.equal(v.bfloat16().float(), w)
