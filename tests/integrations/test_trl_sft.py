"""trl's SFTTrainer: `peft_config=FishDipConfig(...)` in place of LoraConfig, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from peft_fishdip import FishDipConfig, FishDipLayer

from .tiny import QUIET, STEPS, assert_loads, assert_trained, config, llama, recorded, sentence, tokenizer

pytestmark = QUIET

TEXTS = [{"text": sentence(i)} for i in range(36)]
PAIRS = [{"prompt": sentence(i), "completion": " " + sentence(i + 1)} for i in range(36)]


def trainer(folder: Path, base: Any, rows: Any = TEXTS, adapter: FishDipConfig | None = None, **options: Any) -> Any:
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_length": 32,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **options,
    }
    return SFTTrainer(
        base,
        SFTConfig(str(folder), **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        peft_config=adapter or config(),
    )


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding_free": {"padding_free": True, "max_length": None},
    "packing": {"packing": True},
    "checkpointing": {"gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("way", WAYS)
def test_sft_trains_the_masks_that_its_examples_choose(tmp_path: Path, way: str, tied: bool) -> None:
    made = trainer(tmp_path, llama(tie_word_embeddings=tied), **WAYS[way])
    assert isinstance(made.model.get_base_model().lm_head, FishDipLayer)
    with recorded(made.model) as steps:
        made.train()
    assert_trained(steps, by_losses=False, first=1)
    assert_loads(made.model, llama(tie_word_embeddings=tied), tmp_path / "adapter")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_sft_takes_the_default_config(tmp_path: Path, tied: bool) -> None:
    made = trainer(tmp_path, llama(tie_word_embeddings=tied), adapter=FishDipConfig())
    made.train()
    assert made.model.base_model.last_update() is not None
    assert_loads(made.model, llama(tie_word_embeddings=tied), tmp_path / "adapter")


def test_sft_of_a_quantized_base_trains_in_float32(tmp_path: Path) -> None:
    llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)

    def base() -> LlamaForCausalLM:
        in_4_bit = BitsAndBytesConfig(load_in_4bit=True)
        return LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=in_4_bit, device_map="cpu")

    made = trainer(tmp_path, base())
    with recorded(made.model) as steps:
        made.train()
    assert_trained(steps, by_losses=False, first=1)
    [state] = made.optimizer.state.values()
    assert {tensor.dtype for tensor in [*made.optimizer.state, *state.values()]} == {torch.float32}
    assert_loads(made.model, base(), tmp_path / "adapter")


def test_sft_on_completions_only(tmp_path: Path) -> None:
    made = trainer(tmp_path, llama(), PAIRS)
    with recorded(made.model) as steps:
        made.train()
    assert_trained(steps, by_losses=False, first=1)
    assert_loads(made.model, llama(), tmp_path / "adapter")
