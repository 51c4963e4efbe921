"""Lightning: a module around `get_peft_model(base, FishDipConfig(...))` with automatic optimization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from torch.utils.data import DataLoader

from .tiny import QUIET, STEPS, assert_loads, assert_trained, config, llama, padded, recorded, sentence

pytestmark = QUIET


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = get_peft_model(llama(), config(task_type="CAUSAL_LM")).train()

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    settings = {
        "default_root_dir": folder,
        "max_steps": STEPS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    return lightning.Trainer(**settings)


def loader() -> DataLoader[Any]:
    return DataLoader([sentence(i) for i in range(36)], batch_size=3, collate_fn=padded)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_the_masks_that_its_examples_choose(tmp_path: Path, precision: Any, accumulation: int) -> None:
    module = Module()
    with recorded(module) as steps:
        trainer(tmp_path, precision=precision, accumulate_grad_batches=accumulation, gradient_clip_val=1.0).fit(
            module, loader()
        )
    assert_trained(steps, by_losses=True)
    assert_loads(module.model, llama(), tmp_path / "adapter")


def test_a_model_in_evaluation_mode_is_trained_too(tmp_path: Path) -> None:
    module = Module()
    module.model.eval()  # as from_pretrained leaves it, and Lightning too
    with recorded(module) as steps:
        trainer(tmp_path).fit(module, loader())
    assert_trained(steps, by_losses=False, first=1)
    assert_loads(module.model, llama(), tmp_path / "adapter")


def test_a_checkpoint_goes_on_where_it_was(tmp_path: Path) -> None:
    module = Module()
    made = trainer(tmp_path, max_steps=3)
    made.fit(module, loader())
    made.save_checkpoint(tmp_path / "half.ckpt")
    again = Module()
    with recorded(again) as steps:
        trainer(tmp_path).fit(again, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert len(steps) == 3
    assert again.model.base_model.last_update().step == 4
    assert steps[-1].trained > steps[0].trained > 0
