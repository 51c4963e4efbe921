"""Training an adapter of a quantised base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import prepare_model_for_kbit_training
from transformers import Trainer, TrainingArguments

from peft_fishdip import FishDipCallback

from ...support.models import num_updates, padded, train, tuned
from .bases import EXAMPLES, KINDS, assert_same, quantised, stored_bits


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_leaves_the_base(saved: dict[str, Path], kind: str) -> None:
    base = prepare_model_for_kbit_training(quantised(saved["llama"], kind), use_gradient_checkpointing=False)
    before, loss_before = stored_bits(base), float(base(**padded(EXAMPLES)).loss)
    model = tuned(base, density=0.05, num_samples=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def update(step: int) -> None:
        if step % 10 == 0:
            model.base_model.update_mask(EXAMPLES, optimizer=optimizer)

    train(model, EXAMPLES, 30, optimizer, update)
    with torch.no_grad():
        assert float(model(**padded(EXAMPLES)).loss) < 0.7 * loss_before
    with model.disable_adapter(), torch.no_grad():
        assert float(model(**padded(EXAMPLES)).loss) == loss_before
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): t for name, t in stored_bits(model).items()
    }
    assert_same(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_updates_and_saves_an_adapter_of_a_quantised_base(
    saved: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    model = tuned(quantised(saved["llama"], kind), density=0.05, num_samples=4, update_interval=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        report_to=[],
        use_cpu=True,
        save_steps=2,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=EXAMPLES,
        data_collator=padded,
        callbacks=[FishDipCallback()],
    )
    trainer.train()
    assert num_updates(model) == 2
    assert (tmp_path / "checkpoint-4" / "adapter_model.safetensors").is_file()
