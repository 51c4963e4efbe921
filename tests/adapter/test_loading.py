"""Every way of loading takes the exact mask, and refuses what is not what was saved before anything has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from peft_fishdip import FishDipCallback, tuner_of

from ..support.models import bert_classifier, bits, classifier_examples, gpt2, llama, padded, randomise, tied_t5, tuned

Tensors = dict[str, Tensor]
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def trained(build: Callable[[], Any] = bert_classifier, first: int = 0, **settings: Any) -> Any:
    """An adapter that has been through three random masks, with inactive entries and random deltas."""
    base = build()
    shapes = {name: tensor.shape for name, tensor in base.named_parameters()}
    model = tuned(base, **settings)
    generator = torch.Generator().manual_seed(first)
    for number in range(3):
        scores = {name: torch.rand(shapes[name], generator=generator) for name in model.base_model.mask()}
        model.base_model.set_mask(scores)
        randomise(model, seed=first + number)
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good")
    trained().save_pretrained(str(path))
    return path


def receiver() -> Any:
    """A model that has an adapter with other mask, deltas and number of updates."""
    model = trained(first=50, seed=4)
    model.base_model.update_mask(classifier_examples(3))
    return model.eval()


def everything(model: nn.Module) -> dict[str, Tensor]:
    """The bits of all that a model is: base, vector, positions, deltas, and numbers of active entries and updates."""
    return {key: bits(tensor) for key, tensor in model.state_dict().items()}


def assert_same_everything(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def adapter_bits(tuner: Any, adapter: str | None = None) -> dict[str, Tensor]:
    """Of the mask and the deltas."""
    found = {f"{name} mask": bits(positions) for name, positions in tuner.mask(adapter).items()}
    for name, (positions, values) in tuner.delta(adapter).items():
        found |= {f"{name} support": bits(positions), f"{name} delta": bits(values)}
    return found


def assert_same_adapter(model: nn.Module, other: nn.Module, adapter: str | None = None) -> None:
    assert_same_everything(adapter_bits(tuner_of(model), adapter), adapter_bits(tuner_of(other)))


# ----- damages ------------------------------------------------------------------------------------------------------


def summary_key(tensors: Tensors) -> str:
    (key,) = [key for key in tensors if "fishdip_summary" in key]
    return key


def numbered(tensors: Tensors) -> list[tuple[str, int]]:
    """The key of the positions of each parameter with inactive entries, and its number of active ones.

    Found by where the ascending active run ends, not by the summary.
    """
    found = []
    for key, positions in tensors.items():
        if "fishdip_indices" in key and positions.numel() > 4:
            ends = (positions[1:] < positions[:-1]).nonzero().flatten()
            if ends.numel():
                found.append((key, int(ends[0]) + 1))
    return found


def flipped_value(tensors: Tensors) -> None:
    key, _ = numbered(tensors)[0]
    tensors[key.replace("indices", "values")][2] *= -1


def flipped_inactive_value(tensors: Tensors) -> None:
    key, _ = numbered(tensors)[-1]
    tensors[key.replace("indices", "values")][-1] *= -1


def swapped_position(tensors: Tensors) -> None:
    """An active entry becomes inactive and the other way round: well formed, with the same deltas."""
    key, active = numbered(tensors)[0]
    positions, values = tensors[key], tensors[key.replace("indices", "values")]
    order = torch.arange(positions.numel())
    order[active - 1], order[active] = active, active - 1
    positions, values = positions[order], values[order]
    order = torch.cat([positions[:active].argsort(), positions[active:].argsort() + active])
    tensors[key], tensors[key.replace("indices", "values")] = positions[order], values[order]


def changed_count(tensors: Tensors) -> None:
    tensors[summary_key(tensors)][4] += 1


def exchanged_counts(tensors: Tensors) -> None:
    """K stays what it is."""
    counts = tensors[summary_key(tensors)][4:-1]
    counts[counts.argmax()] -= 1
    counts[counts.argmin()] += 1


def changed_number_of_updates(tensors: Tensors) -> None:
    tensors[summary_key(tensors)][-1] += 1


def missing_summary(tensors: Tensors) -> None:
    del tensors[summary_key(tensors)]


DAMAGES = [
    flipped_value,
    flipped_inactive_value,
    swapped_position,
    changed_count,
    exchanged_counts,
    changed_number_of_updates,
    missing_summary,
]
REFUSAL = r"SHA-256|active entries where|fewer entries|not ascending|no fishdip_summary"


def damaged_folder(good: Path, target: Path, damage: Callable[[Tensors], None] | None) -> Path:
    shutil.copytree(good, target, dirs_exist_ok=True)
    tensors = load_file(good / TENSORS)
    if damage is not None:
        damage(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target / TENSORS)
    return target


# ----- over an adapter that is there --------------------------------------------------------------------------------


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


# ----- as a new adapter ---------------------------------------------------------------------------------------------


def load_as_a_model(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    return base, lambda: PeftModel.from_pretrained(base, str(folder))


def load_as_a_model_with_low_memory(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    return base, lambda: PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=True)


def load_as_a_second_adapter(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    model = receiver()

    def load() -> Any:
        model.load_adapter(str(folder), "second")
        model.set_adapter("second")
        return model

    return model, load


def load_as_a_second_adapter_with_low_memory(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    model = receiver()

    def load() -> Any:
        model.load_adapter(str(folder), "second", low_cpu_mem_usage=True)
        model.set_adapter("second")
        return model

    return model, load


def load_by_transformers(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()

    def load() -> Any:
        base.load_adapter(str(folder))
        return base

    return base, load


def load_by_transformers_as_a_second_adapter(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    config = receiver().peft_config["default"]
    base.add_adapter(type(config)(density=0.05, init_weights=False, seed=8), "first")

    def load() -> Any:
        with pytest.warns(UserWarning, match="Already found a `peft_config` attribute"):  # by PEFT, of any second one
            base.load_adapter(str(folder), "second")
        base.set_adapter("second")
        return base

    return base, load


NEW = [
    load_as_a_model,
    load_as_a_model_with_low_memory,
    load_as_a_second_adapter,
    load_as_a_second_adapter_with_low_memory,
    load_by_transformers,
    load_by_transformers_as_a_second_adapter,
]


@pytest.mark.parametrize("way", NEW)
def test_loading_a_new_adapter_takes_the_exact_mask(way: Any, good: Path) -> None:
    _, load = way(good)
    assert_same_adapter(load(), trained())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", NEW)
def test_what_is_damaged_is_refused_as_a_new_adapter_and_nothing_changes(
    way: Any, damage: Any, good: Path, tmp_path: Path
) -> None:
    by_name = way in (load_by_transformers, load_by_transformers_as_a_second_adapter)
    if by_name and damage is missing_summary:
        pytest.skip("transformers tells of a missing tensor in its log; the adapter is refused when it is used")
    model, load = way(damaged_folder(good, tmp_path, damage))
    before, batch = everything(model), padded(classifier_examples(3))
    expected, active = model(**batch).logits, getattr(model, "active_adapters", None)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with pytest.raises((ValueError, RuntimeError), match=REFUSAL):
        load()
    assert_same_everything(everything(model), before)
    assert torch.equal(model(**batch).logits, expected)
    if "fishdip" in str(before.keys()):
        assert getattr(model, "active_adapters", None) == active or model.active_adapters() == ["first"]
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    damaged_folder(good, tmp_path, None)  # the next try
    assert_same_adapter(load(), trained())


def test_an_adapter_that_transformers_loaded_in_part_is_refused_when_it_is_used_or_saved(
    good: Path, tmp_path: Path
) -> None:
    base, batch = bert_classifier(), padded(classifier_examples(3))
    expected = base(**batch).logits
    base.load_adapter(str(damaged_folder(good, tmp_path, missing_summary)))
    for use in (lambda: base(**batch), base.state_dict, lambda: base.save_pretrained(str(tmp_path / "saved"))):
        with pytest.raises(ValueError, match=r"only \d+ of the tensors of adapter 'default' have been loaded"):
            use()
    base.delete_adapter("default")
    assert torch.equal(base(**batch).logits, expected)
    base.load_adapter(str(good))
    assert_same_adapter(base, trained())


# ----- state dicts in parts -----------------------------------------------------------------------------------------


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


# ----- other models -------------------------------------------------------------------------------------------------


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
    with pytest.raises(RuntimeError, match=r"SHA-256|stands at several places"):
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


# ----- version 0.1 --------------------------------------------------------------------------------------------------


def write_as_version_0_1(folder: Path, model: Any) -> None:
    """Rewrite a saved adapter as version 0.1 wrote it: counts in the config, a digest over counts alone."""
    mask, delta = model.base_model.mask(), model.base_model.delta()
    tensors = load_file(folder / TENSORS)
    counts = {name: [mask[name].numel(), delta[name][0].numel() - mask[name].numel()] for name in mask}
    found = hashlib.sha256(repr(list(counts)).encode())
    active = torch.tensor([pair[0] for pair in counts.values()])
    found.update(active.numpy().tobytes())
    for name in counts:
        path, _, leaf = f"base_model.model.{name}".rpartition(".")
        found.update(tensors[f"{path}.fishdip_indices.{leaf}"].long().numpy().tobytes())
        found.update(tensors[f"{path}.fishdip_values.{leaf}"].numpy().tobytes())
    digest = torch.frombuffer(bytearray(found.digest()), dtype=torch.int64)
    tensors[summary_key(tensors)] = torch.cat([digest, active])
    save_file(tensors, folder / TENSORS)
    config = json.loads((folder / CONFIG).read_text())
    del config["support_sizes"]
    config |= {"counts": counts, "num_updates": 3}
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("way", NEW)
def test_adapters_of_version_0_1_load_to_the_same_bits_without_a_warning(way: Any, tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(str(tmp_path))
    write_as_version_0_1(tmp_path, model)
    _, load = way(tmp_path)
    loaded = load()  # warnings are errors
    assert_same_adapter(loaded, model)
    (number,) = {
        int(tensor[-1])
        for key, tensor in loaded.state_dict().items()
        if "fishdip_summary" in key and ("second" in key or way not in NEW[2:4] + NEW[5:])
    }
    assert number == 3


def test_a_damaged_adapter_of_version_0_1_is_refused(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(str(tmp_path))
    write_as_version_0_1(tmp_path, model)
    for damage in (flipped_value, swapped_position, changed_count):
        with pytest.raises(ValueError, match=REFUSAL):
            PeftModel.from_pretrained(bert_classifier(), str(damaged_folder(tmp_path, tmp_path / "damaged", damage)))


# ----- trainers -----------------------------------------------------------------------------------------------------


class Masks(FishDipCallback):
    """Also keeps the mask that every step was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[int, dict[str, Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.masks[state.global_step] = kwargs["model"].base_model.mask()
        return super().on_step_end(args, state, control, **kwargs)


def trainer(path: Path, seed: int = 0, **arguments: Any) -> tuple[Trainer, Masks]:
    callback = Masks()
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        **arguments,
    }
    made = Trainer(
        model=tuned(bert_classifier(), update_interval=2, sample_selection="random", num_samples=3, seed=seed),
        args=TrainingArguments(output_dir=str(path), **settings),
        train_dataset=classifier_examples(10),
        eval_dataset=classifier_examples(4, seed=5),
        data_collator=padded,
        callbacks=[callback],
    )
    return made, callback


def test_a_resumed_run_has_the_saved_mask_and_number_of_updates_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    whole, expected = trainer(tmp_path)
    whole.train()
    resumed, found = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.load.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert sorted(found.masks) == [4, 5, 6]
    for step, mask in found.masks.items():  # step 5 comes after an update, whose random examples hang on their number
        assert all(torch.equal(positions, expected.masks[step][name]) for name, positions in mask.items())
    assert any(not torch.equal(mask, expected.masks[4][name]) for name, mask in expected.masks[5].items())
    assert_same_everything(everything(resumed.model), everything(whole.model))

    damaged = damaged_folder(tmp_path / "checkpoint-3", tmp_path / "damaged" / "checkpoint-3", swapped_position)
    third, _ = trainer(tmp_path / "third")
    before = everything(third.model)
    with pytest.raises(ValueError, match="SHA-256"):
        third.train(resume_from_checkpoint=str(damaged))
    assert_same_everything(everything(third.model), before)


def test_the_best_model_at_the_end_has_the_mask_that_was_saved_with_it(tmp_path: Path) -> None:
    made, callback = trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        learning_rate=0.01,
    )
    made.train()
    best = str(made.state.best_model_checkpoint)
    assert best.endswith("checkpoint-3")  # not the last one
    assert all(torch.equal(mask, callback.masks[3][name]) for name, mask in made.model.base_model.mask().items())
    assert any(not torch.equal(mask, callback.masks[6][name]) for name, mask in callback.masks[3].items())
    saved = load_file(Path(best) / TENSORS)
    now = get_peft_model_state_dict(made.model)
    assert_same_everything({k: bits(t) for k, t in now.items()}, {k: bits(t) for k, t in saved.items()})
