"""Checkpoints of a run: folders that are there whole or not at all. Tensors in safetensors, the rest in JSON.

runs/nano/run.json                         settings, shards, versions: written once
runs/nano/log.jsonl                        a row for each report
runs/nano/checkpoint-00001000/
    model.safetensors  optimizer.safetensors  progress.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..settings import SettingsError, read_json

PREFIX = "checkpoint-"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file that is there whole or not at all; on the disk when this returns."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    work = path.with_name(f"{path.name}.unfinished")
    with work.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(work, path)


def save_checkpoint(
    run: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], progress: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step, then remove the older ones."""
    folder = run / f"{PREFIX}{step:08d}"
    work = run / f"unfinished-{folder.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name, tensors in (("model", weights), ("optimizer", optimizer)):
        path = work / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        sync(path)
    write_json(work / "progress.json", progress)
    sync(work)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(work, folder)
    sync(run)
    for older in checkpoints(run)[:-1]:
        shutil.rmtree(older)
    for left in run.glob(f"unfinished-{PREFIX}*"):
        shutil.rmtree(left)
    return folder


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints of a run, the latest last."""
    return sorted(run.glob(f"{PREFIX}*"))


def latest_checkpoint(run: Path) -> Path:
    """The latest one, or a SettingsError."""
    if not (found := checkpoints(run)):
        raise SettingsError(f"{run} holds no checkpoint; make one with `train`")
    return found[-1]


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Weights, optimizer state, progress; a SettingsError names the file that cannot be read."""
    return (
        read_tensors(folder / "model.safetensors"),
        read_tensors(folder / "optimizer.safetensors"),
        read_progress(folder),
    )


def read_progress(folder: Path) -> dict[str, Any]:
    return read_json(folder / "progress.json")


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


@torch.no_grad()
def load_weights(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into parameters of the same names and shapes; a SettingsError if they differ."""
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != found:
        odd = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise SettingsError(f"{origin} is of another model: {', '.join(odd[:3])} differ")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
