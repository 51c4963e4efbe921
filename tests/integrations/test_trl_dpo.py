"""trl's DPOTrainer: `peft_config=FishDipConfig(...)` in place of LoraConfig; the base is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from .tiny import QUIET, STEPS, assert_loads, assert_trained, config, llama, recorded, sentence, tokenizer

pytestmark = QUIET

ROWS = [
    {"prompt": sentence(i), "chosen": " " + sentence(i + 1), "rejected": " " + sentence(3 * i + 2)} for i in range(36)
]


def trainer(folder: Path, base: Any, **options: Any) -> Any:
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **options,
    }
    arguments = DPOConfig(str(folder), **settings)
    rows = Dataset.from_list(ROWS)
    return DPOTrainer(base, args=arguments, train_dataset=rows, processing_class=tokenizer(), peft_config=config())


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reference_first": {"precompute_ref_log_probs": True},
    "checkpointing": {"gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("way", WAYS)
def test_dpo_trains_the_masks_that_the_gradients_of_its_pairs_choose(tmp_path: Path, way: str, tied: bool) -> None:
    made = trainer(tmp_path, llama(tie_word_embeddings=tied), **WAYS[way])
    with recorded(made.model) as steps:
        made.train()
    assert_trained(steps, by_losses=False, first=1)
    assert_loads(made.model, llama(tie_word_embeddings=tied), tmp_path / "adapter")


def test_the_reference_is_the_base(tmp_path: Path) -> None:
    """The policy differs from the reference only as it is trained: with equal ones, the loss of a pair is log 2."""
    made = trainer(tmp_path, llama())
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3)
