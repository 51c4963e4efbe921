"""The names of importance functions: registered, saved with an adapter, and missed where a process lacks them."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from peft_fishdip import ExampleGradients, FishDipConfig, register_importance
from peft_fishdip.criteria import registry
from peft_fishdip.criteria.functions import lift, magnitude

from ..support.models import bert_classifier, classifier_examples, padded, randomise, tuned


@pytest.fixture(autouse=True)
def no_names_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def snip(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
    return (parameter * gradients.mean).abs()


class Weighted:
    """A callable object, and one that cannot be copied."""

    def __init__(self) -> None:
        self.generator = (value for value in [1.0])

    def __call__(self, parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        return parameter.abs()


def saved_name(folder: Path) -> str:
    name: str = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["importance"]
    return name


@pytest.mark.parametrize("registered", [True, False])
def test_an_adapter_has_the_name_alone_loads_without_the_function_and_is_updated_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: bool
) -> None:
    if registered:
        register_importance("snip", snip)
    model = tuned(bert_classifier(), importance="snip" if registered else snip)
    model.base_model.update_mask(classifier_examples(4))
    randomise(model)
    model.save_pretrained(str(tmp_path))
    name = saved_name(tmp_path)
    assert name == ("snip" if registered else f"{__name__}.snip")

    monkeypatch.setattr(registry, "_registered", {})  # another process
    loaded = PeftModel.from_pretrained(bert_classifier(), str(tmp_path), is_trainable=True)
    batch = padded(classifier_examples(3))
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    with pytest.raises(ValueError, match=f"importance='{name}' is not registered in this process: call register_imp"):
        loaded.base_model.update_mask(classifier_examples(4))
    register_importance(name, snip)
    for one in (loaded, model):
        one.peft_config["default"].importance = name
        one.base_model.update_mask(classifier_examples(4))
    masks = [one.base_model.mask() for one in (loaded, model)]
    assert all(torch.equal(masks[0][key], masks[1][key]) for key in masks[1])
    loaded.save_pretrained(str(tmp_path / "again"))
    assert saved_name(tmp_path / "again") == name


def test_a_mask_that_updates_itself_misses_its_function_at_the_first_step(tmp_path: Path) -> None:
    register_importance("snip", snip)
    tuned(bert_classifier(), importance="snip", auto_update=True).save_pretrained(str(tmp_path))
    registry._registered.clear()
    model = PeftModel.from_pretrained(bert_classifier(), str(tmp_path), is_trainable=True).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(**padded(classifier_examples(3))).loss.backward()
    with pytest.raises(ValueError, match="importance='snip' is not registered in this process"):
        optimizer.step()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (snip, f"{__name__}.snip"),
        (partial(lift, rank=4), "peft_fishdip.criteria.functions.lift"),
        (Weighted(), f"{__name__}.Weighted"),
        (magnitude, "magnitude"),
    ],
    ids=["function", "partial", "object", "built in"],
)
def test_a_config_names_its_function(tmp_path: Path, function: Any, name: str) -> None:
    config = FishDipConfig(importance=function)
    config.save_pretrained(str(tmp_path))
    assert saved_name(tmp_path) == name
    assert config.to_dict()["importance"] == name
    assert config.importance is (name if function is magnitude else function)


def test_a_registered_object_is_known_by_its_name_in_copies_of_a_config(tmp_path: Path) -> None:
    register_importance("weighted", function := Weighted(), needs=())
    config = FishDipConfig(importance=function)
    assert copy.deepcopy(config).importance == "weighted"


def test_names_that_nobody_has_registered_are_refused_in_a_new_config() -> None:
    with pytest.raises(ValueError, match="importance='snip' is unknown; choose one of fisher, absolute, gradient, mag"):
        FishDipConfig(importance="snip")
    register_importance("snip", snip)
    assert FishDipConfig(importance="snip").importance == "snip"
    with pytest.raises(ValueError, match=r"importance='snap' is unknown; .* lift, snip, give a function, or call reg"):
        FishDipConfig(importance="snap")
    with pytest.raises(ValueError, match="importance=3 is unknown"):
        FishDipConfig(importance=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fisher", snip), ValueError, "the importance 'fisher' is built in; choose another name"),
        (("lift", snip), ValueError, "the importance 'lift' is built in"),
        (("taken", snip), ValueError, rf"the importance 'taken' is that of {__name__}\.Weighted; choose another"),
        (("", snip), ValueError, "name='' must be a text"),
        ((None, snip), ValueError, "name=None must be a text"),
        (("snip", "snip"), TypeError, "the importance 'snip' must be a function, not a str"),
        (
            ("snip", snip, ["mean", "median"]),
            ValueError,
            "needs='median' is unknown; choose from mean, mean_square",
        ),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    register_importance("taken", Weighted())
    with pytest.raises(error, match=message):
        register_importance(*arguments)


def test_the_same_function_can_be_registered_anew() -> None:
    register_importance("snip", snip)
    register_importance("snip", snip, needs=())
    assert registry.criterion_of("snip").needs == ()
