"""Small files: positions as gaps, and the values of half precision base weights in two bytes.

A compact file has the tensors of any other, under the same names. Positions are a uint8 code, see gaps.py. Where the
first byte of a code has the mark WEIGHTS, its values are not deltas, but the effective weights, in the dtype of the
base: `(base.float() + delta).to(base.dtype)`. Loading makes deltas of them again, `weight.float() - base.float()`,
which give these very weights. The checksum of such a file is that of its codes and of the deltas that loading makes, so
it tells whether the base has the values that the file was saved for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import gaps
from .base_parameter import read
from .state import POSITIONS, VALUES, AdapterState, SparseDelta

Tensors = Mapping[tuple[str, str], Tensor]
"""The tensors of an adapter by kind and parameter name, as [`containers.tensors_in`] finds them."""

REMEDY = "The file is damaged or belongs to another base model; get a fresh copy of it, or the right base."

WEIGHTS = 0x80
"""Mark in the first byte of a code, beside its k: the values are effective weights."""

HALVES = (torch.bfloat16, torch.float16)


class Compacted(NamedTuple):
    """The tensors of an adapter in compact form.

    Attributes:
        tensors: codes and values, without the summary.
        deltas: by parameter name what loading makes of effective weights: float32.
        storage: `FishDipConfig.compact_storage`.
    """

    tensors: dict[tuple[str, str], Tensor]
    deltas: dict[str, Tensor]
    storage: dict[str, str]


@torch.no_grad()
def compacted(state: AdapterState, tensors: Tensors, counts: Sequence[int], exact: bool) -> Compacted:
    """The compact form of an adapter's tensors.

    Args:
        tensors: of all its parameters, as they are in a state dict.
        counts: number of active entries of each delta.
        exact: keep all values float32, also those of half precision base weights.
    """
    found = {} if exact else effective_weights(state, tensors)
    result = Compacted({}, {name: deltas for name, (_, deltas) in found.items()}, {})
    for delta, count in zip(state.deltas, counts, strict=True):
        mark = WEIGHTS if delta.name in found else 0
        code = gaps.encode(tensors[POSITIONS, delta.name], count, mark)
        values = found[delta.name][0] if mark else tensors[VALUES, delta.name]
        result.tensors[POSITIONS, delta.name] = code
        result.tensors[VALUES, delta.name] = values
        result.storage[delta.name] = f"{code.numel()} {str(values.dtype).removeprefix('torch.')}"
    return result


def effective_weights(state: AdapterState, tensors: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """By parameter name the effective weights at the positions of its delta, in the base's dtype, and the deltas that
    loading makes of them: where the base is in half precision, and these deltas give the same weights bit by bit."""
    bases: dict[torch.dtype, dict[SparseDelta, Tensor]] = {dtype: {} for dtype in HALVES}
    for delta in state.deltas:
        positions = tensors[POSITIONS, delta.name]
        base = delta.base_values() if positions.numel() else None
        if base is not None and base.dtype in bases:
            bases[base.dtype][delta] = read(base, positions.to(base.device, torch.int64))
    result = {}
    for dtype, found in bases.items():
        if found:  # of all tensors at once, because most are small
            values = torch.cat([tensors[VALUES, delta.name].float() for delta in found])
            before = torch.cat([base.to(values.device) for base in found.values()]).float()
            sizes = [base.numel() for base in found.values()]
            scales = torch.tensor([delta.scale for delta in found], device="cpu")
            scales = scales.repeat_interleave(torch.tensor(sizes, device="cpu"))
            weights = (before + values).to(dtype)
            deltas = weights.float() - before
            same = (before + deltas).to(dtype).view(torch.int16) == weights.view(torch.int16)
            scales = scales.to(values.device)
            same &= deltas - deltas / scales * scales == 0  # the unit holds them; infinite ones leave NaN
            parts = (part.split(sizes) for part in (weights, deltas, same))
            for delta, own, its_delta, is_same in zip(found, *parts, strict=True):
                if bool(is_same.all()):
                    result[delta.name] = own.clone(), its_delta
    return result


def num_entries(code: Tensor, values: Tensor) -> int:
    """The number of entries of the tensors for one parameter, compact or not."""
    return (values if code.dtype == torch.uint8 else code).numel()


@torch.no_grad()
def expanded(state: AdapterState, tensors: Tensors, counts: Sequence[int]) -> tuple[Tensors, bool]:
    """The tensors of a compact file as any other has them; all others stay what they are.

    Args:
        counts: number of active entries of each delta.

    Returns:
        the tensors, and whether there are deltas from this base among them.

    Raises:
        ValueError: there is something else in them, or the base has no values here to take deltas from.
    """
    result, of_this_base = dict(tensors), False
    for delta, count in zip(state.deltas, counts, strict=True):
        code, values = (tensors.get((kind, delta.name)) for kind in (POSITIONS, VALUES))
        if code is not None and values is not None and code.dtype == torch.uint8:
            where = f"the adapter's tensors for {delta.name!r}"
            if code.dim() != 1:
                raise ValueError(f"{where}: the code of positions is of shape {tuple(code.shape)}, no vector. {REMEDY}")
            found = code.detach().cpu().clone()
            has_weights = bool((found[:1] & WEIGHTS).any())
            found[:1] &= WEIGHTS - 1
            try:
                positions = gaps.decode(found, values.numel(), count, delta.numel).to(values.device)
            except ValueError as error:
                raise ValueError(f"{where}: {error}. {REMEDY}") from error
            result[POSITIONS, delta.name] = positions
            if has_weights:
                of_this_base = True
                result[VALUES, delta.name] = deltas_from_base(where, delta, positions, values.detach())
    return result, of_this_base


def deltas_from_base(where: str, delta: SparseDelta, positions: Tensor, weights: Tensor) -> Tensor:
    if weights.dtype not in HALVES or weights.dim() != 1:
        raise ValueError(
            f"{where}: effective weights must be a vector of bfloat16 or float16, not {weights.dtype} of shape "
            f"{tuple(weights.shape)}. {REMEDY}"
        )
    base = delta.base_values()
    if base is None:
        raise ValueError(
            f"{where} are effective weights in {weights.dtype}, since they were saved with compact=True, and the base "
            "has no plain values here to take deltas from (it is quantised, sharded or on meta). Load them onto the "
            "base they were saved with; saved from there with compact=False, they load onto this one."
        )
    before = read(base, positions.to(base.device)).to(weights.dtype)  # as it was, if it has been cast since
    return weights.float() - before.float().to(weights.device)
