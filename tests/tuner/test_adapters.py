"""Several adapters over one base: switching, summing, disabling, deleting, unloading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from peft_fishdip import FishDipConfig, FishDipLayer

from ..support.models import (
    bert_classifier,
    bits,
    classifier_examples,
    flat_of,
    ignoring_unscored_mask,
    padded,
    randomise,
    seq2seq_examples,
    tied_t5,
    tuned,
)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    family = seq2seq_examples if "t5" in str(getattr(model, "config", "")).lower() else classifier_examples
    return model(**padded(family(3))).logits


def with_two(density: float = 0.2, **settings: Any) -> Any:
    model = tuned(bert_classifier(), density=density, init_weights=False, **settings)
    model.add_adapter("second", FishDipConfig(density=density, init_weights=False, seed=1, **settings))
    return model


def test_switching_activates_one_adapter_at_a_time() -> None:
    model = with_two()
    alone = [tuned(bert_classifier(), density=0.2, init_weights=False)]
    first = logits(model)
    assert torch.equal(first, logits(alone[0]))
    model.set_adapter("second")
    assert not torch.equal(logits(model), first)
    assert flat_of(model).requires_grad
    assert not flat_of(model, "default").requires_grad
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


def test_several_active_adapters_add_up() -> None:
    model = with_two()
    deltas = [model.base_model.delta(name) for name in ("default", "second")]
    model.base_model.set_adapter(["default", "second"])
    base = bert_classifier()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            total = torch.zeros(parameter.numel())
            for delta in deltas:
                total.index_add_(0, *delta[name])
            parameter.view(-1).add_(total)
    assert torch.equal(logits(model), logits(base))


def test_each_of_several_active_adapters_has_a_mask_of_its_own() -> None:
    model = with_two()
    model.base_model.set_adapter(["default", "second"])
    second = model.base_model.mask("second")
    optimizer = torch.optim.SGD([flat_of(model, name) for name in ("default", "second")], lr=0.1)
    model.base_model.update_mask(classifier_examples(4), adapter_name="default", optimizer=optimizer)
    assert all(torch.equal(model.base_model.mask("second")[name], positions) for name, positions in second.items())
    with ignoring_unscored_mask():
        model(**padded(classifier_examples(3))).loss.backward()
    assert all(flat_of(model, name).grad.abs().sum() > 0 for name in ("default", "second"))


def test_adapters_of_other_targets_and_densities_live_side_by_side() -> None:
    model = tuned(bert_classifier(), density=0.3, target_modules=["query"], init_weights=False)
    first = logits(model)
    model.add_adapter("norms", FishDipConfig(density=0.9, target_modules=["LayerNorm"], init_weights=False))
    model.set_adapter("norms")
    assert all("LayerNorm" in name for name in model.base_model.mask())
    norms = logits(model)
    model.base_model.set_adapter(["default", "norms"])
    both = logits(model)
    assert len({tuple(x.flatten().tolist()) for x in (first, norms, both)}) == 3
    model.merge_adapter()
    assert torch.equal(logits(model), both)
    model.unmerge_adapter()
    model.set_adapter("norms")
    model.merge_adapter()
    assert torch.equal(logits(model), norms)
    model.unmerge_adapter()
    model.delete_adapter("default")
    model.set_adapter("norms")
    assert torch.equal(logits(model), norms)


def test_a_deleted_adapter_is_gone_and_can_be_made_again() -> None:
    model = with_two()
    first = logits(model)
    model.delete_adapter("second")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), first)
    assert not any("second" in key for key in model.state_dict())
    with pytest.raises(ValueError, match="there is no adapter 'second'; there are 'default'"):
        model.base_model.mask("second")
    model.add_adapter("second", FishDipConfig(density=0.5))
    assert "second" in model.peft_config


def test_a_merged_adapter_cannot_be_deleted_before_it_is_unmerged() -> None:
    model = with_two()
    first = logits(model)
    model.base_model.merge_adapter(["second"])
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("second")
    model.unmerge_adapter()
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_unloading_leaves_no_trace_of_layers_and_merging_leaves_plain_modules() -> None:
    for way in ("unload", "merge_and_unload"):
        model = tuned(tied_t5(), density=0.2, init_weights=False)
        plain = getattr(model, way)()
        assert type(plain) is type(tied_t5())
        assert not any(isinstance(module, FishDipLayer) for module in plain.modules())
        assert set(plain.state_dict()) == set(tied_t5().state_dict())
        again = tuned(plain, density=0.2)
        assert list(again.base_model.mask()) == list(dict(tied_t5().named_parameters()))


def test_merging_with_safe_merge_refuses_what_is_not_finite_and_merges_nothing() -> None:
    model = tuned(bert_classifier().half(), density=0.2)
    before = {name: bits(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        flat_of(model)[3] = 1e6  # infinite in float16
    before = {name: bits(p) for name, p in model.named_parameters()}
    for merge in (model.base_model.merge_adapter, model.merge_and_unload):
        with pytest.raises(
            ValueError, match=r"NaNs detected in the merged weights\. The adapter .* broken: '\S+' would"
        ):
            merge(safe_merge=True)
        assert all(torch.equal(bits(p), before[name]) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match="there is no adapter 'x'"):
        model.base_model.merge_adapter(["x"])


def test_merging_twice_warns_and_changes_nothing() -> None:
    model = tuned(bert_classifier(), density=0.2, init_weights=False)
    model.merge_adapter()
    expected = logits(model)
    with pytest.warns(UserWarning, match="already merged, nothing to do"):
        model.merge_adapter()
    assert torch.equal(logits(model), expected)
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("delta_scale", ["none", "rms"])
def test_the_weighted_sum_is_the_weighted_sum_of_the_deltas(delta_scale: str, tmp_path: Path) -> None:
    model = with_two(delta_scale=delta_scale)
    model.base_model.update_mask(classifier_examples(4))  # so that the first one has inactive entries
    randomise(model)
    tuner = model.base_model
    expected = {
        name: torch.zeros(1 + max([-1, *a.tolist(), *b.tolist()])).index_add(0, a, 0.5 * va).index_add(0, b, -2.0 * vb)
        for (name, (a, va)), (b, vb) in zip(tuner.delta("default").items(), tuner.delta("second").values(), strict=True)
    }
    tuner.add_weighted_adapter(["default", "second"], [0.5, -2.0], "sum")
    for name, (positions, values) in tuner.delta("sum").items():
        found = torch.zeros_like(expected[name]).index_copy(0, positions, values)
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-7)
    mask = tuner.mask("sum")
    assert sum(map(len, mask.values())) == flat_of(model).numel()
    smallest = min(
        float(v[torch.isin(p, mask[n])].abs().min()) for n, (p, v) in tuner.delta("sum").items() if len(mask[n])
    )
    largest = max(
        float(v[~torch.isin(p, mask[n])].abs().max())
        for n, (p, v) in tuner.delta("sum").items()
        if len(p) > len(mask[n])
    )
    assert smallest >= largest
    assert not flat_of(model, "sum").requires_grad
    assert model.active_adapter == "default"
    model.set_adapter("sum")
    summed = logits(model)
    model.save_pretrained(str(tmp_path), selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path / "sum"))
    assert torch.equal(logits(loaded), summed)
    assert model.peft_config["sum"] is not model.peft_config["default"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default"], [1.0], "second"), "there is an adapter 'second' already; choose another"),
        ((["default", "x"], [1.0, 1.0], "new"), "there is no adapter 'x'; there are"),
        ((["default", "default"], [1.0, 1.0], "new"), "must be a list of different names, at least one"),
        (([], [], "new"), "must be a list of different names, at least one"),
        (("default", [1.0], "new"), "adapters='default' must be a list of different names"),
        ((["default", "second"], [1.0, 1e39], "new"), r"sum of deltas of .* not finite: .* weight of \[1\.0, 1e\+39\]"),
        ((["default", "second"], [1.0], "new"), r"weights=\[1\.0\] must be one finite number for each of the 2"),
        ((["default", "second"], [1.0, float("nan")], "new"), "must be one finite number for each"),
        ((["default", "second"], [1.0, 1.0], "new", "svd"), "combination_type='svd' is unknown; .* 'linear'"),
        ((["default", "third"], [1.0, 1.0], "new"), "adapter 'third' targets other parameters than 'default'"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    model = with_two()
    model.add_adapter("third", FishDipConfig(density=0.2, target_modules=["query"]))
    keys = set(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.base_model.add_weighted_adapter(*arguments)
    assert set(model.state_dict()) == keys
    assert set(model.peft_config) == {"default", "second", "third"}


@pytest.mark.parametrize("names", ["secnd", ["default", "secnd"]])
def test_a_misspelt_name_is_refused_and_changes_nothing(names: Any) -> None:
    model = with_two()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    for change in (model.base_model.set_adapter, lambda names: model.base_model.set_requires_grad(names, True)):
        with pytest.raises(ValueError, match="there is no adapter 'secnd'; there are 'default', 'second'"):
            change(names)
    assert model.base_model.active_adapters == ["default"]
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_different_adapters_within_one_batch_are_refused() -> None:
    model = with_two()
    with pytest.raises(ValueError, match="adapter_names: Fish-Dip cannot use different adapters within one batch"):
        model(**padded(classifier_examples(2)), adapter_names=["default", "second"])


def test_an_adapter_in_low_precision_trains_and_saves() -> None:
    base = bert_classifier().bfloat16()
    for cast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = get_peft_model(base, FishDipConfig(density=0.1), autocast_adapter_dtype=cast)
        assert flat_of(model).dtype == dtype
        optimizer = torch.optim.AdamW([flat_of(model)], lr=1e-3)
        model.base_model.update_mask(classifier_examples(4), optimizer=optimizer)
        model(**padded(classifier_examples(3))).loss.backward()
        optimizer.step()
        model.base_model.update_mask(classifier_examples(8)[4:], optimizer=optimizer)
        assert logits(model).isfinite().all()
        base = model.unload()


def test_moving_a_model_between_dtypes_keeps_positions() -> None:
    model = tuned(nn.Sequential(nn.Linear(6, 6)), density=0.5, init_weights=False)
    mask = model.base_model.mask()
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        model.to(dtype)
        assert all(torch.equal(model.base_model.mask()[name], positions) for name, positions in mask.items())
        assert model(torch.randn(2, 6, dtype=dtype)).dtype == dtype
