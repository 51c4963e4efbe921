"""Names in a config that select nothing are told of, once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel, get_peft_model

from peft_fishdip import FishDipConfig

from ..support.models import bert_classifier, tuned


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"target_modules": ["query", "nope"]},
            "target_modules: no module of BertForSequenceClassification matches 'nope', so",
        ),
        ({"modules_to_save": ["nope"]}, "modules_to_save: no module of .* matches 'nope'"),
        ({"modules_to_save": ["score", "classifier"]}, "modules_to_save: no module of .* matches 'score'"),
        (
            {"target_modules": ["query"], "layers_to_transform": [0, 7]},
            "layers_to_transform: no module of .* matches 7",
        ),
    ],
)
def test_what_matches_nothing_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=f"{message}.*has no effect; print the model"):
        get_peft_model(bert_classifier(), FishDipConfig(density=0.1, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["query", "attention.self.key", "bert.encoder.layer.1.output.dense"]},
        {"target_modules": ["query", "classifier"], "task_type": "SEQ_CLS"},
        {"task_type": "TOKEN_CLS", "modules_to_save": ["pooler", "score"]},
        {"target_modules": ["query"], "layers_to_transform": [1, 0]},
    ],
)
def test_what_matches_is_not(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        tuned(bert_classifier(), density=0.1, **fields)


def test_loading_does_not_say_it_again(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="matches 'nope'"):
        model = tuned(bert_classifier(), density=0.1, target_modules=["query", "nope"])
    model.save_pretrained(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        PeftModel.from_pretrained(bert_classifier(), str(tmp_path))
