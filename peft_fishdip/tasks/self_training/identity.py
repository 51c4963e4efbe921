"""What a self-training follows from, to tell it from others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from ..base import Task
from .options import SelfTrainingOptions

SAMPLE = 64
"""Values of each parameter that tell base weights apart."""


def settings_of(
    model: Any,
    adapter: str,
    config: Any,
    task: Task[Any],
    labelled: Sequence[Any],
    unlabelled: Sequence[Any],
    options: SelfTrainingOptions,
    template: Any,
    chat: bool,
) -> dict[str, Any]:
    """All that the rounds follow from, as JSON; the number of rounds is none of it."""
    template = template if template is None or isinstance(template, str) else getattr(template, "__qualname__", "")
    made = {
        "task": [task.name, digest([task.encode(example)[:2] for example in labelled])],
        "labelled": digest([(example, getattr(example, "text", "")) for example in labelled]),
        "unlabelled": digest([(example, getattr(example, "text", "")) for example in unlabelled]),
        "model": type(model.get_base_model()).__name__,
        "base weights": digest_of_base(model),
        "adapter": [adapter, config.to_dict()],
        "template": [template, chat],
        **asdict(options),
    }
    found: dict[str, Any] = json.loads(json.dumps(made, sort_keys=True, default=_plain))
    return found


def digest(content: Any) -> str:
    """Of anything with a faithful `repr`."""
    return sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:16]


@torch.no_grad()
def digest_of_base(model: nn.Module) -> str:
    """Of names, shapes and some values of the parameters that are not trained."""
    total = sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, flat.numel() // SAMPLE)].double().cpu()
            total.update(f"{name} {tuple(parameter.shape)} {some.tolist()}\n".encode())
    return total.hexdigest()[:16]


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
