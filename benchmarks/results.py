"""One JSON file per run, in the schema of PEFT's method_comparison."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import torch

from .experiment import Experiment
from .files import read_own, write_json
from .machine import git_revision, now, packages
from .outcome import Outcome
from .problems import METRICS, Problem
from .settings import SettingsError

NOT_POSSIBLE = "not possible"
"""The status of a run that was not done, since its method does not exist for the model."""
PACKAGES = ("peft-fishdip", "peft", "transformers", "torch", "safetensors", "datasets", "sentencepiece")


def model_name(base_model: str) -> str:
    """What results say of a model: a Hub id or a relative folder as it is, and of any other folder its name, because
    where it lies on one machine tells nothing on another."""
    return PurePath(base_model).name if PurePath(base_model).is_absolute() else base_model


def write_result(
    path: Path,
    experiment: Experiment,
    problem: Problem,
    outcome: Outcome,
    base_model: str,
    error: str = "",
    reason: str = "",
    fingerprint: str = "",
    rate_choice: Sequence[Mapping[str, Any]] = (),
    **config: Any,
) -> None:
    """Write the result of a run, whole or not at all.

    Args:
        error: what a failed run failed with.
        reason: why a run that was not done is not possible.
        fingerprint: of what the experiment and the model were.
        rate_choice: what the learning rate was chosen by, see rates.trial_row.
        config: what else the run was made with, such as seed and protocol.
    """
    trace, adapter_config = outcome.trace, outcome.adapter_config
    if adapter_config and "base_model_name_or_path" in adapter_config:
        adapter_config = {**adapter_config, "base_model_name_or_path": model_name(base_model)}
    test_row = {
        "step": trace.step,
        "test accuracy": outcome.scores.get(METRICS[problem.kind][0]),
        "train loss": trace.metrics[-1]["train loss"] if trace.metrics else None,
        "train samples": trace.samples,
        "train total tokens": trace.tokens,
        **({} if outcome.forgetting is None else {"forgetting": outcome.forgetting.value}),
        **({} if outcome.calibration_error is None else {"calibration error": outcome.calibration_error}),
        **{f"test {name}": value for name, value in outcome.scores.items()},
    }
    content = {
        "run_info": {
            "created_at": now(),
            "total_time": trace.train_time + outcome.eval_time,
            "experiment_name": experiment.title,
            "peft_branch": "release",
            "git_revision": git_revision(),
            "fingerprint": fingerprint,
            "train_config": {
                **experiment.params.as_dict(),
                "task": problem.kind,
                "dataset": problem.dataset,
                "num_train_examples": len(problem.train),
                "num_test_examples": problem.num_test,
                "num_episodes": len(problem.episodes),
                "train_file": problem.train_file,
                **({"num_unlabelled_examples": len(problem.unlabelled)} if problem.unlabelled else {}),
                "task_type": outcome.task_type,
                "model_id": model_name(base_model),
                **config,
            },
            "rate_choice": list(rate_choice),
            "peft_config": adapter_config,
            "error_msg": error or reason,
        },
        "train_info": {
            "accelerator_memory_max": outcome.peak_memory,
            "memory_after_fit": outcome.fit_memory,
            "train_time": trace.train_time,
            "mask_update_time": trace.update_time,
            "eval_time": outcome.eval_time,
            "file_size": outcome.file_size,
            "num_base_params": outcome.num_base_params,
            "num_trainable_params": outcome.num_trainable_params,
            "num_total_params": outcome.num_total_params,
            "stopped_at": trace.step,
            "status": "failed" if error else NOT_POSSIBLE if reason else "success",
            "metrics": [*trace.metrics, test_row],
            "test_counts": outcome.counts,
            "predictions": outcome.predictions,
            "plain_text": None if outcome.forgetting is None else asdict(outcome.forgetting),
            "mask_updates": trace.updates,
            "fit_begins": trace.begins,
            "in_context_shown": outcome.in_context_shown,
            "notes": outcome.notes,
            **({} if outcome.self_training is None else {"self_training": outcome.self_training}),
        },
        "meta_info": {
            "package_info": {f"{name}-version": number for name, number in packages(PACKAGES).items()},
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


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_result(path) for path in sorted(folder.glob("results/*/*/*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """The result of a run.

    Raises:
        SettingsError: the file holds none.
    """
    content = read_own(path)
    if not all(isinstance(content.get(part), dict) for part in ("run_info", "train_info", "meta_info")):
        raise SettingsError(f"{path} is not the result of a run; delete this file")
    return content


def density_in_the_end(result: Mapping[str, Any]) -> float:
    """The density of a mask with as many entries as a run of a moving mask had changed by its end.

    Raises:
        ValueError: the run failed, or was not possible.
    """
    info, run = result["train_info"], result["run_info"]
    if info["status"] != "success":
        raise ValueError(f"{run['experiment_name']}, whose entries are counted: {run['error_msg']}")
    last = info["mask_updates"][-1]
    # half an entry more, because K is rounded down: the mask gets the support's size, or a few entries more
    return float(min(1.0, run["peft_config"]["density"] * (last["mask_support"] + 0.5) / last["mask_active"]))


def failed(result: Mapping[str, Any]) -> bool:
    return result["train_info"].get("status") not in ("success", NOT_POSSIBLE)


def not_possible(result: Mapping[str, Any]) -> bool:
    return bool(result["train_info"].get("status") == NOT_POSSIBLE)


def short_revision(revision: str, length: int = 12) -> str:
    """Of a commit enough to tell it; the "+" of code that differed from it stays."""
    return revision[:length] + "+" * (len(revision) > length and revision.endswith("+"))
