"""Weights that bitsandbytes or torchao hold quantised; PEFT's backends know how to read and to replace them."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.quantization_utils import (
    QuantizationBackend,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import Tensor, nn

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def has_quantized_storage(parameter: Tensor) -> bool:
    """Whether this is anything but a plain tensor of float64, float32, float16 or bfloat16."""
    plain = type(parameter.data) is Tensor and type(parameter) in (Tensor, nn.Parameter)
    return parameter.dtype not in FLOATS or not plain


def backend_of(model: nn.Module, module: nn.Module, name: str) -> QuantizationBackend | None:
    """How the parameter `name` of a module of `model` is read and replaced, if it is a quantised linear weight.

    Returns:
        None for a plain parameter, and for one whose values cannot be had.
    """
    if name != "weight" or not isinstance(module, nn.Linear) or not has_quantized_storage(module.weight):
        return None
    arguments: dict[str, Any] = {"get_apply_tensor_subclass": unknown_torchao_config}
    backend = resolve_quantization_backend(module, **arguments | get_quantization_kwargs(model))
    return backend if backend is not None and backend.supports_merge else None


def keep_readable(module: Any) -> None:
    """Have a 4-bit layer of bitsandbytes keep its weight in the form that can be read and that gradients pass.

    On CPUs with AVX512-BF16 such a layer packs its weight anew when it is first called in eval mode; that form has no
    gradient, and PEFT cannot read it.
    """
    if getattr(module, "support_avx512bf16_for_cpu", False):
        module.support_avx512bf16_for_cpu = False
        module.state_dict()  # takes the weight out of that form, if it is in it


def unknown_torchao_config() -> Any:
    """Stands in for the config that a torchao weight is quantised by, which only merging needs."""
    raise ValueError(
        "merging into a weight that torchao has quantised needs the config it was quantised by, which only models "
        "loaded by from_pretrained(..., quantization_config=TorchAoConfig(...)) know."
    )


def quantized_shape(module: Any) -> torch.Size:
    """Shape of the values of a quantised linear layer's weight."""
    return torch.Size((module.out_features, module.in_features))
