"""A config that is damaged, or stands alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, PeftModel, get_peft_model

from ...support.models import bert_classifier, classifier_examples, snapshot
from .clean import assert_clean

WEIGHT = "bert.encoder.layer.0.output.dense.weight"


def with_config(good: Path, target: Path, edit: Callable[[dict[str, Any]], Any]) -> str:
    config = json.loads((good / "adapter_config.json").read_text())
    edit(config)
    (target / "adapter_config.json").write_text(json.dumps(config))
    (target / "adapter_model.safetensors").write_bytes((good / "adapter_model.safetensors").read_bytes())
    return str(target)


def rename(config: dict[str, Any]) -> None:
    config["support_sizes"]["elsewhere.weight"] = config["support_sizes"].pop(WEIGHT)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(support_sizes={"a": [1]}), r"support_sizes\['a'\]=\[1\] must be an int >= 0"),
        (lambda c: c.update(support_sizes=[3]), r"support_sizes=\[3\] must map base parameters"),
        (lambda c: c["support_sizes"].update({WEIGHT: -1}), "=-1 must be an int >= 0"),
        (lambda c: c["support_sizes"].update({WEIGHT: True}), "=True must be an int >= 0"),
        (lambda c: c["support_sizes"].update({WEIGHT: 10**6}), rf"1000000 entries of '{WEIGHT}', which has"),
        (lambda c: c["support_sizes"].pop(WEIGHT), f"only the model has '{WEIGHT}'"),
        (rename, "made for another model: only the"),
        (lambda c: c.update(support_sizes=dict.fromkeys(c["support_sizes"], 0)), r"it has 0 entries in all, density"),
        (lambda c: c.update(density=0.06), r"\d+ active entries where density=0\.06 of \d+ parameters makes \d+"),
        # what version 0.1 wrote
        (lambda c: c.update(counts={"a": [1]}), r"counts\['a'\]=\[1\] must be two ints"),
        (lambda c: c.update(counts=[3]), r"counts=\[3\] must map base parameters"),
        (lambda c: c.update(counts={WEIGHT: [-1, 2]}), "must be two ints >= 0"),
        (lambda c: c.update(density=7), "density=7 is outside"),
        (lambda c: c.update(num_updates=-1), "num_updates=-1 must be"),
    ],
)
def test_a_damaged_config_is_refused_and_the_base_stays_clean(
    edit: Callable[[dict[str, Any]], Any], message: str, good: Path, tmp_path: Path
) -> None:
    base = bert_classifier()
    before = snapshot(base)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, with_config(good, tmp_path, edit))
    assert_clean(base, before)


def test_a_config_alone_does_not_make_a_checkpoint(good: Path) -> None:
    config = PeftConfig.from_pretrained(str(good))
    model = get_peft_model(bert_classifier(), config)
    update = model.base_model.update_mask(classifier_examples(3))
    assert update.support_size == update.num_active
