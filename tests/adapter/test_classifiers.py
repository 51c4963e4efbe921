"""A saved classifier: its card, and loading it onto a base that was made with another number of classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModelForSequenceClassification,
    AutoPeftModelForTokenClassification,
    PeftModel,
    get_peft_model,
)
from transformers import BertForSequenceClassification, BertForTokenClassification, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

from peft_fishdip import FishDipConfig

from ..support.models import bert_config

NAMES = {number: f"tag {number}" for number in range(9)}
KINDS: dict[str, tuple[Any, Any]] = {
    "TOKEN_CLS": (BertForTokenClassification, AutoPeftModelForTokenClassification),
    "SEQ_CLS": (BertForSequenceClassification, AutoPeftModelForSequenceClassification),
}
IDS = torch.tensor([[3, 4, 5]])


def saved(task: str, folder: Path) -> Any:
    """A trained classifier of nine classes, saved in `folder`, whose base has a classifier of two."""
    torch.manual_seed(0)
    config = bert_config()
    config.num_labels = 2
    KINDS[task][0](config).save_pretrained(folder / "base")
    base = KINDS[task][0].from_pretrained(folder / "base", num_labels=9, id2label=NAMES, ignore_mismatched_sizes=True)
    model = get_peft_model(base, FishDipConfig(task_type=task, density=0.1, init_weights=False)).eval()
    model.save_pretrained(str(folder / "adapter"))
    return model


def code_of(folder: Path) -> str:
    """The code block of the card, with the folder put in."""
    block = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    return block.replace("path/to/this/folder", str(folder)).replace('base", ', 'base", ignore_mismatched_sizes=True, ')


@pytest.mark.parametrize("task", KINDS)
def test_the_code_of_the_card_loads_nine_classes(task: str, tmp_path: Path) -> None:
    model = saved(task, tmp_path)
    names: dict[str, Any] = {}
    exec(code_of(tmp_path / "adapter"), names)
    loaded = names["model"].eval()
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert loaded.config.id2label == NAMES


@pytest.mark.parametrize("task", KINDS)
def test_auto_classes_load_nine_classes(task: str, tmp_path: Path) -> None:
    model = saved(task, tmp_path)
    with pytest.warns(UserWarning, match="trained with 9 classes, and the base was made with 2.*num_labels=9"):
        loaded = KINDS[task][1].from_pretrained(str(tmp_path / "adapter")).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert loaded.config.id2label == NAMES
    assert loaded.config.label2id == {name: number for number, name in NAMES.items()}
    labels = torch.tensor([[8, 0, 8]]) if task == "TOKEN_CLS" else torch.tensor([8])
    assert torch.equal(loaded(input_ids=IDS, labels=labels).loss, model(input_ids=IDS, labels=labels).loss)
    assert loaded.merge_and_unload()(input_ids=IDS).logits.shape[-1] == 9


def test_a_base_of_as_many_classes_keeps_its_names(tmp_path: Path) -> None:
    saved("TOKEN_CLS", tmp_path)
    config = bert_config()
    config.id2label = {number: f"mine {number}" for number in range(9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="(?s).*(is_gradient_checkpointing|the base model is not the one)")
        loaded = PeftModel.from_pretrained(BertForTokenClassification(config), str(tmp_path / "adapter"))
    assert loaded.config.id2label[8] == "mine 8"


def test_the_last_layer_inside_a_head_is_made_anew_and_the_base_keeps_its_own(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=4
    )
    first = Roberta(config)
    weights = {name: tensor.clone() for name, tensor in first.roberta.state_dict().items()}
    model = get_peft_model(first, FishDipConfig(task_type="SEQ_CLS", density=0.1)).eval()
    model.save_pretrained(str(tmp_path))
    other = RobertaConfig(**{**config.to_dict(), "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": None})
    base = Roberta(other)
    base.roberta.load_state_dict(weights)
    own = base.classifier.out_proj.weight.clone()
    with pytest.warns(UserWarning, match="trained with 4 classes, and the base was made with 3"):
        loaded = PeftModel.from_pretrained(base, str(tmp_path))
    assert loaded.eval()(input_ids=IDS).logits.shape == (1, 4)
    assert torch.equal(base.classifier.original_module.out_proj.weight, own)


def test_the_card_asks_for_nothing_and_keeps_what_a_user_writes(tmp_path: Path) -> None:
    model = saved("SEQ_CLS", tmp_path)
    card = tmp_path / "adapter" / "README.md"
    text = card.read_text(encoding="utf-8")
    assert "[More Information Needed]" not in text
    assert "[optional]" not in text
    assert "### Framework versions" in text
    mine = "## Uses\n\n### Direct Use\n\nFinds tags.\n\n## Limits"
    card.write_text(f"{text}\n{mine}", encoding="utf-8")
    model.save_pretrained(str(tmp_path / "adapter"))
    assert mine in card.read_text(encoding="utf-8")


def test_only_unfilled_parts_are_taken_out() -> None:
    from huggingface_hub import ModelCard, ModelCardData

    from peft_fishdip.adapter.card_template import without_unfilled

    text = str(ModelCard.from_template(ModelCardData(), developers="Ann", direct_use="Finds tags."))
    found = without_unfilled(text)
    assert "- **Developed by:** Ann" in found
    assert "## Uses" in found
    assert "### Direct Use" in found
    assert "Finds tags." in found
    assert "More Information Needed" not in found
    assert "Training" not in found
    assert without_unfilled(found) == found
