"""Invariant 8: a file that is damaged is refused, and the base stays clean and usable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...support.models import bert_classifier, classifier_examples, padded, snapshot, tuned
from .clean import assert_clean

Tensors = dict[str, Tensor]


def key_of(tensors: Tensors, kind: str) -> str:
    """The key of one of the larger tensors."""
    return max(
        (key for key in tensors if f"fishdip_{kind}" in key),
        key=lambda key: (tensors[key].numel(), key),
    )


def change(kind: str, index: int, value: float) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[key_of(tensors, kind)][index] = value

    return apply


def cast(kind: str, dtype: torch.dtype) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[key_of(tensors, kind)] = tensors[key_of(tensors, kind)].to(dtype)

    return apply


def drop(kind: str) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        del tensors[key_of(tensors, kind)]

    return apply


def duplicate(tensors: Tensors) -> None:
    indices = tensors[key_of(tensors, "indices")]
    indices[1] = indices[0]


def swap(tensors: Tensors) -> None:
    indices = tensors[key_of(tensors, "indices")]
    indices[:2] = indices[:2].flip(0)


def shorten(tensors: Tensors) -> None:
    tensors[key_of(tensors, "values")] = tensors[key_of(tensors, "values")][:-1].clone()


def move(tensors: Tensors) -> None:
    """To the next position that is free."""
    indices = tensors[key_of(tensors, "indices")]
    taken = set(indices.tolist())
    at = next(i for i in range(indices.numel()) if int(indices[i]) + 1 not in taken)
    indices[at] += 1


def change_counts(by: int) -> Callable[[Tensors], None]:
    """Of the first parameter that has inactive entries."""

    def apply(tensors: Tensors) -> None:
        tensors[key_of(tensors, "summary")][4] += by

    return apply


def exchange_counts(tensors: Tensors) -> None:
    """So that K stays what it is."""
    summary = tensors[key_of(tensors, "summary")]
    counts = summary[4:-1]
    counts[counts.argmax()] -= 1
    counts[int((counts == counts.min()).nonzero()[0])] += 1


def shorten_summary(tensors: Tensors) -> None:
    key = key_of(tensors, "summary")
    tensors[key] = tensors[key][:-3].clone()


def thin(tensors: Tensors) -> None:
    for key, tensor in tensors.items():
        tensors[key] = tensor if "fishdip_summary" in key else tensor[: len(tensor) // 3].clone()


def stranger(tensors: Tensors) -> None:
    tensors["base_model.model.nowhere.fishdip_values.weight"] = torch.zeros(3)


def matrix(tensors: Tensors) -> None:
    key = key_of(tensors, "indices")
    tensors[key] = tensors[key].unsqueeze(0)


DAMAGES: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "out of range": (change("indices", -1, 10**6), r"position 1000000 is outside of the parameter's \d+ entries"),
    "negative": (change("indices", 0, -4), "position -4 is outside"),
    "duplicated": (duplicate, r"position \d+ occurs twice"),
    "not ascending": (swap, "positions are not ascending"),
    "float positions": (cast("indices", torch.float32), "positions must be a vector of int32, not torch.float32"),
    "matrix": (matrix, r"positions must be a vector of int32, not torch.int32 of shape \(1, \d+\)"),
    "integer values": (cast("values", torch.int32), "values must be floating point"),
    "nan": (change("values", 2, float("nan")), r"the value at position \d+ is nan"),
    "inf": (change("values", 0, float("-inf")), r"the value at position \d+ is -inf"),
    "unpaired positions": (drop("values"), "the adapter has no fishdip_values for 'bert"),
    "unpaired values": (drop("indices"), "the adapter has no fishdip_indices for 'bert"),
    "a value short": (shorten, r"one for each of the \d+ positions, not torch.float32 of shape"),
    "a third of it": (thin, "fewer entries than its counts of active ones say"),
    "another value": (change("values", 0, 0.123), "by their SHA-256"),
    "another position": (move, "by their SHA-256"),
    "no summary": (drop("summary"), "the adapter has no fishdip_summary, which holds its checksum"),
    "another digest": (change("summary", 0, 7), "by their SHA-256"),
    "an active entry more": (change_counts(1), r"the adapter has \d+ active entries where density=0\.05 of \d+"),
    "another number of updates": (change("summary", -1, 1), "by their SHA-256"),
    "a negative count": (change("summary", 4, -1), "fewer entries than its counts"),
    "counts exchanged": (exchange_counts, "not ascending|fewer entries|by their SHA-256"),
    "a short summary": (shorten_summary, r"summary is a torch.int64 of shape \(\d+,\), not int64 of \d+ entries"),
    "a summary of floats": (cast("summary", torch.float64), "summary is a torch.float64"),
    "nothing in it": (lambda tensors: tensors.clear(), "no fishdip_summary, which holds its checksum"),
    "unknown tensor": (stranger, r"nowhere\.fishdip_values\S* \(1 such\), unknown to this model"),
}


def damaged(good: Path, target: Path, damage: Callable[[Tensors], None]) -> str:
    tensors = load_file(good / "adapter_model.safetensors")
    damage(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    (target / "adapter_config.json").write_text((good / "adapter_config.json").read_text())
    return str(target)


@pytest.mark.parametrize(
    ("damage", "low_cpu_mem_usage"),
    [*((damage, False) for damage in DAMAGES), ("nan", True), ("negative", True), ("unpaired values", True)],
)
def test_a_damaged_file_is_refused_and_the_base_stays_clean(
    damage: str, low_cpu_mem_usage: bool, good: Path, tmp_path: Path
) -> None:
    apply, message = DAMAGES[damage]
    path = damaged(good, tmp_path, apply)
    base, batch = bert_classifier(), padded(classifier_examples(3))
    before = snapshot(base)
    with torch.no_grad():
        expected = base(**batch).logits
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(base, path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert_clean(base, before)
        assert torch.equal(base(**batch).logits, expected)
        loaded = PeftModel.from_pretrained(base, str(good))
        assert not torch.equal(loaded(**batch).logits, expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_second_adapter_leaves_the_first_one_alone(damage: str, good: Path, tmp_path: Path) -> None:
    apply, message = DAMAGES[damage]
    path, batch = damaged(good, tmp_path, apply), padded(classifier_examples(3))
    model = tuned(bert_classifier(), init_weights=False)
    keys = set(model.state_dict())
    expected = model(**batch).logits
    with pytest.raises(ValueError, match=message):
        model.load_adapter(path, "second")
    assert list(model.peft_config) == ["default"]
    assert set(model.state_dict()) == keys
    assert torch.equal(model(**batch).logits, expected)
    model.load_adapter(str(good), "second")
    model.set_adapter("second")
    assert not torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize(
    ("damage", "trained"),
    [*((damage, True) for damage in DAMAGES), ("nan", False), ("a third of it", False), ("unpaired values", False)],
)
def test_a_damaged_file_over_an_adapter_of_the_same_name_changes_nothing(
    damage: str, trained: bool, good: Path, tmp_path: Path
) -> None:
    apply, message = DAMAGES[damage]
    path, batch = damaged(good, tmp_path, apply), padded(classifier_examples(3))
    model = tuned(bert_classifier(), density=0.05, init_weights=not trained)
    if trained:
        model.base_model.update_mask(classifier_examples(3))
    expected, mask = model(**batch).logits, model.base_model.mask()
    with pytest.raises(ValueError, match=message):
        model.load_adapter(path, "default")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(model(**batch).logits, expected)
    assert all(torch.equal(found, mask[name]) for name, found in model.base_model.mask().items())


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_after_a_truncated_file_the_base_computes_as_before_and_the_next_try_works(
    size: int, good: Path, tmp_path: Path
) -> None:
    whole = (good / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(whole[:size])
    (tmp_path / "adapter_config.json").write_text((good / "adapter_config.json").read_text())
    base, batch = bert_classifier(), padded(classifier_examples(3))
    with torch.no_grad():
        expected = base(**batch).logits
        with pytest.raises(Exception, match=r"(?i)header|incomplete|deserializ|file"):
            PeftModel.from_pretrained(base, str(tmp_path))
        assert torch.equal(base(**batch).logits, expected)
        with pytest.warns(UserWarning, match="Already found a `peft_config`"):
            loaded = PeftModel.from_pretrained(base, str(good))
        fresh = PeftModel.from_pretrained(bert_classifier(), str(good))
        assert torch.equal(loaded(**batch).logits, fresh(**batch).logits)
        assert not torch.equal(loaded(**batch).logits, expected)
        assert list(loaded.peft_config) == ["default"]
        with pytest.raises(Exception, match=r"(?i)header|incomplete|deserializ|file"):
            loaded.load_adapter(str(tmp_path), "second")
        assert torch.equal(loaded(**batch).logits, fresh(**batch).logits)
        loaded.load_adapter(str(good), "second")
        loaded.set_adapter("second")
        assert torch.equal(loaded(**batch).logits, fresh(**batch).logits)
