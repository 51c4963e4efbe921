"""Compact files that are damaged, or that are loaded onto a base they were not saved with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from peft_fishdip import FishDipConfig

from ...support.models import classifier_examples, padded, snapshot
from ..damaged.clean import assert_clean
from ..loading.trained import assert_same_everything, everything, trained
from .saved import CONFIG, TENSORS, assert_same_effective, classifier, config_of, finished, saved, tensors_of

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(finished(), tmp_path_factory.mktemp("good"))


def largest(tensors: Tensors, kind: str) -> str:
    return max((key for key in tensors if f"fishdip_{kind}." in key), key=lambda key: (tensors[key].numel(), key))


def values_key(tensors: Tensors) -> str:
    return largest(tensors, "indices").replace("indices", "values")


def set_byte(at: int, value: int) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[largest(tensors, "indices")][at] = value

    return apply


def shorten(kind: str) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        key = largest(tensors, kind) if kind == "indices" else values_key(tensors)
        tensors[key] = tensors[key][:-1].clone()

    return apply


def set_value(value: float) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[values_key(tensors)][1] = value

    return apply


def unmark(tensors: Tensors) -> None:
    tensors[largest(tensors, "indices")][0] &= 127


def widen(tensors: Tensors) -> None:
    tensors[values_key(tensors)] = tensors[values_key(tensors)].float()


def matrix(kind: str) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        key = largest(tensors, kind) if kind == "indices" else values_key(tensors)
        tensors[key] = tensors[key][None]

    return apply


def next_value(tensors: Tensors) -> None:
    """The least change that there is."""
    tensors[values_key(tensors)].view(torch.int16)[0] ^= 1


DAMAGES: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "another k": (set_byte(0, 128 + 2), r"bytes are the gaps of \d+ positions, not of \d+"),
    "a large k": (set_byte(0, 127), r"the first of which is 127, cannot be the gaps of \d+ positions"),
    "other low bits": (set_byte(9, 255), "by their SHA-256|is outside of the parameter's"),
    "a code cut short": (shorten("indices"), r"are the gaps of \d+ positions, not of"),
    "a value short": (shorten("values"), r"are the gaps of \d+ positions, not of|cannot be the gaps"),
    "another value": (next_value, "by their SHA-256: the file is damaged; .* Or the base is another one"),
    "nan": (set_value(float("nan")), r"the value at position \d+ is nan"),
    "inf": (set_value(float("inf")), r"the value at position \d+ is inf"),
    "weights taken for deltas": (unmark, "by their SHA-256"),
    "weights in float32": (widen, "effective weights must be a vector of bfloat16 or float16, not torch.float32"),
    "a code with two axes": (matrix("indices"), r"the code of positions is of shape \(1, \d+\)"),
    "values with two axes": (matrix("values"), r"must be a vector of bfloat16 or float16, not torch.bfloat16 of shape"),
}


def damaged(good: Path, folder: Path, damage: Callable[[Tensors], None]) -> Path:
    shutil.copytree(good, folder, dirs_exist_ok=True)
    tensors = load_file(good / TENSORS)
    damage(tensors)
    save_file(tensors, folder / TENSORS)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_refused_and_nothing_changes(damage: str, good: Path, tmp_path: Path) -> None:
    apply, message = DAMAGES[damage]
    folder = damaged(good, tmp_path / "damaged", apply)
    base = classifier()
    before = snapshot(base)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, str(folder))
    assert_clean(base, before)
    model = trained(classifier, first=9)
    state = everything(model)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(str(folder), "default")
    assert_same_everything(everything(model), state)
    PeftModel.from_pretrained(base, str(good))


@pytest.mark.parametrize("changed", ["at an entry of the adapter", "elsewhere"])
def test_another_base_is_refused_by_its_fingerprint_or_by_the_checksum(
    changed: str, good: Path, tmp_path: Path
) -> None:
    def other_base() -> Any:
        made = classifier()
        with torch.no_grad():
            made.bert.pooler.dense.weight.view(-1)[place] += 1
        return made

    positions = finished().base_model.delta()["bert.pooler.dense.weight"][0].tolist()
    place = positions[3] if changed.startswith("at") else next(i for i in range(256) if i not in positions)
    base = other_base()
    before = snapshot(base)
    message = r"saved with compact=True, as effective .* 'bert\.pooler\.dense\.weight' has other values"
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, str(good))
    assert_clean(base, before)
    model = trained(other_base, first=9, delta_scale="rms")
    state = everything(model)
    if changed == "elsewhere":  # all that was saved is as it was
        set_peft_model_state_dict(model, load_file(good / TENSORS))
        return
    with pytest.raises(ValueError, match="Or the base is another one: with compact=True, the effective weights"):
        set_peft_model_state_dict(model, load_file(good / TENSORS))
    assert_same_everything(everything(model), state)


def test_the_base_in_a_wider_dtype_gets_the_same_effective_weights(good: Path) -> None:
    for dtype in (torch.float32, torch.float64):
        loaded = PeftModel.from_pretrained(classifier().to(dtype), str(good))
        loaded.merge_adapter()
        model = finished()
        model.merge_adapter()
        for name, found in loaded.named_parameters():
            if "fishdip" not in name:
                assert torch.equal(found.to(torch.bfloat16), model.get_parameter(name))


def test_a_base_without_plain_values_is_refused(good: Path) -> None:
    with torch.device("meta"):
        base = type(classifier())(classifier().config)
    with pytest.raises(ValueError, match=r"effective weights in torch\.bfloat16, since .* quantised, sharded"):
        PeftModel.from_pretrained(base, str(good))


def test_a_vector_in_half_precision_warns_that_weights_are_rounded(good: Path) -> None:
    with pytest.warns(UserWarning, match=r"values of adapter 'default' are rounded to torch\.bfloat16"):
        PeftModel.from_pretrained(classifier(), str(good), autocast_adapter_dtype=False)


def test_an_adapter_is_saved_beside_one_that_is_merged(good: Path, tmp_path: Path) -> None:
    model = trained(classifier, first=9, delta_scale="rms")
    model.load_adapter(str(good), "second")
    assert_same_effective(model, finished(), "second")
    model.requires_grad_(False)
    model.merge_adapter(["default"])
    model.save_pretrained(str(tmp_path), selected_adapters=["second"])
    assert (tmp_path / "second" / TENSORS).read_bytes() == (good / TENSORS).read_bytes()


STORAGES: list[tuple[Any, str]] = [
    ([7], r"compact_storage=\[7\] must map base parameters to text"),
    ({"a": 3}, r"compact_storage\['a'\]=3 must be a number of bytes and a dtype"),
    ({"a": "3 int8"}, r"compact_storage\['a'\]='3 int8' must be"),
    ({"a": "-3 float32"}, r"compact_storage\['a'\]='-3 float32' must be"),
]


@pytest.mark.parametrize(("storage", "message"), STORAGES)
def test_a_damaged_storage_is_refused(storage: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FishDipConfig(compact_storage=storage)


@pytest.mark.parametrize("line", ["999999999 bfloat16", "nobody"])
def test_a_storage_that_cannot_be_is_refused_before_memory_is_taken(line: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "changed")
    config = config_of(good)
    name = "nobody.weight" if line == "nobody" else next(iter(config["compact_storage"]))
    config["compact_storage"][name] = "3 float32" if line == "nobody" else line
    (tmp_path / "changed" / CONFIG).write_text(json.dumps(config))
    for load in (PeftModel.from_pretrained, lambda base, path: base.load_adapter(path)):
        with pytest.raises(ValueError, match=r"config is damaged: compact_storage\["):
            load(classifier(), str(tmp_path / "changed"))


def test_a_wrong_storage_that_transformers_allocates_by_is_not_taken_for_an_adapter(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "changed")
    config = config_of(good)
    name = max(config["compact_storage"], key=lambda name: tensors_of(good, "values")[name].numel())
    config["compact_storage"][name] = config["compact_storage"][name].replace("bfloat16", "float32")
    (tmp_path / "changed" / CONFIG).write_text(json.dumps(config))
    PeftModel.from_pretrained(classifier(), str(tmp_path / "changed"))  # tensors tell what they are
    base = classifier()
    with pytest.raises(ValueError, match=r"must be a vector of bfloat16 or float16, not torch\.float32"):
        base.load_adapter(str(tmp_path / "changed"))
    with torch.no_grad():
        batch = padded(classifier_examples(3))
        assert torch.equal(base(**batch).logits, classifier()(**batch).logits)
