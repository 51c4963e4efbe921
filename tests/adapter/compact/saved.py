"""Compact adapters to save and load, and what their files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from peft_fishdip import tuner_of

from ...support.models import base_parameters, bert_classifier, bits
from ..loading.trained import trained

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def classifier(dtype: torch.dtype = torch.bfloat16) -> Any:
    return bert_classifier().to(dtype)


def layers() -> nn.Module:
    """A base that loads in no time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 9)).bfloat16()


def finished(build: Any = classifier, **settings: Any) -> Any:
    """A compact adapter with inactive entries, which nobody trains any more."""
    model = trained(build, **{"delta_scale": "rms", "compact": True, **settings}).eval()
    model.requires_grad_(False)
    return model


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder


def tensors_of(folder: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind in a saved adapter, by the name of the base parameter."""
    found = {key: tensor for key, tensor in load_file(folder / TENSORS).items() if f".fishdip_{kind}." in key}
    return {key.replace(f"fishdip_{kind}.", "").removeprefix("base_model.model."): t for key, t in found.items()}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def effective_bits(model: nn.Module, adapter: str | None = None) -> dict[str, Tensor]:
    """The bits of each base parameter with one adapter's deltas, and its mask: all by the formula, by hand."""
    tuner, base, found = tuner_of(model), base_parameters(model), {}
    for name, (positions, values) in tuner.delta(adapter).items():
        weight = base[name].detach().clone().flatten()
        before = weight[positions]
        wide = before.double() if weight.dtype == torch.float64 else before.float()
        weight[positions] = (wide + values).to(weight.dtype)
        found |= {name: bits(weight), f"{name} mask": bits(tuner.mask(adapter)[name])}
        found[f"{name} support"] = bits(positions)
    return found


def assert_same_effective(model: nn.Module, other: nn.Module, adapter: str | None = None) -> None:
    """Of `model`, the named adapter."""
    mine, its = effective_bits(model, adapter), effective_bits(other)
    assert mine.keys() == its.keys()
    assert [key for key in mine if not torch.equal(mine[key], its[key])] == []
