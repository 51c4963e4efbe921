"""What Fish-Dip cannot do is refused by name, and changes nothing; what looks like it and is harmless works."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftMixedModel, get_peft_model, inject_adapter_in_model
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn

from peft_fishdip import FishDipConfig, FishDipLayer, tuner_of

from ..support.models import (
    FAMILIES,
    assert_base_is,
    bert_classifier,
    classifier_examples,
    flat_of,
    gpt2,
    llama,
    lm_examples,
    num_hooks,
    padded,
    seq2seq_examples,
    snapshot,
    tied_t5,
    tuned,
)

NAMES = ["default", "__base__", "default"]


@torch.no_grad()
def logits(model: Any, family: str) -> Tensor:
    return model(**padded(FAMILIES[family][1](3))).logits


# ----- different adapters within one batch --------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "the model": lambda model, batch: model(**batch, adapter_names=NAMES),
    "the tuner": lambda model, batch: model.base_model(**batch, adapter_names=NAMES),
    "the base model inside": lambda model, batch: model.get_base_model()(**batch, adapter_names=NAMES),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_names_are_refused_wherever_they_are_given(family: str, call: str) -> None:
    build, make = FAMILIES[family]
    model, batch = tuned(build(), init_weights=False), padded(make(3))
    with pytest.raises(ValueError, match="adapter_names: Fish-Dip cannot use different adapters within one batch"):
        CALLS[call](model, batch)
    with torch.no_grad():
        assert torch.equal(model(**batch, adapter_names=None).logits, model(**batch).logits)


@pytest.mark.parametrize(("build", "task"), [(tied_t5, "SEQ_2_SEQ_LM"), (gpt2, "CAUSAL_LM")])
def test_adapter_names_are_refused_in_generation(build: Callable[[], Any], task: str) -> None:
    ids = torch.tensor([[3, 4, 5]] * 3)
    for model in (tuned(build(), task_type=task), inject_adapter_in_model(FishDipConfig(), build())):
        with pytest.raises(ValueError, match="adapter_names"):
            model.generate(input_ids=ids, max_new_tokens=2, adapter_names=NAMES)


def test_adapter_names_are_refused_by_models_that_transformers_or_a_user_injected_into() -> None:
    plain = bert_classifier()
    plain.add_adapter(FishDipConfig())
    with pytest.raises(ValueError, match="adapter_names"):
        plain(**padded(classifier_examples(3)), adapter_names=NAMES)
    tuner_of(plain).unload()
    plain(**padded(classifier_examples(3)), adapter_names=NAMES)  # none of our business any more


def test_the_guards_go_with_the_last_adapter_and_come_with_copies() -> None:
    base = tied_t5()
    before = dict(base.__dict__)
    model = tuned(base)
    model.add_adapter("second", FishDipConfig())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="tuned by a Fish-Dip adapter"):
            twin.resize_token_embeddings(50)
        embeddings = twin.resize_token_embeddings()
        assert embeddings is twin.get_base_model().get_input_embeddings() is not base.get_input_embeddings()
    model.unload()
    assert num_hooks(base) == 0
    assert base.__dict__.keys() - {"peft_config"} == before.keys() - {"peft_config"}
    assert base.resize_token_embeddings(50).num_embeddings == 50


# ----- hotswapping, mixed models ------------------------------------------------------------------------------------


def test_hotswapping_is_refused_and_loading_over_the_same_name_does_it(tmp_path: Path) -> None:
    model, other = tuned(bert_classifier(), seed=1), tuned(bert_classifier(), init_weights=False)
    other.base_model.update_mask(classifier_examples(4))
    other.save_pretrained(str(tmp_path))
    before, vector = flat_of(model).clone(), flat_of(model)
    with pytest.raises(ValueError, match=r"(?i)hotswapping only supports LORA but FISHDIP"):
        hotswap_adapter(model, str(tmp_path), "default")
    assert torch.equal(flat_of(model), before)
    model.load_adapter(str(tmp_path), "default")
    assert flat_of(model) is vector
    assert torch.equal(logits(model, "bert"), logits(other, "bert"))
    plain = bert_classifier()
    plain.enable_peft_hotswap()
    plain.load_adapter(str(tmp_path), adapter_name="default")
    with pytest.raises(ValueError, match=r"only supported for LoRA|Hotswapping|already"):
        plain.load_adapter(str(tmp_path), adapter_name="default")
    assert torch.equal(logits(plain, "bert"), logits(other, "bert"))


def test_mixed_models_are_refused_and_leave_the_base_alone(tmp_path: Path) -> None:
    tuned(bert_classifier()).save_pretrained(str(tmp_path))
    base = bert_classifier()
    before = snapshot(base)
    with pytest.raises(ValueError, match="'FISHDIP' is not compatible with the `PeftMixedModel`"):
        get_peft_model(base, FishDipConfig(), mixed=True)
    with pytest.raises(ValueError, match="FISHDIP is not supported for mixed models"):
        PeftMixedModel.from_pretrained(base, str(tmp_path))
    mixed = get_peft_model(base, LoraConfig(target_modules=["query"]), mixed=True)
    with pytest.raises(ValueError, match="'FISHDIP' is not compatible with the `PeftMixedModel`"):
        mixed.add_adapter("second", FishDipConfig())
    assert not any(isinstance(module, FishDipLayer) for module in base.modules())
    found = {name: tensor for name, tensor in snapshot(mixed.unload()).items() if "lora" not in name}
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


# ----- tying and resizing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rate-0.1", "half"])
def test_a_name_that_no_adapter_can_have_is_refused_before_anything_changes(name: str) -> None:
    base = tied_t5()
    before = snapshot(base)
    model = tuned(base, init_weights=False)
    with pytest.raises(ValueError, match=f"adapter_name='{name}' cannot be a key .* choose another"):
        model.add_adapter(name, FishDipConfig(density=0.05))
    with pytest.raises(ValueError, match=f"adapter_name='{name}' cannot be"):
        model.base_model.add_weighted_adapter(["default"], [1.0], name)
    assert list(model.peft_config) == ["default"]
    assert_base_is(model, before)
    assert not [key for key in model.state_dict() if "fishdip" in key and ".default." not in key]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_tying_anew_changes_nothing(family: str, merged: bool) -> None:
    base = FAMILIES[family][0]()
    before = snapshot(base)
    model = tuned(base, init_weights=False)
    if merged:
        model.merge_adapter()
    expected = logits(model, family)
    base.tie_weights()
    base.tie_weights(recompute_mapping=False)
    assert torch.equal(logits(model, family), expected)
    if merged:
        model.unmerge_adapter()
    assert_base_is(model, before)


def test_a_tuned_weight_cannot_be_replaced() -> None:
    model = tuned(llama())
    head = model.get_base_model().lm_head
    with pytest.raises(ValueError, match="the weight of a Linear that a Fish-Dip adapter tunes cannot be replaced"):
        head.weight = nn.Parameter(torch.zeros(48, 16))
    base = model.get_base_model()
    base.config.tie_word_embeddings = True
    with pytest.raises(ValueError, match="the weight of a Linear that a Fish-Dip adapter tunes cannot be replaced"):
        base.tie_weights()
    assert torch.equal(head.weight, llama().lm_head.weight)
    head.note = 3  # everything else can be set
    assert head.note == 3


@pytest.mark.parametrize("targets", [None, ["lm_head"], ["embed_tokens"]])
def test_tuned_embeddings_keep_their_size(targets: list[str] | None) -> None:
    base = llama()
    before = snapshot(base)
    model = tuned(base, target_modules=targets, init_weights=False)
    expected = logits(model, "llama")
    for each in (model, base):
        with pytest.raises(ValueError, match=r"resize_token_embeddings\(50\): the embeddings of 48 tokens are tuned"):
            each.resize_token_embeddings(50)
        with pytest.raises(ValueError, match="tuned by a Fish-Dip adapter"):
            each.resize_token_embeddings(pad_to_multiple_of=32)
        assert each.resize_token_embeddings(48) is each.resize_token_embeddings() is base.get_input_embeddings()
    assert torch.equal(logits(model, "llama"), expected)
    assert_base_is(model, before)
    assert base.config.vocab_size == 48
    merged = model.merge_and_unload()
    merged.resize_token_embeddings(50, mean_resizing=False)
    with torch.no_grad():
        assert merged(**padded(FAMILIES["llama"][1](3))).logits.shape[-1] == 50


def test_embeddings_that_are_not_tuned_can_be_resized() -> None:
    model = tuned(tied_t5(), target_modules=["q", "v"], init_weights=False)
    model.resize_token_embeddings(50, mean_resizing=False)
    batch = padded(seq2seq_examples(3))
    with torch.no_grad():
        assert model(**batch).logits.shape[-1] == 50
        merged = copy.deepcopy(model).merge_and_unload()
        assert torch.equal(model(**batch).logits, merged(**batch).logits)


def test_a_base_that_was_loaded_in_inference_mode_is_called_there_or_refused_with_a_remedy() -> None:
    batch = padded(lm_examples(2))
    with torch.inference_mode():
        base = llama()
    model = tuned(base, init_weights=False)
    refused = pytest.raises(ValueError, match=r"made within torch\.inference_mode\(\).*load the base outside")
    with refused, torch.no_grad():
        model(**batch)
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, tuned(llama(), init_weights=False)(**batch).logits)
