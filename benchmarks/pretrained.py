"""The model that all methods start from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from peft_fishdip import tasks
from peft_fishdip.tasks.families import CAUSAL, as_classification, is_encoder
from peft_fishdip.tasks.lengths import source_room

from .settings import SettingsError, one_line

NANO = Path(__file__).parent / "nano"
"""The base model where none is named; its card (README.md) tells how it was trained."""
DESCRIPTIONS = ("README.md", "pretraining.json")
"""Files of a model's folder that describe the model and do not change it."""
LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)


class Base(NamedTuple):
    """A pretrained model for a task.

    Attributes:
        new: names of modules that the pretrained weights lack: an encoder's classifier.
    """

    model: Any
    tokenizer: Any
    new: list[str]


def load_model(base_model: str, task: tasks.Task[Any]) -> Base:
    """The base model in float32 and its tokenizer, from the Hub or a folder; an encoder with a classifier for the task.

    Raises:
        SettingsError: there is none in safetensors, a file of it is damaged, or it is an encoder that cannot do the
            task.
    """
    try:
        (model, loading), tokenizer = tasks.load_model(
            base_model, task, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        kind = tasks.task_type(model)
    except LOADING_ERRORS as error:
        raise SettingsError(f"--model {base_model}: {one_line(error)}") from error
    missing = sorted(loading["missing_keys"])
    lacking = [key for key in missing if kind in ("SEQ_2_SEQ_LM", CAUSAL) or not is_of_head(key, model)]
    if lacking:
        raise SettingsError(f"--model {base_model}: its weights lack {', '.join(lacking[:3])}; get the files again")
    return Base(model, tokenizer, sorted({key.rpartition(".")[0] for key in missing}))


def is_of_head(key: str, model: Any) -> bool:
    """Whether a parameter is of what stands on top of an encoder: its classifier, or what pools its outputs for it."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def load_config(base_model: str) -> Any:
    """The config of the base model.

    Raises:
        SettingsError: there is no such model.
    """
    try:
        return AutoConfig.from_pretrained(base_model)
    except LOADING_ERRORS as error:
        raise SettingsError(f"--model {base_model}: {one_line(error)}") from error


def check_task(base_model: str, config: Any, dataset: str, task: tasks.Task[Any]) -> None:
    """Refuse a data set that the base model cannot do, since it is an encoder.

    Raises:
        SettingsError: its task can be written neither as tags of words nor as classes of texts.
    """
    try:
        if is_encoder(config):
            as_classification(task)
    except ValueError as error:
        raise SettingsError(f"data set {dataset!r} with --model {base_model}: {error}") from error


def check_length(base_model: str, base: Base, max_length: int) -> None:
    """Refuse a length of sources and targets with which a row of a decoder-only model has no room for a source.

    Raises:
        SettingsError: there is none.
    """
    try:
        source_room(base.model, base.tokenizer, max_length, max_length if tasks.task_type(base.model) == CAUSAL else 0)
    except ValueError as error:
        raise SettingsError(f"--model {base_model}: {error}; here this is --max-length") from error


def digest(base_model: str, config: Any) -> str:
    """Identifies weights and vocabulary: the revision of a Hub model, or a hash of the files of a folder, except for
    those that only describe the model.
    """
    folder = Path(base_model)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None))
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in DESCRIPTIONS):
        total.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()
