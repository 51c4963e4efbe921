"""Parameters whose values stand packed in some other form, as those of quantised layers do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def is_packed(parameter: Tensor) -> bool:
    """Whether this is anything but a plain tensor of float64, float32, float16 or bfloat16."""
    plain = type(parameter.data) is Tensor and type(parameter) in (Tensor, nn.Parameter)
    return parameter.dtype not in FLOATS or not plain
