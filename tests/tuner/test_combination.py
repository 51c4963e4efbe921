"""`add_weighted_adapter`: the combined adapter as a whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from peft_fishdip import FishDipConfig
from peft_fishdip.adapter.combine import density_for
from peft_fishdip.selection import num_active

from ..support.models import (
    assert_base_is,
    base_bits,
    bert_classifier,
    bert_tagger,
    classifier_examples,
    flat_of,
    padded,
    randomise,
    shapes_of,
    tied_t5,
    tuned,
)

NAMES = ["default", "second", "third"]
Delta = dict[str, tuple[Tensor, Tensor]]


def with_three() -> Any:
    """Three adapters of other densities and units; the first has inactive entries, and each has some of value zero."""
    model = tuned(bert_classifier(), density=0.2, init_weights=False, delta_scale="rms")
    model.add_adapter("second", FishDipConfig(density=0.3, init_weights=False, seed=1, delta_scale="none"))
    model.add_adapter("third", FishDipConfig(density=0.1, init_weights=False, seed=2, delta_scale="auto"))
    model.base_model.update_mask(classifier_examples(4), adapter_name="default")
    for seed, name in enumerate(NAMES):
        randomise(model, seed, adapter=name)
        with torch.no_grad():
            flat_of(model, name)[::7] = 0.0
    return model


def dense(delta: Delta, name: str, shape: torch.Size) -> Tensor:
    vector = torch.zeros(shape.numel())
    vector[delta[name][0]] = delta[name][1]
    return vector


def keep_largest(vector: Tensor, positions: Tensor, density: float) -> Tensor:
    """Only so many of the largest entries at some positions, by sorting Python numbers."""
    ranked = sorted(positions.tolist(), key=lambda place: (-abs(vector[place].item()), place))
    kept = torch.tensor(ranked[: int(density * len(ranked))], dtype=torch.int64)
    return torch.zeros_like(vector).index_copy(0, kept, vector[kept])


def by_hand(vectors: list[Tensor], supports: list[Tensor], weights: list[float], kind: str, density: float) -> Tensor:
    """The combination of dense vectors."""
    if kind == "intersection":
        everywhere = torch.ones_like(vectors[0], dtype=torch.bool)
        for support in supports:
            everywhere &= torch.zeros_like(everywhere).index_fill(0, support, True)
        vectors = [torch.where(everywhere, vector, 0.0) for vector in vectors]
    if kind in ("magnitude_prune", "ties"):
        vectors = [keep_largest(vector, support, density) for vector, support in zip(vectors, supports, strict=True)]
    if kind != "ties":
        return sum((vector * weight for vector, weight in zip(vectors, weights, strict=True)), torch.zeros(()))
    result = torch.zeros_like(vectors[0])
    for place in torch.stack(vectors).any(0).nonzero().flatten().tolist():
        here = [vector[place] for vector in vectors]
        sign = 1.0 if sum(here, torch.zeros(())) >= 0 else -1.0
        chosen = [value * weight for value, weight in zip(here, weights, strict=True) if value.sign() == sign]
        result[place] = sum(chosen, torch.zeros(())) / len(chosen)
    return result


@pytest.mark.parametrize("kind", ["linear", "intersection", "magnitude_prune", "ties"])
@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_combinations_are_those_of_dense_tensors(kind: str, names: list[str]) -> None:
    model = with_three()
    tuner, weights = model.base_model, [0.75, -1.3, 2.0][: len(names)]
    base, before = base_bits(model), [tuner.delta(name) for name in names]
    density = 0.6 if kind in ("magnitude_prune", "ties") else None
    tuner.add_weighted_adapter(names, weights, "new", combination_type=kind, density=density)
    found = tuner.delta("new")
    assert list(found) == list(before[0])
    for name, shape in shapes_of(model).items():
        vectors = [dense(delta, name, shape) for delta in before]
        expected = by_hand(vectors, [delta[name][0] for delta in before], weights, kind, density or 1.0)
        # a unit is a power of two, so that the deltas come back from it as they were
        torch.testing.assert_close(dense(found, name, shape), expected, rtol=0, atol=0)
        assert expected.nonzero().flatten().numel() <= found[name][0].numel()
    for name, delta in zip(names, before, strict=True):
        assert all(torch.equal(values, delta[key][1]) for key, (_, values) in tuner.delta(name).items())
    assert_base_is(model, base)


def test_a_difference_with_itself_has_entries_of_zero_and_computes_the_base() -> None:
    model = with_three()
    tuner = model.base_model
    batch = padded(classifier_examples(3))
    with model.disable_adapter(), torch.no_grad():
        expected = model(**batch).logits
    tuner.add_weighted_adapter(["default"], [-1.0], "negative")
    tuner.add_weighted_adapter(["default", "negative"], [1.0, 1.0], "nothing")
    for name, (positions, values) in tuner.delta("nothing").items():
        assert torch.equal(positions, tuner.delta("default")[name][0])
        assert not values.any()
    model.set_adapter("nothing")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected)
    tuner.set_adapter(["default", "negative"])
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, expected)


def test_the_largest_entries_of_the_first_adapter_s_number_are_active() -> None:
    model = with_three()
    tuner = model.base_model
    tuner.add_weighted_adapter(["second", "third"], [1.0, 1.0], "new")
    active, delta = tuner.mask("new"), tuner.delta("new")
    k = flat_of(model, "second").numel()
    assert sum(map(len, active.values())) == k == flat_of(model, "new").numel()
    assert tuner.peft_config["new"].density == 0.3
    every = torch.cat([values.abs() for _, values in delta.values()])
    chosen = torch.cat([values[torch.isin(places, active[name])].abs() for name, (places, values) in delta.items()])
    assert torch.equal(chosen.sort().values, every.sort().values[-k:])


def test_fewer_entries_than_the_first_adapter_s_are_all_active_and_can_be_saved(tmp_path: Path) -> None:
    model = with_three()
    tuner = model.base_model
    tuner.add_weighted_adapter(NAMES[:2], [1.0, 1.0], "new", combination_type="intersection")
    delta = tuner.delta("new")
    entries = sum(len(places) for places, _ in delta.values())
    assert 0 < entries < flat_of(model, "default").numel()
    assert sum(map(len, tuner.mask("new").values())) == entries == flat_of(model, "new").numel()
    assert all(torch.equal(tuner.mask("new")[name], places) for name, (places, _) in delta.items())
    model.save_pretrained(str(tmp_path), selected_adapters=["new"])
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path / "new"))
    for name, (places, values) in loaded.base_model.delta().items():
        assert torch.equal(places, delta[name][0])
        assert torch.equal(values, delta[name][1])


@pytest.mark.parametrize(("k", "size"), [(1, 3), (7, 10), (49, 1000), (123_457, 10_000_019)])
def test_a_density_can_be_found_for_each_number_of_entries(k: int, size: int) -> None:
    assert num_active(density_for(k, size), size) == k
    assert math.isclose(density_for(k, size), k / size)


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_dare_keeps_random_entries_divided_by_the_density(kind: str) -> None:
    model = with_three()
    tuner = model.base_model
    before = tuner.delta("second")
    tuner.add_weighted_adapter(["second"], [1.0], "new", combination_type=kind, density=0.5)
    kept = total = 0
    for name, (places, values) in tuner.delta("new").items():
        assert torch.isin(places, before[name][0]).all()
        own = before[name][1][torch.isin(before[name][0], places)]
        assert torch.equal(values, own / 0.5)
        kept, total = kept + len(places), total + len(before[name][0])
    assert abs(kept / total - 0.5) < 0.05
    draws = []
    for name in ("other", "another"):
        tuner.add_weighted_adapter(["second"], [1.0], name, combination_type=kind, density=0.5)
        draws.append({key: places.tolist() for key, (places, _) in tuner.delta(name).items()})
    tuner.delete_adapter("another")
    tuner.add_weighted_adapter(["second"], [1.0], "another", combination_type=kind, density=0.5)
    assert {key: places.tolist() for key, (places, _) in tuner.delta("another").items()} == draws[1] != draws[0]


def test_weights_may_be_numbers_of_numpy_and_torch() -> None:
    model = with_three()
    tuner = model.base_model
    weights: Any = [np.float32(0.5), torch.tensor(-2.0)]
    tuner.add_weighted_adapter(NAMES[:2], weights, "new")
    tuner.add_weighted_adapter(NAMES[:2], [0.5, -2.0], "same")
    for name, (_, values) in tuner.delta("new").items():
        assert torch.equal(values, tuner.delta("same")[name][1])


@pytest.mark.parametrize("method", ["total", "frequency"])
def test_the_majority_sign_is_that_of_the_method(method: str) -> None:
    model = tuned(tied_t5(), density=1.0, init_weights=False)
    for name, seed in (("second", 1), ("third", 2)):
        model.add_adapter(name, FishDipConfig(density=1.0, init_weights=False, seed=seed, delta_scale="none"))
    for name, value in (("default", 3.0), ("second", -1.0), ("third", -1.0)):
        with torch.no_grad():
            flat_of(model, name).fill_(value)
    tuner = model.base_model
    tuner.add_weighted_adapter(
        NAMES, [1.0, 1.0, 1.0], "new", combination_type="ties", density=1.0, majority_sign_method=method
    )
    found = torch.cat([values for _, values in tuner.delta("new").values()])
    assert found.unique().tolist() == [3.0 if method == "total" else -1.0]


def test_adapters_in_half_precision_are_combined_in_float32() -> None:
    base = bert_classifier().bfloat16()
    model = get_peft_model(base, FishDipConfig(density=0.1, init_weights=False), autocast_adapter_dtype=False)
    model.add_adapter("second", FishDipConfig(density=0.1, init_weights=False, seed=1))
    tuner = model.base_model
    dtypes = [flat_of(model, name).dtype for name in ("default", "second")]
    assert dtypes == [torch.bfloat16, torch.float32]
    first, second = tuner.delta("default"), tuner.delta("second")
    tuner.add_weighted_adapter(["default", "second"], [1.0, 0.3], "new")
    for name, shape in shapes_of(model).items():
        expected = dense(first, name, shape) + dense(second, name, shape) * 0.3
        torch.testing.assert_close(dense(tuner.delta("new"), name, shape), expected, rtol=0, atol=0)


def with_a_classifier(modules: dict[str, list[str] | None]) -> Any:
    """Adapters of a tagger, each with the modules that it trains whole."""
    model: Any = None
    base = bert_tagger()
    for seed, (name, whole) in enumerate(modules.items()):
        config = FishDipConfig(
            target_modules=r"bert\..*", density=0.1, init_weights=False, seed=seed, modules_to_save=whole
        )
        if model is None:
            model = get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    return model


@pytest.mark.parametrize("order", [["task", "language"], ["language", "task"]])
def test_a_module_that_one_adapter_trained_whole_comes_along(order: list[str], tmp_path: Path) -> None:
    model = with_a_classifier({"task": ["classifier"], "language": None})
    classifier = model.base_model.model.classifier
    with torch.no_grad():
        classifier.modules_to_save["task"].weight.fill_(0.25)
    model.base_model.add_weighted_adapter(order, [1.0, 1.0], "both")
    copied = classifier.modules_to_save["both"]
    assert torch.equal(copied.weight, classifier.modules_to_save["task"].weight)
    assert copied.weight is not classifier.modules_to_save["task"].weight
    batch = {key: value for key, value in padded(classifier_examples(3)).items() if key != "labels"}
    model.set_adapter("both")
    with torch.no_grad():
        both = model(**batch).logits
        model.base_model.set_adapter(["task", "language"])
        torch.testing.assert_close(model(**batch).logits, both)
    model.save_pretrained(str(tmp_path), selected_adapters=["both"])
    loaded = PeftModel.from_pretrained(bert_tagger(), str(tmp_path / "both"))
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, both)


def test_modules_that_several_adapters_trained_whole_are_refused() -> None:
    model = with_a_classifier({"task": ["classifier"], "other": ["classifier"]})
    with pytest.raises(ValueError, match=r"'task', 'other' have each trained 'classifier' whole \(modules_to_save\)"):
        model.base_model.add_weighted_adapter(["task", "other"], [1.0, 1.0], "both")
    assert set(model.peft_config) == {"task", "other"}


def test_adapters_of_different_bases_are_refused(tmp_path: Path) -> None:
    model = tuned(bert_classifier(), init_weights=False)
    model.save_pretrained(str(tmp_path))
    other = bert_classifier()
    with torch.no_grad():
        other.bert.encoder.layer[0].attention.self.query.weight[3, 5] += 1.0
    model = tuned(other, init_weights=False)
    with pytest.warns(UserWarning, match="the base model is not the one"):
        model.load_adapter(str(tmp_path), "loaded")
    keys = set(model.state_dict())
    with pytest.raises(ValueError, match=r"'loaded' was trained on another base model: 1 of \d+ .*query.weight' has"):
        model.base_model.add_weighted_adapter(["default", "loaded"], [1.0, 1.0], "new")
    assert set(model.state_dict()) == keys
    model.base_model.add_weighted_adapter(["default"], [1.0], "new")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"combination_type": "ties"}, r"density=None: combination_type='ties' needs the share .* such as 0\.5"),
        ({"combination_type": "dare_linear", "density": 0}, r"density=0: .* in \(0, 1\]"),
        ({"combination_type": "ties", "density": 1.5}, r"density=1\.5: .* in \(0, 1\]"),
        ({"combination_type": "ties", "density": True}, r"density=True: .* in \(0, 1\]"),
        ({"combination_type": "ties", "density": "0.5"}, r"density='0\.5': .* in \(0, 1\]"),
        ({"density": 0.5}, r"density=0\.5 has no meaning for combination_type='linear'"),
        (
            {"combination_type": "ties", "density": 0.5, "majority_sign_method": "most"},
            "'most' must be one of total, f",
        ),
        ({"combination_type": "magnitude_prune", "density": 1e-6}, "density=1e-06 leaves no entry of the adapters"),
        ({"combination_type": "intersection"}, "'default', 'apart' have no entry in common, .*'linear' takes"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(more: dict[str, Any], message: str) -> None:
    model = tuned(bert_classifier(), density=0.2, init_weights=False)
    model.add_adapter("apart", FishDipConfig(density=0.2, auto_update=False))
    mask = model.base_model.mask("default")
    scores = {
        name: torch.rand(shape).flatten().index_fill(0, mask[name], -1.0).view(shape)
        for name, shape in shapes_of(model, "default").items()
    }
    model.base_model.set_mask(scores, adapter_name="apart")
    keys = set(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.base_model.add_weighted_adapter(["default", "apart"], [1.0, 1.0], "new", **more)
    assert set(model.state_dict()) == keys
    assert set(model.peft_config) == {"default", "apart"}
