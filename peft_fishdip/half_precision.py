"""Matrix products in half precision on CPUs without instructions for them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .private import TorchDispatchMode

# without such instructions, products in half precision take many times as long
HALVES_ARE_SLOW = torch.backends.cpu.get_cpu_capability() == "AVX2"
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


def multiplies_slowly(tensor: Tensor) -> bool:
    """Whether this CPU has no instructions for products in the tensor's dtype."""
    return HALVES_ARE_SLOW and tensor.is_cpu and tensor.dtype in (torch.bfloat16, torch.float16)


def for_product(tensor: Tensor) -> Tensor:
    """The tensor, converted to float32 if products in its own dtype are slow."""
    return tensor.float() if multiplies_slowly(tensor) else tensor


class Float32Products(TorchDispatchMode):
    """Inside this mode, products that would be slow are computed in float32 and rounded once."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and multiplies_slowly(args[0]):
            return func(*map(for_product, args), **(kwargs or {})).to(args[0].dtype)
        return func(*args, **(kwargs or {}))


def float32_products(parameters: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """[`Float32Products`] if any of a model's parameters multiplies slowly, otherwise a context that does nothing."""
    return Float32Products() if any(map(multiplies_slowly, parameters)) else nullcontext()
