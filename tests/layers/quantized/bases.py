"""Frozen bases that bitsandbytes (8 and 4 bit) or torchao (int8) have quantised; without these, tests are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig, TorchAoConfig

from peft_fishdip.quantization import keep_readable

from ...support.models import flat_of, lm_examples, padded, seq2seq_examples, support_size, train, tuned

bitsandbytes = pytest.importorskip("bitsandbytes")
quantization = pytest.importorskip("torchao.quantization")
KINDS: dict[str, Any] = {
    "8bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "torchao": lambda: TorchAoConfig(quantization.Int8WeightOnlyConfig()),
}
EXAMPLES = lm_examples(8)


def quantised(folder: Path, kind: str) -> Any:
    auto = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(
        folder, quantization_config=KINDS[kind](), device_map="cpu", dtype=torch.float32
    ).eval()
    for module in model.modules():
        keep_readable(module)  # what an adapter makes of its base, so that both compute the same on every CPU
    return model


def stored_bits(model: nn.Module) -> dict[str, Tensor]:
    """The bits of all base tensors, by name; of subclasses of Tensor those of their parts."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".fishdip_" in name:
            continue
        parts = getattr(parameter, "tensor_data_names", None)
        for part in parts or [""]:
            tensor = getattr(parameter, part) if part else parameter.data
            plain = torch.Tensor(tensor) if tensor.dtype == torch.float32 else tensor
            found[f"{name}.{part}"] = plain.detach().contiguous().reshape(-1).view(torch.uint8).clone()
    return found


def assert_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@torch.no_grad()
def logits(model: Any, examples: Any = EXAMPLES) -> Tensor:
    return model.eval()(**padded(examples[:4])).logits


def adapted(folder: Path, kind: str, **settings: Any) -> Any:
    """A quantised base with an adapter that was trained over two masks."""
    examples = seq2seq_examples(8) if folder.name == "t5" else EXAMPLES
    model = tuned(quantised(folder, kind), **{"density": 0.05, "num_samples": 4, **settings})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def update(step: int) -> None:
        if step % 3 == 0:
            model.base_model.update_mask(examples, optimizer=optimizer)

    train(model, examples, 6, optimizer, update)
    assert support_size(model) > flat_of(model).numel()
    return model
