"""A new adapter with the config of a saved one is a fresh adapter, as with any other config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model

from peft_fishdip import FishDipConfig, tuner_of

from ..support.models import UNSCORED, bert_classifier, classifier_examples, flat_of, padded, train, tuned
from .loading.trained import adapter_bits, assert_same_adapter, assert_same_everything, trained

ONE = "default"


def read(folder: Path) -> Any:
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    return config


def of_a_loaded_adapter(folder: Path) -> Any:
    return PeftModel.from_pretrained(bert_classifier(), str(folder), is_trainable=True).peft_config[ONE]


def from_a_dict(folder: Path) -> Any:
    return FishDipConfig(**{**read(folder).to_dict(), "inference_mode": False})


def called(model: Any) -> None:
    model(**padded(classifier_examples(2)))


def asked(model: Any) -> None:
    model.base_model.mask()


def merged(model: Any) -> None:
    model.merge_adapter()
    model.unmerge_adapter()


def stepped(model: Any) -> None:
    flat_of(model).grad = torch.zeros_like(flat_of(model))
    torch.optim.SGD([flat_of(model)], lr=1.0).step()


def fresh(config: Any) -> Any:
    """What the same settings give without the checkpoint."""
    settings = {"init_mask": config.init_mask, "init_weights": config.init_weights, "compact": config.compact}
    return tuned(bert_classifier(), **settings)


@pytest.fixture(params=[{}, {"compact": True}, {"init_mask": "magnitude"}, {"init_weights": False}], ids=str)
def folder(request: Any, tmp_path: Path) -> Path:
    trained(**request.param).save_pretrained(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "use"),
    [*((read, use) for use in (called, asked, merged, stepped)), (of_a_loaded_adapter, called), (from_a_dict, called)],
)
def test_its_mask_is_that_of_a_fresh_adapter(source: Any, use: Callable[[Any], None], folder: Path) -> None:
    config = source(folder)
    model = get_peft_model(bert_classifier(), config)
    use(model)
    assert_same_everything(adapter_bits(tuner_of(model)), adapter_bits(tuner_of(fresh(config))))


def test_it_is_saved_as_a_fresh_adapter(folder: Path) -> None:
    config = read(folder)
    model = get_peft_model(bert_classifier(), config)
    model.save_pretrained(str(folder / "again"))
    loaded = PeftModel.from_pretrained(bert_classifier(), str(folder / "again"))
    assert_same_adapter(loaded, fresh(config))


@pytest.mark.filterwarnings(UNSCORED)
def test_it_trains_and_is_saved(folder: Path) -> None:
    model = get_peft_model(bert_classifier(), read(folder))
    train(model, classifier_examples(4), 2, torch.optim.SGD([flat_of(model)], lr=0.1))
    model.save_pretrained(str(folder / "again"))
    assert_same_adapter(PeftModel.from_pretrained(bert_classifier(), str(folder / "again")), model)


def test_a_second_adapter_with_the_config_of_the_first(folder: Path) -> None:
    model = PeftModel.from_pretrained(bert_classifier(), str(folder), is_trainable=True)
    model.add_adapter("second", model.peft_config[ONE])
    model.save_pretrained(str(folder / "both"))
    assert_same_adapter(PeftModel.from_pretrained(bert_classifier(), str(folder / "both")), model, ONE)
    second = PeftModel.from_pretrained(bert_classifier(), str(folder / "both" / "second"))
    model.set_adapter("second")
    assert_same_adapter(second, model)


def test_the_checkpoint_may_be_loaded_after_all(folder: Path) -> None:
    model = get_peft_model(bert_classifier(), read(folder))
    called(model)
    model.load_adapter(str(folder), ONE)
    assert_same_adapter(model, PeftModel.from_pretrained(bert_classifier(), str(folder)))
