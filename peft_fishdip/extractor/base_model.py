"""The base model of an adapter, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from ..tasks.families import CAUSAL, SEQ2SEQ, as_classification, is_encoder, load_model, task_type
from .settings import Settings


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device that is named, or the first GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r}: choose 'cpu' or 'cuda'") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}: choose 'cpu' or 'cuda'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch sees no GPU here; choose 'cpu'")
    return found


def load_base(settings: Settings, dtype: Any) -> tuple[Any, Any]:
    """Model and tokenizer, in safetensors alone: no code of the model's authors is run.

    Raises:
        ValueError: there is no such model, its files are damaged, or it cannot do the task.
    """
    name, task = settings.base_model, settings.make_task()
    if name.startswith(("./", "../", "/")) and not Path(name).is_dir():
        raise ValueError(
            f"the base model {name!r} is a folder that is not there; change to the folder that it is relative to, or "
            "pass --model (in Python model=) with its new place"
        )
    with _loading(name):
        encoder = is_encoder(AutoConfig.from_pretrained(name))
    if encoder and settings.task == "joint":
        raise ValueError(
            f"{name} is an encoder, which finds entities but no relations; choose a T5 or a causal LM, or leave the "
            "relations out (fishdip convert --drop-relations)"
        )
    if encoder:
        as_classification(task)  # which names a label that cannot stand in a tag
    with _loading(name):
        (model, loading), tokenizer = load_model(
            name, task, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        kind = task_type(model)
    if kind in (SEQ2SEQ, CAUSAL) and (missing := sorted(loading["missing_keys"])):
        raise ValueError(f"the weights of {name!r} lack {', '.join(missing[:3])}; get its files again")
    return model, tokenizer


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Say of an error of the model's files which model it is."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the model {name!r} cannot be loaded; give the id of a T5, causal LM or encoder on the Hub, or a folder "
            f"with its config.json, model.safetensors and tokenizer ({why})"
        ) from error
