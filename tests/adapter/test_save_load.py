"""Checkpoints: their format, and every way of reading them back."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ..support.models import (
    FAMILIES,
    bert_classifier,
    bert_tagger,
    classifier_examples,
    flat_of,
    gpt2,
    ignoring_unscored_mask,
    padded,
    randomise,
    seq2seq_examples,
    tagger_examples,
    tied_t5,
    train,
    tuned,
)


def trained(family: str = "t5", **settings: Any) -> Any:
    """An adapter that has been through two masks, with inactive entries."""
    build, make = FAMILIES[family]
    model = tuned(build(), **settings)
    for start in (0, 3):
        model.base_model.update_mask(make(6)[start : start + 3])
        randomise(model, seed=start)
    return model


class Owner(nn.Module):
    """Owns two parameters, whatever they are called."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.parameters():
            x = x @ parameter
        return x


@pytest.mark.parametrize("names", [("flat", "flat_"), ("state", "deltas"), ("kind", "sha256")])
@pytest.mark.parametrize("first", [True, False], ids=["carrier", "other"])
@pytest.mark.parametrize("compact", [False, True])
def test_a_parameter_may_have_any_name(names: tuple[str, str], first: bool, compact: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(*([Owner(*names), nn.Linear(4, 4)] if first else [nn.Linear(4, 4), Owner(*names)]))
    other, third = copy.deepcopy(base), copy.deepcopy(base)
    model, x = tuned(base, density=0.5, init_weights=False, compact=compact), torch.randn(2, 4)
    with ignoring_unscored_mask():
        model(x).sum().backward()
    model.save_pretrained(str(tmp_path))
    assert torch.equal(PeftModel.from_pretrained(other, str(tmp_path))(x), model(x))
    again = tuned(third, density=0.5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def same_adapter(a: Any, b: Any, adapter: str | None = None) -> bool:
    first, second = a.base_model, b.base_model
    return all(torch.equal(m, second.mask(adapter)[n]) for n, m in first.mask().items()) and all(
        torch.equal(p, second.delta(adapter)[n][0]) and torch.equal(v, second.delta(adapter)[n][1])
        for n, (p, v) in first.delta().items()
    )


@pytest.mark.parametrize(("family", "dropped"), [*((family, "freeze") for family in FAMILIES), ("bert", "reset")])
def test_the_format_is_that_of_the_contract(family: str, dropped: str, tmp_path: Path) -> None:
    model = trained(family, dropped=dropped, density=0.02)
    model.save_pretrained(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    indices = {key: tensor for key, tensor in tensors.items() if ".fishdip_indices." in key}
    values = {key: tensor for key, tensor in tensors.items() if ".fishdip_values." in key}
    (summary,) = [key for key in tensors if ".fishdip_summary." in key]
    assert tensors[summary].dtype == torch.int64
    assert tensors[summary].shape == (4 + len(indices) + 1,)  # SHA-256, active counts, number of updates
    assert tensors[summary][-1] == 2
    assert len(indices) + len(values) + 1 == len(tensors)
    assert {key.replace("indices", "values") for key in indices} == set(values)
    mask, delta = model.base_model.mask(), model.base_model.delta()
    assert config["support_sizes"] == {name: positions.numel() for name, (positions, _) in delta.items()}
    assert not {"counts", "num_updates", "strict"} & config.keys()
    assert tensors[summary][4:-1].tolist() == [positions.numel() for positions in mask.values()]
    for name, active in mask.items():
        path, leaf = f"base_model.model.{name}".rsplit(".", 1)
        positions = indices[f"{path}.fishdip_indices.{leaf}"]
        saved = values[f"{path}.fishdip_values.{leaf}"]
        assert positions.dtype == torch.int32
        assert saved.dtype == torch.float32
        assert positions.shape == saved.shape
        assert torch.equal(positions[: active.numel()].long(), active)
        assert torch.equal(positions[active.numel() :], positions[active.numel() :].sort().values)
        order = positions.sort().indices
        assert torch.equal(positions[order].long(), delta[name][0])
        assert torch.equal(saved[order], delta[name][1])
    support = sum(positions.numel() for positions, _ in delta.values())
    assert (support > sum(positions.numel() for positions in mask.values())) == (dropped == "freeze")
    header = (tmp_path / "adapter_model.safetensors").stat().st_size - 8 * support
    assert 0 < header < 300 * len(tensors)  # eight bytes for each entry, and names


def test_what_is_saved_does_not_hang_on_the_delta_scale(tmp_path: Path) -> None:
    for scale in ("none", "rms"):
        model = tuned(tied_t5(), delta_scale=scale, density=0.02)
        parameters = dict(tied_t5().named_parameters())
        generator = torch.Generator().manual_seed(0)
        scores = {name: torch.rand(parameters[name].shape, generator=generator) for name in model.base_model.mask()}
        model.base_model.set_mask(scores)
        with torch.no_grad():  # the delta of one for every value tells its scale, entry by entry
            flat_of(model).fill_(1.0)
            scales = [
                values[torch.searchsorted(positions, active)]
                for (positions, values), active in zip(
                    model.base_model.delta().values(), model.base_model.mask().values(), strict=True
                )
            ]
            flat_of(model).copy_(torch.linspace(-1, 1, flat_of(model).numel()) / torch.cat(scales))
        model.save_pretrained(str(tmp_path / scale))
    none, rms = (load_file(tmp_path / scale / "adapter_model.safetensors") for scale in ("none", "rms"))
    assert none.keys() == rms.keys()
    assert all(torch.equal(none[key], rms[key]) for key in none)


LOADER = """
import sys, torch
sys.path.insert(0, {root!r})
import warnings; warnings.simplefilter("ignore")
from peft import PeftModel
import peft_fishdip
from tests.support.models import FAMILIES, padded
build, make = FAMILIES[{family!r}]
with torch.no_grad():
    model = PeftModel.from_pretrained(build(), {path!r})
    torch.save({{"logits": model(**padded(make(3))).logits, "mask": model.base_model.mask()}}, {path!r} + "/out.pt")
"""


@pytest.mark.parametrize("family", ["t5"])
def test_a_fresh_process_computes_the_same_bits(family: str, tmp_path: Path) -> None:
    model = trained(family, delta_scale="rms")
    model.save_pretrained(str(tmp_path))
    root = str(Path(__file__).parents[2])
    code = LOADER.format(root=root, family=family, path=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(found["logits"], model(**padded(FAMILIES[family][1](3))).logits)
    assert all(torch.equal(found["mask"][name], positions) for name, positions in model.base_model.mask().items())


@pytest.mark.parametrize(
    ("delta_scale", "is_trainable", "low_cpu_mem_usage"),
    [("none", False, False), ("rms", True, False), ("rms", False, True), ("none", True, True)],
)
def test_loading_restores_mask_values_and_training(
    delta_scale: str, is_trainable: bool, low_cpu_mem_usage: bool, tmp_path: Path
) -> None:
    model = trained("bert", delta_scale=delta_scale)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(
        bert_classifier(), str(tmp_path), is_trainable=is_trainable, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert same_adapter(model, loaded)
    assert torch.equal(flat_of(model), flat_of(loaded))
    assert flat_of(loaded).requires_grad == is_trainable
    assert not flat_of(loaded).is_meta
    if is_trainable:
        loaded(**padded(classifier_examples(3))).loss.backward()  # no warning of an unscored mask
        model(**padded(classifier_examples(3))).loss.backward()
        torch.testing.assert_close(flat_of(loaded).grad, flat_of(model).grad)
        loaded.save_pretrained(str(tmp_path / "again"))
        first, second = (load_file(p / "adapter_model.safetensors") for p in (tmp_path, tmp_path / "again"))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_loading_over_an_adapter_of_the_same_name_takes_its_mask(tmp_path: Path) -> None:
    model = trained("bert")
    model.save_pretrained(str(tmp_path))
    fresh = tuned(bert_classifier())
    vector = flat_of(fresh)
    fresh.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert flat_of(fresh) is vector  # the optimizer's parameter
    assert same_adapter(model, fresh, "default")
    fresh.load_adapter(str(tmp_path), "with its config")
    assert same_adapter(model, fresh, "with its config")


@pytest.mark.parametrize("way", ["memory", "file", "bytes without metadata"])
def test_a_raw_state_dict_carries_mask_and_values_to_another_mask(way: str, tmp_path: Path) -> None:
    model, other = trained("bert", delta_scale="rms"), tuned(bert_classifier(), seed=9, delta_scale="rms")
    state_dict = model.state_dict()
    if way == "file":
        torch.save(state_dict, tmp_path / "state.pt")
        state_dict = torch.load(tmp_path / "state.pt", weights_only=True)
    elif way == "bytes without metadata":
        buffer = io.BytesIO()
        torch.save(dict(state_dict), buffer)
        buffer.seek(0)
        state_dict = torch.load(buffer, weights_only=True)
    other.load_state_dict(state_dict)
    assert same_adapter(model, other)
    batch = padded(classifier_examples(3))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, other(**batch).logits)


def test_a_state_dict_is_a_snapshot_that_later_training_and_updates_do_not_reach() -> None:
    model = trained("bert")
    state_dict, mask, delta = model.state_dict(), model.base_model.mask(), model.base_model.delta()
    model.base_model.update_mask(classifier_examples(9)[6:])
    randomise(model, seed=7)
    model.load_state_dict(state_dict)
    assert all(torch.equal(model.base_model.mask()[name], positions) for name, positions in mask.items())
    assert all(torch.equal(model.base_model.delta()[name][1], values) for name, (_, values) in delta.items())


def test_a_state_dict_of_another_density_is_refused_and_changes_nothing() -> None:
    model, other = trained("bert"), tuned(bert_classifier(), density=0.1, init_weights=False)
    delta = other.base_model.delta()
    with pytest.raises(RuntimeError, match=r"active entries where density=0\.1 of \d+ parameters makes"):
        other.load_state_dict(model.state_dict())
    assert all(torch.equal(other.base_model.delta()[name][1], values) for name, (_, values) in delta.items())


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
def test_copies_of_a_trained_model_are_whole_and_independent(family: str, way: Any) -> None:
    build, make = FAMILIES[family]
    model, batch = trained(family), padded(make(3))
    model(**batch).loss.backward()
    twin = way(model)
    assert same_adapter(model, twin)
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(twin(**batch).logits, expected)
    optimizer = torch.optim.AdamW([flat_of(twin)], lr=0.02)
    twin.base_model.update_mask(make(9)[6:], optimizer=optimizer)
    twin(**batch).loss.backward()
    optimizer.step()
    assert not same_adapter(model, twin)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected)
        assert not torch.equal(twin(**batch).logits, expected)
        assert torch.equal(twin.unload()(**batch).logits, build()(**batch).logits)


def test_a_merged_model_s_copy_unmerges_to_the_base() -> None:
    model = trained("bert")
    model.merge_adapter()
    twin = copy.deepcopy(model)
    twin.unmerge_adapter()
    expected = dict(bert_classifier().named_parameters())
    for name, parameter in twin.unload().named_parameters():
        assert torch.equal(parameter, expected[name])


def test_an_adapter_with_a_classifier_of_its_own_is_saved_with_it(tmp_path: Path) -> None:
    for build, task, make in (
        (bert_classifier, "SEQ_CLS", classifier_examples),
        (bert_tagger, "TOKEN_CLS", tagger_examples),
    ):
        model = tuned(build(), task_type=task)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        model.base_model.update_mask(make(5), optimizer=optimizer)
        train(model, make(5), 2, optimizer)
        model.save_pretrained(str(tmp_path / task))
        loaded = PeftModel.from_pretrained(build(), str(tmp_path / task))
        with torch.no_grad():
            batch = padded(make(3))
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)
            assert not torch.equal(loaded(**batch).logits, build()(**batch).logits)


def test_many_module_names_survive_the_round_trip(tmp_path: Path) -> None:
    names = sorted(name.rpartition(".")[0] for name in tuned(tied_t5()).base_model.mask())
    assert len(names) > 20
    model = tuned(tied_t5(), target_modules=names, init_weights=False)
    model.save_pretrained(str(tmp_path))
    assert same_adapter(model, PeftModel.from_pretrained(tied_t5(), str(tmp_path)))


def test_transformers_own_way_of_adding_and_loading_adapters(tmp_path: Path) -> None:
    model = trained("gpt2")
    model.save_pretrained(str(tmp_path))
    plain, batch = gpt2(), padded(FAMILIES["gpt2"][1](3))
    plain.load_adapter(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(plain(**batch).logits, model(**batch).logits)
    added = gpt2()
    added.add_adapter(type(model.peft_config["default"])(density=0.05, init_weights=False))
    assert not torch.equal(added(**batch).logits, gpt2()(**batch).logits)


def test_training_on_a_mask_that_was_loaded_does_not_warn(tmp_path: Path) -> None:
    model = trained("t5")
    model.save_pretrained(str(tmp_path))
    other = tuned(tied_t5(), seed=4)
    with pytest.warns(UserWarning, match="no example has scored the parameters yet"):
        other(**padded(seq2seq_examples(3))).loss.backward()
    third = tuned(tied_t5(), seed=4)
    third.load_adapter(str(tmp_path), "default", is_trainable=True)
    third(**padded(seq2seq_examples(3))).loss.backward()  # a warning would be an error
    assert same_adapter(model, third)
