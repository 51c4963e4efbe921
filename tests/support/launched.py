"""What a script does that `torchrun` or `accelerate launch` starts, as test_processes.py does."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from peft_fishdip import FishDipCallback

from .models import flat_of, padded, tied_t5, tuned
from .processes import EPS, mask_of, pairs


def launched(directory: str) -> None:
    """A Trainer, and a loop of one's own."""
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    examples: Any = pairs(12)
    model = tuned(tied_t5(), delta_scale="rms", num_samples=4, update_interval=2)
    args = TrainingArguments(
        f"{directory}/runs",
        use_cpu=True,
        per_device_train_batch_size=4 // world,
        num_train_epochs=2,
        train_sampling_strategy="sequential",
        average_tokens_across_devices=False,  # the Trainer would multiply T5's mean loss by the number of processes
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02, eps=EPS)
    callback = FishDipCallback()
    trainer = Trainer(
        model, args, train_dataset=examples, data_collator=padded, callbacks=[callback], optimizers=(optimizer, None)
    )
    trainer.train()
    found: dict[str, Any] = {
        "updates": [(update.step, update.example_ids) for update in callback.updates],
        "mask": mask_of(model),
        "flat": flat_of(model).detach().clone(),
    }
    trainer.save_model(f"{directory}/adapter")

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = tuned(tied_t5(), num_samples=4)
    prepared: Any = accelerator.prepare(
        model,
        torch.optim.AdamW([flat_of(model)], lr=0.02, eps=EPS),
        DataLoader(examples[:11], batch_size=2, collate_fn=padded),
    )
    outer, wrapped_optimizer, loader = prepared
    for number, batch in enumerate(loader):
        if number % 3 == 0:
            update = model.base_model.update_mask(examples[:11], optimizer=wrapped_optimizer)
        with accelerator.accumulate(outer):
            accelerator.backward(outer(**batch).loss)
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad()
    found |= {"own mask": mask_of(model), "own flat": flat_of(model).detach().clone(), "own ids": update.example_ids}
    torch.save(found, f"{directory}/{world}.{os.environ.get('RANK', '0')}.pt")
    if world > 1:
        dist.destroy_process_group()
        # torch's Reducer, freed when this returns, waits for gloo's threads with the GIL, for which they may wait
        os._exit(0)


if __name__ == "__main__":
    launched(sys.argv[1])
