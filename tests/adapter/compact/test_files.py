"""What compact files hold, and that every loader makes the same effective weights of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from peft_fishdip import FishDipConfig

from ...support.models import bert_classifier, classifier_examples, flat_of, gpt2, llama, padded, tied_t5, tuned
from ..loading.new_ways import NEW
from ..loading.test_models import Twice
from ..loading.trained import adapter_bits, assert_same_everything, everything, receiver, trained
from .saved import (
    TENSORS,
    assert_same_effective,
    classifier,
    config_of,
    effective_bits,
    finished,
    saved,
    tensors_of,
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
HALVES = DTYPES[:2]


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 3.1), (torch.float16, 3.1), (torch.float32, 5.1)])
def test_a_file_of_one_percent_takes_so_many_bytes_per_entry(dtype: torch.dtype, most: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(1024, 2048), nn.LayerNorm(2048), nn.Linear(2048, 512)).to(dtype)
    entries = int(0.01 * sum(parameter.numel() for parameter in base.parameters()))
    model = tuned(base, density=0.01, compact=True, init_weights=False).requires_grad_(False)
    saved(model, tmp_path)
    assert (tmp_path / TENSORS).stat().st_size / entries < most + 1500 / entries  # names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_half_precision_bases_are_their_effective_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    model = finished(lambda: classifier(dtype))
    saved(model, tmp_path)
    codes, values, half = tensors_of(tmp_path, "indices"), tensors_of(tmp_path, "values"), dtype in HALVES
    base = dict(classifier(dtype).named_parameters())
    for name, (positions, deltas) in model.base_model.delta().items():
        assert codes[name].dtype == torch.uint8
        short = str(values[name].dtype).removeprefix("torch.")
        assert config_of(tmp_path)["compact_storage"][name] == f"{codes[name].numel()} {short}"
        assert (values[name].dtype == dtype) == bool(half and positions.numel()) or not half
        if half:
            weights = (base[name].detach().flatten()[positions].float() + deltas).to(dtype)
            assert torch.equal(values[name].sort().values, weights.sort().values)
        else:
            assert torch.equal(values[name].sort().values, deltas.sort().values)
    assert all(tensor.dtype != torch.uint8 for tensor in model.state_dict().values())  # state dicts are as ever


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", NEW)
def test_every_way_to_load_a_new_adapter_gives_the_same_effective_weights(
    way: Any, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.adapter.loading.new_ways.bert_classifier", lambda: classifier(dtype))
    monkeypatch.setattr("tests.adapter.loading.new_ways.receiver", lambda: trained(lambda: classifier(dtype), first=50))
    model = finished(lambda: classifier(dtype))
    _, load = way(saved(model, tmp_path))
    loaded = load()
    name = "second" if "second" in way.__name__ else None
    assert_same_effective(loaded, model, name)
    batch = padded(classifier_examples(3))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("build", [tied_t5, gpt2, llama, Twice])
@pytest.mark.parametrize("density", [0.004, 0.2])
def test_tied_parameters_shared_modules_and_empty_tensors(build: Any, density: float, tmp_path: Path) -> None:
    model = finished(lambda: build().bfloat16(), density=max(density, 0.05) if build is Twice else density)
    assert (density > 0.1 or build is Twice) or any(not len(p) for p, _ in model.base_model.delta().values())
    saved(model, tmp_path)
    loaded = PeftModel.from_pretrained(build().bfloat16(), str(tmp_path))
    assert_same_effective(loaded, model)
    loaded.merge_adapter()
    model.merge_adapter()
    for (name, mine), its in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert "fishdip" in name or torch.equal(mine.view(torch.int16), its.view(torch.int16))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_was_loaded_saves_to_the_same_file(dtype: torch.dtype, tmp_path: Path) -> None:
    saved(finished(lambda: classifier(dtype)), tmp_path / "first")
    loaded = PeftModel.from_pretrained(classifier(dtype), str(tmp_path / "first"))
    saved(loaded, tmp_path / "second")
    assert (tmp_path / "first" / TENSORS).read_bytes() == (tmp_path / "second" / TENSORS).read_bytes()


def test_over_an_adapter_of_another_mask_and_from_tensors_in_memory(tmp_path: Path) -> None:
    model = finished()
    saved(model, tmp_path)
    other = trained(classifier, first=9, delta_scale="rms")
    vector = flat_of(other)
    other.load_adapter(str(tmp_path), "default")
    assert flat_of(other, "default") is vector
    assert_same_effective(other, model)
    tensors = load_file(tmp_path / TENSORS)
    for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        twin.base_model.set_mask({n: torch.rand_like(p.float()) for n, p in classifier().named_parameters()})
        set_peft_model_state_dict(twin, dict(tensors))
        assert_same_effective(twin, model)
    state = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        state[f"{path}.default.{leaf}"] = tensor
    third = trained(classifier, first=9, delta_scale="rms")
    third.load_state_dict(state, strict=False)
    assert_same_effective(third, model)
    fourth = trained(classifier, first=9, delta_scale="rms")
    set_peft_model_state_dict(fourth, get_peft_model_state_dict(model), ignore_mismatched_sizes=True)
    assert_same_effective(fourth, model)


def test_while_something_is_trained_all_values_stay_float32(tmp_path: Path) -> None:
    model = trained(classifier, compact=True)
    model.add_adapter("second", FishDipConfig(density=0.05, init_weights=False, compact=True, auto_update=False))
    assert not flat_of(model, "second").requires_grad
    saved(model, tmp_path)
    for folder, name in ((tmp_path, "default"), (tmp_path / "second", "second")):
        assert {tensor.dtype for tensor in tensors_of(folder, "values").values()} == {torch.float32}
        assert {tensor.dtype for tensor in tensors_of(folder, "indices").values()} == {torch.uint8}
        loaded = PeftModel.from_pretrained(classifier(), str(folder))
        assert_same_everything(adapter_bits(loaded.base_model), adapter_bits(model.base_model, name))
    model.requires_grad_(False)
    saved(model, tmp_path)
    assert torch.bfloat16 in {tensor.dtype for tensor in tensors_of(tmp_path / "second", "values").values()}


def test_without_the_option_files_are_as_ever(tmp_path: Path) -> None:
    model = finished(compact=False)
    saved(model, tmp_path)
    assert {tensor.dtype for tensor in tensors_of(tmp_path, "values").values()} == {torch.float32}
    assert {tensor.dtype for tensor in tensors_of(tmp_path, "indices").values()} == {torch.int32}
    assert config_of(tmp_path)["compact_storage"] is None
    model.peft_config["default"].compact = True
    saved(model, tmp_path)
    assert config_of(tmp_path)["compact_storage"]
    loaded = PeftModel.from_pretrained(classifier(), str(tmp_path))
    assert loaded.peft_config["default"].compact
    loaded.peft_config["default"].compact = False
    saved(loaded, tmp_path)
    assert config_of(tmp_path)["compact_storage"] is None
    assert_same_effective(PeftModel.from_pretrained(classifier(), str(tmp_path)), model)


class Small(nn.Module):
    """A bias of zeros, and a matrix."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8).to(dtype)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Any) -> Any:
        return self.linear(x)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float16, -1e-9),  # -0.0
        (torch.bfloat16, -1e-42),
        (torch.bfloat16, -0.0),
        (torch.float16, 1e5),  # inf
    ],
)
def test_where_effective_weights_would_not_come_back_that_tensor_stays_float32(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    model = tuned(Small(dtype), density=1.0, compact=True, delta_scale="none")
    with torch.no_grad():
        if value == 0:
            model.base_model.model.linear.base_layer.bias.fill_(-0.0)
        flat_of(model).fill_(0.25)
        flat_of(model)[-3:] = value
    model.requires_grad_(False)
    saved(model, tmp_path)
    kinds = {name: line.split()[1] for name, line in config_of(tmp_path)["compact_storage"].items()}
    assert kinds == {"linear.weight": str(dtype).removeprefix("torch."), "linear.bias": "float32"}
    base = Small(dtype)
    if value == 0:
        with torch.no_grad():
            base.linear.bias.fill_(-0.0)
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    assert_same_effective(loaded, model)
    bias = effective_bits(model)["linear.bias"].view(dtype)[-1]
    assert bias.isinf() if value > 1 else (bias == 0 and bias.signbit())
    kept = [adapter_bits(each.base_model)["linear.bias delta"] for each in (loaded, model)]
    assert torch.equal(*kept)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_values_that_nearly_cancel_the_base_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tuned(Small(dtype), density=1.0, compact=True, delta_scale="none")
    base = model.base_model.model.linear.base_layer.weight.detach().flatten().float()
    torch.manual_seed(1)
    with torch.no_grad():
        flat_of(model)[:64] = -base * (
            1 + torch.randn(64) * 2.0 ** -(torch.arange(64) / (2.5 if dtype == torch.bfloat16 else 5))
        )
    model.requires_grad_(False)
    saved(model, tmp_path)
    assert config_of(tmp_path)["compact_storage"]["linear.weight"].endswith(str(dtype).removeprefix("torch."))
    assert_same_effective(PeftModel.from_pretrained(Small(dtype), str(tmp_path)), model)


def test_a_plain_receiver_and_its_base_stay_what_they_were(tmp_path: Path) -> None:
    model = receiver()
    before = everything(model)
    model.peft_config["default"].compact = True
    saved(model, tmp_path)
    assert_same_everything(everything(model), before)
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path))
    assert_same_everything(adapter_bits(loaded.base_model), adapter_bits(model.base_model))
