"""One JSON file per run, in the schema of PEFT's method_comparison."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .data import Data
from .settings import Experiment
from .training import Outcome

PACKAGES = ("peft-fishdip", "peft", "transformers", "torch", "safetensors", "datasets", "sentencepiece")


def result_path(folder: Path, experiment: Experiment, data_name: str, seed: int) -> Path:
    return folder / data_name / f"{experiment.method}--{experiment.name}--seed{seed}.json"


def write_result(
    path: Path, experiment: Experiment, data: Data, base_model: str, seed: int, outcome: Outcome, error: str = ""
) -> None:
    """Write the result of a run, whole or not at all. `error` marks a failed one."""
    last = outcome.metrics[-1] if outcome.metrics else {}
    test_row = {
        "step": last.get("step", 0),
        "test accuracy": outcome.scores.get("f1"),
        "train loss": last.get("train loss"),
        "train samples": last.get("train samples", 0),
        "train total tokens": last.get("train total tokens", 0),
        **{f"test {name}": value for name, value in outcome.scores.items()},
    }
    content = {
        "run_info": {
            "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "total_time": outcome.train_time + outcome.eval_time,
            "experiment_name": experiment.title,
            "peft_branch": "release",
            "git_revision": git_revision(),
            "train_config": {
                **experiment.params.as_dict(),
                "model_id": base_model,
                "seed": seed,
                "task": data.name,
                "num_train_examples": len(data.train),
                "num_test_examples": len(data.test),
            },
            "peft_config": outcome.adapter_config,
            "error_msg": error,
        },
        "train_info": {
            "accelerator_memory_max": outcome.peak_memory,
            "train_time": outcome.train_time,
            "mask_update_time": outcome.update_time,
            "eval_time": outcome.eval_time,
            "file_size": outcome.file_size,
            "num_trainable_params": outcome.num_trainable_params,
            "num_total_params": outcome.num_total_params,
            "status": "failed" if error else "success",
            "metrics": [*outcome.metrics, test_row],
            "mask_updates": [{"step": update.step, **update.figures()} for update in outcome.updates],
        },
        "meta_info": {
            "package_info": {f"{name}-version": version(name) for name in PACKAGES},
            "system_info": {
                "system": platform.system(),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "num_threads": torch.get_num_threads(),
                "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            },
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content, indent=2, default=sorted) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]


def git_revision() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
