"""The model that all methods start from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from .experiment import ADAPTER, Experiment
from .settings import SettingsError, one_line

NANO = Path(__file__).parent / "nano"
"""The base model where none is named; its card (README.md) tells how it was trained."""
DESCRIPTIONS = ("README.md", "pretraining.json")
"""Files of a model's folder that describe the model and do not change it."""


def load_model(base_model: str) -> tuple[Any, Any]:
    """The base model in float32 and its tokenizer, from the Hub or a folder.

    Raises:
        SettingsError: there is none in safetensors, or a file of it is damaged.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        model, loading = AutoModelForSeq2SeqLM.from_pretrained(
            base_model, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"--model {base_model}: {one_line(error)}") from error
    if missing := sorted(loading["missing_keys"]):
        raise SettingsError(f"--model {base_model}: its weights lack {', '.join(missing[:3])}; get the files again")
    return model, tokenizer


def digest(base_model: str, model: Any) -> str:
    """Identifies weights and vocabulary: the revision of a Hub model, or a hash of the files of a folder, except for
    those that only describe the model.
    """
    folder = Path(base_model)
    if not folder.is_dir():
        return str(getattr(model.config, "_commit_hash", None))
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in DESCRIPTIONS):
        total.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()


def check_adapters(experiments: Iterable[Experiment], model: Any) -> None:
    """Try each adapter on a copy of the model.

    Raises:
        SettingsError: PEFT refuses one.
    """
    for experiment in experiments:
        if experiment.adapter is None:
            continue
        try:
            get_peft_model(copy.deepcopy(model), experiment.adapter_config())
        except SettingsError:
            raise
        except Exception as error:  # whatever a method raises for a value that it cannot use
            raise SettingsError(f"{experiment.adapter / ADAPTER} does not fit the model: {one_line(error)}") from error
