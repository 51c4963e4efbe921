"""The fingerprint of the base model: it tells another base, in words, and nothing else."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from peft_fishdip import FishDipConfig, FishDipLayer
from peft_fishdip.adapter.base_parameter import fingerprints
from peft_fishdip.fingerprint import CHUNK, TensorFingerprint, digest, sha256
from peft_fishdip.layers.layer import tuned_parameters

from ..support.models import bert_classifier, classifier_examples, llama, padded, randomise, snapshot, tied_t5, tuned

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter")
    model = tuned(bert_classifier(), init_weights=False)
    model.save_pretrained(str(path))
    return path


def lines(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((path / "adapter_config.json").read_text())["base_fingerprint"]
    return found


def with_changed(name: str, change: Callable[[Tensor], Any]) -> Any:
    model = bert_classifier()
    with torch.no_grad():
        change(dict(model.named_parameters())[name])
    return model


def test_the_fingerprint_has_dtype_shape_and_digests_of_each_targeted_parameter(saved: Path) -> None:
    found = lines(saved)
    base = dict(bert_classifier().named_parameters())
    assert found.keys() == base.keys()
    for name, tensor in base.items():
        read = TensorFingerprint.read(found[name])
        assert read.dtype == "float32"
        assert read.shape == "x".join(map(str, tensor.shape))
        assert read.line() == found[name]
    assert found[QUERY] == "float32 16x16 " + " ".join(found[QUERY].split()[2:])
    assert len({line.split()[2] for line in found.values() if "16x16" in line}) > 4  # random tensors differ


def test_the_same_base_loads_without_a_warning_also_strictly(saved: Path) -> None:
    PeftModel.from_pretrained(bert_classifier(), str(saved))  # warnings are errors
    PeftModel.from_pretrained(bert_classifier(), str(saved), strict=True)
    PeftModel.from_pretrained(bert_classifier(), str(saved), low_cpu_mem_usage=True)
    bert_classifier().load_adapter(str(saved))


@pytest.mark.parametrize("entry", [0, 77, 255])
def test_one_changed_entry_warns_once_with_the_name_of_its_tensor(entry: int, saved: Path) -> None:
    def change(tensor: Tensor) -> None:
        tensor.view(-1)[entry] = torch.nextafter(tensor.view(-1)[entry], torch.tensor(9.0))

    with pytest.warns(UserWarning, match="base model is not the one") as caught:
        model = PeftModel.from_pretrained(with_changed(QUERY, change), str(saved))
    [message] = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert f"1 of 41 targeted parameters differ: '{QUERY}' has other values. Its deltas" in message
    expected = tuned(bert_classifier(), init_weights=False).base_model.delta()
    assert all(torch.equal(values, expected[name][1]) for name, (_, values) in model.base_model.delta().items())


def test_strict_refuses_another_base_and_leaves_it_as_it_was(saved: Path) -> None:
    base = with_changed(QUERY, lambda tensor: tensor.add_(1))
    before = snapshot(base)
    with pytest.raises(ValueError, match=f"strict=True: the base model is not .* '{QUERY}' has other values"):
        PeftModel.from_pretrained(base, str(saved), strict=True)
    assert not any(isinstance(module, FishDipLayer) for module in base.modules())
    assert snapshot(base).keys() == before.keys()
    config = FishDipConfig.from_pretrained(str(saved), strict=True)
    assert config.strict
    fresh = with_changed(QUERY, lambda tensor: tensor.add_(1))
    with pytest.raises(ValueError, match="strict=True"):
        PeftModel.from_pretrained(fresh, str(saved), config=config)
    with pytest.raises(ValueError, match="strict=True"):
        fresh.load_adapter(peft_config=config, adapter_state_dict={})
    model = tuned(fresh)
    with pytest.raises(ValueError, match="strict=True"):
        model.add_adapter("second", config)
    assert list(model.peft_config) == ["default"]


def test_strict_is_not_saved(saved: Path, tmp_path: Path) -> None:
    PeftModel.from_pretrained(bert_classifier(), str(saved), strict=True).save_pretrained(str(tmp_path))
    assert "strict" not in json.loads((tmp_path / "adapter_config.json").read_text())
    assert not FishDipConfig.from_pretrained(str(tmp_path)).strict
    with pytest.raises(TypeError, match="strict='yes' must be True or False"):
        FishDipConfig(strict="yes")  # type: ignore[arg-type]


def test_where_all_values_differ_the_warning_counts_them_and_names_the_first(saved: Path) -> None:
    torch.manual_seed(9)
    other = type(bert_classifier())(bert_classifier().config)
    with pytest.warns(
        UserWarning, match=r"17 of 41 targeted parameters differ: '.*values; '.*values; '.*values; and 14 more\."
    ):
        PeftModel.from_pretrained(other, str(saved))


def test_another_shape_is_reported_as_a_shape() -> None:
    """Of the same number of entries, or K would differ."""
    torch.manual_seed(0)
    model = tuned(nn.Sequential(nn.Linear(4, 6, bias=False)), density=0.5)
    config = model.peft_config["default"]
    get_peft_model_state_dict(model)
    loaded = FishDipConfig.from_peft_type(**config.to_dict())
    with pytest.warns(UserWarning, match=r"'0\.weight' is 4x6 instead of 6x4"):
        get_peft_model(nn.Sequential(nn.Linear(6, 4, bias=False)), loaded)


@pytest.mark.parametrize("was", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("now", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_same_weights_in_another_dtype_are_recognised(was: torch.dtype, now: torch.dtype, tmp_path: Path) -> None:
    tuned(bert_classifier().to(was)).save_pretrained(str(tmp_path))
    PeftModel.from_pretrained(bert_classifier().to(was).to(now), str(tmp_path))  # warnings are errors
    if was is now:
        PeftModel.from_pretrained(bert_classifier().to(was), str(tmp_path), strict=True)
        return
    short = [str(dtype).removeprefix("torch.") for dtype in (now, was)]
    with pytest.raises(ValueError, match=f"is {short[0]} instead of {short[1]}, the same weights otherwise"):
        PeftModel.from_pretrained(bert_classifier().to(was).to(now), str(tmp_path), strict=True)


@pytest.mark.parametrize("now", [torch.float16, torch.bfloat16])
def test_other_weights_in_another_dtype_are_reported(now: torch.dtype, saved: Path) -> None:
    base = with_changed(QUERY, lambda tensor: tensor.mul_(1.05)).to(now)
    short = str(now).removeprefix("torch.")
    with pytest.warns(UserWarning, match=f"1 of 41 .*'{QUERY}' is {short} instead of float32, and has other values"):
        PeftModel.from_pretrained(base, str(saved))


def test_an_adapter_without_a_fingerprint_loads_silently_but_not_strictly(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "adapter_config.json").read_text())
    del config["base_fingerprint"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((saved / "adapter_model.safetensors").read_bytes())
    PeftModel.from_pretrained(with_changed(QUERY, lambda tensor: tensor.add_(1)), str(tmp_path))
    with pytest.raises(ValueError, match="strict=True: adapter 'default' was saved without a fingerprint"):
        PeftModel.from_pretrained(bert_classifier(), str(tmp_path), strict=True)
    get_peft_model(bert_classifier(), FishDipConfig(strict=True))  # nothing is loaded: nothing to compare


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ([], r"base_fingerprint=\[\] must map base parameters to text"),
        ({QUERY: 3}, rf"base_fingerprint\['{QUERY}'\]=3 is no fingerprint of a tensor"),
        ({QUERY: "float32 16x16 xyz"}, "='float32 16x16 xyz' is no fingerprint of a tensor"),
    ],
)
def test_a_damaged_fingerprint_is_refused(damage: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FishDipConfig(base_fingerprint=damage)


# ----- no false alarms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_saving_and_loading_beside_active_and_merged_adapters(merged: bool, saved: Path, tmp_path: Path) -> None:
    model = tuned(bert_classifier(), density=0.3, init_weights=False)
    if merged:
        model.merge_adapter()
    model.save_pretrained(str(tmp_path / "first"))  # computed while merged
    assert lines(tmp_path / "first") == lines(saved)
    strict = FishDipConfig.from_pretrained(str(saved), strict=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter cannot be set when the model is merged")
        model.add_adapter("strict", strict)
        model.load_adapter(str(saved), "strict")
        model.load_adapter(str(saved), "loaded")
    model.base_model.set_adapter(["default", "loaded"])
    assert torch.equal(model.base_model.delta("strict")[QUERY][1], model.base_model.delta("loaded")[QUERY][1])
    model.save_pretrained(str(tmp_path / "beside"))
    assert lines(tmp_path / "beside") == lines(tmp_path / "beside" / "loaded") == lines(saved)


def test_a_base_that_was_changed_by_merging_for_good_is_another_base(saved: Path, tmp_path: Path) -> None:
    model = tuned(bert_classifier(), density=0.3, init_weights=False)
    model.save_pretrained(str(tmp_path / "first"))  # the fingerprint is known from now on
    plain = model.merge_and_unload()
    with pytest.warns(UserWarning, match="targeted parameters differ"):
        second = PeftModel.from_pretrained(plain, str(saved))
    second.save_pretrained(str(tmp_path / "second"))
    merged = {name: line for name, line in lines(tmp_path / "second").items() if line != lines(saved)[name]}
    assert merged
    third = tuned(bert_classifier(), density=0.3, init_weights=False).merge_and_unload()
    PeftModel.from_pretrained(third, str(tmp_path / "second"), strict=True)


def test_a_base_that_is_trained_or_overwritten_gets_a_new_fingerprint(saved: Path, tmp_path: Path) -> None:
    model = tuned(bert_classifier())
    model.save_pretrained(str(tmp_path / "before"))
    with torch.no_grad():
        model.get_base_model().bert.encoder.layer[0].attention.self.query.base_layer.weight.mul_(2)
    model.save_pretrained(str(tmp_path / "after"))
    before, after = lines(tmp_path / "before"), lines(tmp_path / "after")
    assert before == lines(saved)
    assert [name for name in before if before[name] != after[name]] == [QUERY]
    model.to(torch.bfloat16).save_pretrained(str(tmp_path / "cast"))
    assert all(line.startswith("bfloat16") for line in lines(tmp_path / "cast").values())


def test_the_fingerprint_is_not_computed_again_while_the_base_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counting(flat: Tensor) -> str:
        hashed.append(flat.numel())
        return sha256(flat)

    monkeypatch.setattr("peft_fishdip.fingerprint.sha256", counting)
    model = tuned(bert_classifier())
    assert not hashed  # not before it is needed
    model.save_pretrained(str(tmp_path))
    assert hashed
    hashed.clear()
    model.base_model.update_mask(classifier_examples(4))
    model(**padded(classifier_examples(3))).loss.backward()
    model.merge_adapter()
    model.save_pretrained(str(tmp_path))
    model.unmerge_adapter()
    model.save_pretrained(str(tmp_path))
    assert not hashed
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path), is_trainable=True)
    assert hashed
    hashed.clear()
    loaded.save_pretrained(str(tmp_path / "again"))
    assert not hashed


def test_the_fingerprint_leaves_out_modules_that_are_trained_whole(tmp_path: Path) -> None:
    model = tuned(bert_classifier(), task_type="SEQ_CLS")
    with torch.no_grad():
        model.get_base_model().classifier.modules_to_save["default"].weight.add_(1)
    model.save_pretrained(str(tmp_path))
    assert not any("classifier" in name for name in lines(tmp_path))
    base = bert_classifier()
    with torch.no_grad():
        base.classifier.weight.normal_()  # a new head, as on every load of a pretrained encoder
    PeftModel.from_pretrained(base, str(tmp_path))


def test_a_base_on_the_meta_device_is_not_compared(saved: Path) -> None:
    with torch.device("meta"):
        base = type(bert_classifier())(bert_classifier().config)
    model = get_peft_model(base, FishDipConfig.from_pretrained(str(saved)))
    assert fingerprints(tuned_parameters(model, "default")) == {}
    with torch.device("meta"):
        base = type(bert_classifier())(bert_classifier().config)
    with pytest.raises(ValueError, match="41 cannot be compared"):
        get_peft_model(base, FishDipConfig.from_pretrained(str(saved), strict=True))


def test_embeddings_resized_alike_are_the_same(tmp_path: Path) -> None:
    def resized() -> Any:
        model = llama()
        torch.manual_seed(5)
        model.resize_token_embeddings(50, mean_resizing=False)
        return model

    tuned(resized(), init_weights=False).save_pretrained(str(tmp_path))
    PeftModel.from_pretrained(resized(), str(tmp_path), strict=True)
    with (
        pytest.warns(UserWarning, match="is 48x16 instead of 50x16"),
        pytest.raises(ValueError, match="for another model"),
    ):
        PeftModel.from_pretrained(llama(), str(tmp_path))


def test_a_tied_matrix_counts_once_and_a_sum_of_adapters_is_no_alarm(tmp_path: Path) -> None:
    model = tuned(tied_t5(), init_weights=False)
    model.save_pretrained(str(tmp_path))
    assert [name for name in lines(tmp_path) if "embed" in name or "lm_head" in name or "shared" in name] == [
        "shared.weight"
    ]
    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path), strict=True)
    loaded.load_adapter(str(tmp_path), "b")
    loaded.base_model.add_weighted_adapter(["default", "b"], [0.5, 0.5], "sum")


def test_strides_chunks_and_sign_of_zero() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(6, 5)
    assert sha256(tensor.t().contiguous().t().reshape(-1)) == sha256(tensor.reshape(-1))
    zeros = torch.zeros(CHUNK + 3)
    other = zeros.clone()
    other[-1] = -0.0
    assert sha256(zeros) != sha256(other)
    assert digest({"a": "1", "b": "2"}) == digest({"b": "2", "a": "1"}) != digest({"a": "2", "b": "1"})


def test_the_fingerprint_does_not_depend_on_masks_and_deltas(saved: Path, tmp_path: Path) -> None:
    model = tuned(bert_classifier(), seed=5)
    randomise(model)
    model.save_pretrained(str(tmp_path))
    assert lines(tmp_path) == lines(saved)
    assert re.fullmatch(r"[0-9a-f]{64}", digest(lines(saved)))
    PeftModel.from_pretrained(bert_classifier(), str(tmp_path), strict=True)
