"""An adapter of another model, or one that cannot be made on this one, is refused and leaves the base clean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from peft_fishdip import FishDipConfig

from ...support.models import bert_classifier, classifier_examples, gpt2, padded, snapshot, tied_t5, tuned
from .clean import assert_clean


@pytest.mark.parametrize("build", [tied_t5, gpt2])
def test_an_adapter_of_another_architecture_is_refused(build: Callable[[], Any], good: Path) -> None:
    base = build()
    before = snapshot(base)
    with pytest.raises(ValueError, match="the adapter was made for another model: only the"):
        PeftModel.from_pretrained(base, str(good))
    assert_clean(base, before)


def test_an_adapter_of_a_model_of_other_shapes_is_refused(tmp_path: Path) -> None:
    tuned(tied_t5(), density=0.05).save_pretrained(str(tmp_path))
    base = tied_t5(d_ff=32)
    before = snapshot(base)
    with pytest.raises(
        ValueError, match=r"or was made for another model: it has \d+ entries in all, density=0\.05 needs \d+"
    ):
        PeftModel.from_pretrained(base, str(tmp_path))
    assert_clean(base, before)


def test_a_name_that_is_taken_is_refused_and_its_adapter_stays() -> None:
    model, batch = tuned(bert_classifier(), init_weights=False), padded(classifier_examples(3))
    expected = model(**batch).logits
    with pytest.raises(ValueError, match=r"default.* already"):
        model.add_adapter("default", FishDipConfig())
    with pytest.raises(ValueError, match="there is an adapter 'default' already; choose another name, or delete"):
        model.base_model.inject_adapter(model.base_model.model, "default")
    with (
        pytest.warns(UserWarning, match=r"second time|Already found"),
        pytest.raises(ValueError, match="there is an adapter 'default'"),
    ):
        get_peft_model(model.base_model.model, FishDipConfig(init_weights=False))
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize(
    ("settings", "spoil", "message"),
    [
        ({"init_mask": "magnitude"}, float("nan"), r"the score of '0\.weight' at flat position 3 is nan"),
        ({"delta_scale": "rms"}, float("inf"), r"delta_scale='rms': the RMS of '0\.weight' is inf"),
        ({"density": 1e-6}, 0.0, "density=1e-06 of 20 targeted parameters leaves none to train"),
        ({"target_modules": ["nowhere"]}, 0.0, "nowhere"),
    ],
)
def test_an_adapter_that_cannot_be_made_leaves_the_base_clean(
    settings: dict[str, Any], spoil: float, message: str
) -> None:
    base = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        base[0].weight.view(-1)[3] = spoil
    before = snapshot(base)
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, FishDipConfig(**{"density": 0.3, **settings}))
    assert_clean(base, before)
    second = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.3, init_weights=False)
    with torch.no_grad():
        second.base_model.model[0].base_layer.weight.view(-1)[3] = spoil
    with pytest.raises(ValueError, match=message):
        second.add_adapter("other", FishDipConfig(**{"density": 0.3, **settings}))
    assert list(second.peft_config) == ["default"]
    assert list(second.base_model._states()) == ["default"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_name(dtype: torch.dtype) -> None:
    base = nn.Sequential(nn.Linear(4, 4))
    base[0].weight = nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=r"'0\.weight' is a Parameter of dtype \S+: Fish-Dip tunes .* without quant"):
        tuned(base, density=0.3)
    assert type(base[0]) is nn.Linear
    assert list(tuned(nn.Sequential(base[0], nn.Linear(4, 4)), density=0.3, exclude_modules=["0"]).base_model.mask())
