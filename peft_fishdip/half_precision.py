"""Matrix products of half precision on processors that have no units for them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .private import TorchDispatchMode

HALVES_ARE_SLOW = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""Whether this processor lacks such units: products in half precision then take many times as long."""

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


def multiplies_slowly(tensor: Tensor) -> bool:
    """Whether products of this tensor are slow for want of units for its dtype."""
    return HALVES_ARE_SLOW and tensor.is_cpu and tensor.dtype in (torch.bfloat16, torch.float16)


def for_product(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that its device multiplies quickly: itself, or in float32."""
    return tensor.float() if multiplies_slowly(tensor) else tensor


class Float32Products(TorchDispatchMode):
    """Within, slow products are computed in float32 and rounded once, whoever asks for them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and multiplies_slowly(args[0]):
            return func(*map(for_product, args), **(kwargs or {})).to(args[0].dtype)
        return func(*args, **(kwargs or {}))


def float32_products(parameters: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """[`Float32Products`], if a model of these parameters would gain by it."""
    return Float32Products() if any(map(multiplies_slowly, parameters)) else nullcontext()
