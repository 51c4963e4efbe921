"""The head of a tagger or reader of answers: a PeftModel trains it whole, and elsewhere the mask tunes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from transformers import BertForQuestionAnswering

from peft_fishdip import FishDipConfig, tuner_of

from ..support.models import bert_config, bert_tagger, padded, tagger_examples, tuned


def bert_reader() -> BertForQuestionAnswering:
    torch.manual_seed(2)
    config = bert_config()
    config.num_labels = 2
    return BertForQuestionAnswering(config).eval()


HEADS: dict[str, tuple[Callable[[], Any], str]] = {
    "TOKEN_CLS": (bert_tagger, "classifier"),
    "QUESTION_ANS": (bert_reader, "qa_outputs"),
}


def added(base: Any, config: FishDipConfig) -> Any:
    base.add_adapter(config)
    return base


def injected(base: Any, config: FishDipConfig) -> Any:
    return inject_adapter_in_model(config, base)


@pytest.mark.parametrize("way", [added, injected])
@pytest.mark.parametrize("task", HEADS)
def test_the_mask_tunes_it_outside_of_a_peft_model(task: str, way: Any) -> None:
    build, head = HEADS[task]
    model = way(build(), FishDipConfig(task_type=task, density=0.1))
    assert {f"{head}.weight", f"{head}.bias"} < tuner_of(model).mask().keys()


@pytest.mark.parametrize("task", HEADS)
def test_a_peft_model_trains_it_whole(task: str) -> None:
    build, head = HEADS[task]
    model = get_peft_model(build(), FishDipConfig(task_type=task, density=0.1))
    model.add_adapter("second", FishDipConfig(task_type=task, density=0.1))
    for adapter in ("default", "second"):
        assert not [name for name in model.base_model.mask(adapter) if head in name]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert f"base_model.model.{head}.modules_to_save.default.weight" in trained


@pytest.mark.parametrize("with_head", [True, False])
def test_adapters_that_were_saved_load(with_head: bool, tmp_path: Path) -> None:
    """Those that were saved without their head have none, as before this was changed."""
    config = FishDipConfig(task_type="TOKEN_CLS", density=0.1, init_weights=False)
    config.exclude_modules = None if with_head else {"classifier"}
    model = added(bert_tagger(), config)
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "exclude_modules": None}))
    loaded = bert_tagger()
    loaded.load_adapter(str(tmp_path))
    batch = padded(tagger_examples(2))
    assert ("classifier.weight" in tuner_of(loaded).mask()) is with_head
    assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)


def test_a_head_that_is_named_is_tuned() -> None:
    model = injected(bert_tagger(), FishDipConfig(task_type="TOKEN_CLS", density=0.5, target_modules=["classifier"]))
    assert [*tuner_of(model).mask()] == ["classifier.weight", "classifier.bias"]
    with pytest.raises(ValueError, match="classifier"):
        tuned(bert_tagger(), task_type="TOKEN_CLS", target_modules=["classifier"])
