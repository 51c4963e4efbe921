"""Every way of loading a new adapter takes the exact mask, and refuses what is damaged before anything changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ...support.models import bert_classifier, classifier_examples, padded
from .damages import DAMAGES, REFUSAL, damaged_folder, missing_summary
from .new_ways import NEW, load_by_transformers, load_by_transformers_as_a_second_adapter
from .trained import assert_same_adapter, assert_same_everything, everything, trained


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
