"""torch.nn.DataParallel, which a Trainer uses by itself where it sees several GPUs, is refused with the remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.nn.parallel import replicate
from torch.nn.utils import prune

from peft_fishdip import FishDipConfig

from ..support.models import (
    bert_classifier,
    bits,
    classifier_examples,
    gpt2,
    llama,
    lm_examples,
    padded,
    seq2seq_examples,
    tied_t5,
    tuned,
)

REPLICATE: Any = sys.modules[replicate.__module__]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own `replicate`, with copies on the CPU in place of those on GPUs."""

    def copies(tensors: list[torch.Tensor], devices: list[int], detach: bool = False) -> list[list[torch.Tensor]]:
        return [[tensor.detach() if detach else tensor.view_as(tensor) for tensor in tensors] for _ in devices]

    monkeypatch.setattr(REPLICATE, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(REPLICATE, "_get_device_index", lambda device, *_: device)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "a PeftModel": (lambda: tuned(tied_t5()), lambda: padded(seq2seq_examples(2))),
    "its tuner": (lambda: tuned(bert_classifier()).base_model, lambda: padded(classifier_examples(2))),
    "a part of it": (
        lambda: tuned(gpt2()).base_model.model.transformer,
        lambda: {"input_ids": torch.ones(2, 3).long()},
    ),
    "injected": (lambda: inject_adapter_in_model(FishDipConfig(), llama()), lambda: padded(lm_examples(2))),
    "one layer of many": (
        lambda: tuned(llama(), target_modules=r".*layers\.1\.mlp\.up_proj"),
        lambda: padded(lm_examples(2)),
    ),
    "one norm": (lambda: tuned(llama(), target_modules=["norm"], density=0.5), lambda: padded(lm_examples(2))),
    "a module of another kind": (
        lambda: tuned(nn.Sequential(nn.Conv1d(2, 3, 2)), density=0.5),
        lambda: {"input": torch.ones(1, 2, 4)},
    ),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_replicas_refuse_to_be_called_and_name_the_remedy(name: str, grad: bool) -> None:
    build, batch = MODELS[name]
    model = build().train(grad)
    before = {key: bits(tensor) for key, tensor in model.named_parameters()}
    for replica in replicate(model, [0, 1]):
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=r"DataParallel.*torchrun.*CUDA_VISIBLE_DEV"):
            replica(**batch())
    assert all(torch.equal(bits(tensor), before[key]) for key, tensor in model.named_parameters())
    model(**batch())


@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_other_methods_and_merged_models_are_replicated() -> None:
    batch = padded(lm_examples(2))
    lora = get_peft_model(gpt2(), LoraConfig(init_lora_weights=False)).eval()
    merged = tuned(gpt2(), init_weights=False)
    merged.merge_adapter()
    for model in (lora, merged, tuned(gpt2(), init_weights=False).merge_and_unload()):
        expected = model(**batch).logits
        for replica in replicate(model, [0, 1]):
            assert torch.equal(replica(**batch).logits, expected)


def test_what_no_longer_is_a_parameter_is_named() -> None:
    model = tuned(nn.Sequential(nn.Linear(3, 3)), density=0.5)
    prune.random_unstructured(model.base_model.model[0].base_layer, "weight", 0.5)
    with pytest.raises(ValueError, match=r"'0.weight'.* is no parameter of its Linear any more.*merge_and_unload"):
        model(torch.ones(1, 3))
