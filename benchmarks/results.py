"""One JSON file per run, in the schema of PEFT's method_comparison."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .problems import METRICS, Problem
from .settings import Experiment, read_json
from .training import Outcome

PACKAGES = ("peft-fishdip", "peft", "transformers", "torch", "safetensors", "datasets", "sentencepiece")


def write_result(
    path: Path,
    experiment: Experiment,
    problem: Problem,
    outcome: Outcome,
    error: str = "",
    **config: Any,
) -> None:
    """Write the result of a run, whole or not at all.

    Args:
        error: what a failed run failed with.
        config: what else the run was made with, such as model_id, seed and protocol.
    """
    trace = outcome.trace
    last = trace.metrics[-1] if trace.metrics else {}
    test_row = {
        "step": trace.step,
        "test accuracy": outcome.scores.get(METRICS[problem.kind][0]),
        "train loss": last.get("train loss"),
        "train samples": last.get("train samples", 0),
        "train total tokens": last.get("train total tokens", 0),
        **{f"test {name}": value for name, value in outcome.scores.items()},
    }
    rate_choice = config.pop("rate_choice", [])
    content = {
        "run_info": {
            "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "total_time": trace.train_time + outcome.eval_time,
            "experiment_name": experiment.title,
            "peft_branch": "release",
            "git_revision": git_revision(),
            "train_config": {
                **experiment.params.as_dict(),
                "task": problem.kind,
                "dataset": problem.dataset,
                "num_train_examples": len(problem.train),
                "num_test_examples": problem.num_test,
                **config,
            },
            "rate_choice": rate_choice,
            "peft_config": outcome.adapter_config,
            "error_msg": error,
        },
        "train_info": {
            "accelerator_memory_max": outcome.peak_memory,
            "train_time": trace.train_time,
            "mask_update_time": trace.update_time,
            "eval_time": outcome.eval_time,
            "file_size": outcome.file_size,
            "num_trainable_params": outcome.num_trainable_params,
            "num_total_params": outcome.num_total_params,
            "stopped_at": trace.step,
            "status": "failed" if error else "success",
            "metrics": [*trace.metrics, test_row],
            "mask_updates": trace.updates,
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
    write_json(path, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content, indent=1, default=sorted) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_json(path) for path in sorted(folder.glob("results/*/*/*.json"))]


def score(result: Mapping[str, Any]) -> tuple[float, float]:
    """By which the runs of a method are compared: mean of the task's metrics, then the negative test loss."""
    row = result["train_info"]["metrics"][-1]
    metrics = [row.get(f"test {name}") for name in METRICS[result["run_info"]["train_config"]["task"]]]
    loss = row.get("test loss")
    if result["train_info"]["status"] != "success" or loss is None or loss != loss:
        return float("-inf"), float("-inf")
    return sum(metrics) / len(metrics), -loss


@functools.cache
def git_revision() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
