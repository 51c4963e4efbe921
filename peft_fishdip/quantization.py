"""Quantized storage of weights by bitsandbytes or torchao, which PEFT's backends dequantize and replace."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.quantization_utils import QuantizationBackend, get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def has_quantized_storage(parameter: Tensor) -> bool:
    """Whether a parameter is not a plain tensor of float64, float32, float16 or bfloat16."""
    plain = type(parameter.data) is Tensor and type(parameter) in (Tensor, nn.Parameter)
    return parameter.dtype not in FLOATS or not plain


def backend_of(model: nn.Module, module: nn.Module, name: str) -> QuantizationBackend | None:
    """PEFT's backend for the parameter `name` of `module`; None if that is no quantized linear weight, or if no backend
    can dequantize it."""
    if name != "weight" or not isinstance(module, nn.Linear) or not has_quantized_storage(module.weight):
        return None
    arguments: dict[str, Any] = {"get_apply_tensor_subclass": unknown_torchao_config}
    backend = resolve_quantization_backend(module, **arguments | get_quantization_kwargs(model))
    return backend if backend is not None and backend.supports_merge else None


def keep_readable(module: Any) -> None:
    """Keep a 4-bit layer of bitsandbytes in the layout that supports gradients and that PEFT can dequantize.

    On CPUs with AVX512-BF16 the first call in eval mode would convert the weight to another layout, which does neither.
    """
    if getattr(module, "support_avx512bf16_for_cpu", False):
        module.support_avx512bf16_for_cpu = False
        module.state_dict()  # converts the weight back


def unknown_torchao_config() -> Any:
    """Raise where merging needs the config that a torchao weight was quantized with, and the model has none."""
    raise ValueError(
        "merging into a weight that torchao has quantized needs the config it was quantized by, which only models "
        "loaded by from_pretrained(..., quantization_config=TorchAoConfig(...)) know."
    )


def quantized_shape(module: Any) -> torch.Size:
    """Shape of the dequantized weight of a linear layer."""
    return torch.Size((module.out_features, module.in_features))
