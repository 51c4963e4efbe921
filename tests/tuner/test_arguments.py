"""Arguments of a wrong type are refused by name and value, and nothing has changed then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from peft_fishdip import FishDipConfig, FishDipModel, tuner_of

from ..support.models import bert_classifier, classifier_examples, num_updates, tuned

EXAMPLES = classifier_examples(4)
NAME = r"adapter_names?=5 must be the name of an adapter, a text such as 'default'"

CASES: dict[str, tuple[Callable[[FishDipModel], Any], str]] = {
    "scores None": (lambda tuner: tuner.set_mask(None), "scores=None must be a dict from the name of each targeted"),
    "scores 5": (lambda tuner: tuner.set_mask(5), "scores=5 must be a dict"),
    "scores list": (lambda tuner: tuner.set_mask([torch.ones(2)]), r"scores=\[tensor.* must be a dict"),
    "examples None": (lambda tuner: tuner.update_mask(None), "examples=None must be a Dataset or a list of feature"),
    "examples 5": (lambda tuner: tuner.update_mask(5), "examples=5 must be a Dataset or a list of feature"),
    "collator": (lambda tuner: tuner.update_mask(EXAMPLES, data_collator=5), "data_collator=5 must be a function from"),
    "loss": (lambda tuner: tuner.update_mask(EXAMPLES, loss_fn="f1"), "loss_fn='f1' must be a function of the model"),
    "recent loss": (lambda tuner: tuner.recent_examples(5), "loss_fn=5 must be a function of the model and a batch"),
    "update name": (lambda tuner: tuner.update_mask(EXAMPLES, adapter_name=5), NAME),
    "scores name": (lambda tuner: tuner.set_mask({}, adapter_name=5), NAME),
    "recent name": (lambda tuner: tuner.recent_examples(adapter_name=5), NAME),
    "last name": (lambda tuner: tuner.last_update(5), NAME),
    "mask name": (lambda tuner: tuner.mask(5), NAME),
    "delta name": (lambda tuner: tuner.delta(5), NAME),
    "active name": (lambda tuner: tuner.set_adapter(5), NAME),
    "active names": (lambda tuner: tuner.set_adapter(["default", 5]), r"adapter_name=\['default', 5\] must be"),
    "trained name": (lambda tuner: tuner.set_requires_grad(5), NAME),
    "merged name": (lambda tuner: tuner.merge_adapter(5), NAME),
}


@pytest.mark.parametrize("case", CASES)
def test_an_argument_of_another_type_is_named(case: str) -> None:
    call, message = CASES[case]
    model = tuned(bert_classifier())
    tuner: Any = model.base_model
    mask, active = tuner.mask(), tuner.active_adapters
    with pytest.raises(TypeError, match=message):
        call(tuner)
    assert all(torch.equal(mask[name], positions) for name, positions in tuner.mask().items())
    assert (num_updates(model), tuner.active_adapters) == (0, active)


def test_the_name_of_a_new_adapter_is_a_text() -> None:
    tuner = tuned(bert_classifier()).base_model
    tuner.peft_config[5] = FishDipConfig(density=0.1)
    with pytest.raises(TypeError, match=NAME):
        tuner.inject_adapter(tuner.model, 5)
    assert list(tuner.peft_config) == ["default"]


def test_only_a_model_has_a_tuner() -> None:
    with pytest.raises(TypeError, match="model=5 must be a torch model with a Fish-Dip adapter"):
        tuner_of(5)  # type: ignore[arg-type]


def test_an_importance_without_examples_looks_at_none() -> None:
    model = tuned(bert_classifier(), importance="magnitude")
    assert model.base_model.update_mask(None).example_ids == ()
