"""A runner that compares PEFT methods and knows none by name, as PEFT's own does (see comparison.py): it reads an
experiment's two files, trains with `model(**batch)` and `optimizer.step()`, and writes what it has measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, get_cosine_schedule_with_warmup

from .comparison import save_experiment, save_model, sums
from .tiny import QUIET, assert_trained, recorded

pytestmark = QUIET

CHECKOUT = os.environ.get("PEFT_CHECKOUT", "")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "autocast"])
def test_an_experiment_of_two_files_runs(tmp_path: Path, amp: bool) -> None:
    save_model(tmp_path / "model")
    experiment = tmp_path / "experiments" / "fishdip" / "tiny"
    save_experiment(experiment, tmp_path / "model")

    settings = json.loads((experiment / "training_params.json").read_text())
    peft_config = PeftConfig.from_pretrained(experiment)
    tokenizer = AutoTokenizer.from_pretrained(settings["model_id"])
    tokenizer.pad_token = tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(settings["model_id"], device_map="cpu")
    model: Any = get_peft_model(base, peft_config, autocast_adapter_dtype=True)
    optimizer = torch.optim.AdamW(model.parameters(), **settings["optimizer_kwargs"])
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, settings["max_steps"])
    trainable, total = model.get_nb_trainable_parameters()

    rows = sums(24)
    texts = [f"{query} {response}" for query, response in zip(rows["query"], rows["response"], strict=True)]
    prompts = tokenizer(rows["query"][:5], padding=True, padding_side="left", return_tensors="pt")
    generation = GenerationConfig(max_new_tokens=4, pad_token_id=tokenizer.pad_token_id)
    model.eval()
    with model.disable_adapter(), torch.inference_mode():
        before = model(**prompts).logits
    losses, metrics = [], []
    model.train()
    with recorded(model) as steps:
        for step in range(1, settings["max_steps"] + 1):
            batch = tokenizer(texts[4 * step - 4 : 4 * step], padding=True, return_tensors="pt").to(model.device)
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            optimizer.zero_grad()
            with torch.autocast("cpu", enabled=amp):
                loss = model(**batch, num_items_in_batch=batch["attention_mask"].sum().item()).loss
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if step % settings["eval_steps"] == 0:
                model.eval()
                with torch.inference_mode():
                    found = model.generate(**prompts, generation_config=generation)
                model.train()
                metrics.append({"step": step, "train loss": sum(losses) / step, "tokens": found.numel()})
    assert_trained(steps, by_losses=True)

    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    described = {key: list(v) if isinstance(v, set) else v for key, v in peft_config.to_dict().items()}
    train_info = {
        "file_size": (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size,
        "num_trainable_params": trainable,
        "num_total_params": total,
        "metrics": metrics,
    }
    result = json.loads(json.dumps({"run_info": {"peft_config": described}, "train_info": train_info}))
    assert result["run_info"]["peft_config"]["peft_type"] == "FISHDIP"
    assert 0 < trainable < 0.06 * total
    assert len(metrics) == 2
    again = AutoModelForCausalLM.from_pretrained(settings["model_id"])
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    with torch.inference_mode():
        assert torch.equal(loaded(**prompts).logits, model(**prompts).logits)
        with model.disable_adapter():
            assert torch.equal(model(**prompts).logits, before)


@pytest.mark.skipif(not CHECKOUT, reason="no package of PEFT has its comparison: set PEFT_CHECKOUT to a checkout of it")
def test_pefts_own_runner_and_app_take_experiments_and_results() -> None:
    command = [sys.executable, "-m", "tests.integrations.comparison", CHECKOUT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
