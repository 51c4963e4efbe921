"""Loading an adapter: its tensors are checked as a whole, against their SHA-256, and installed in one step."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from ..selection import top_k
from .atomic import Write, apply_all, assign
from .compact import REMEDY, Tensors, expanded, num_entries
from .entries import Entries
from .state import POSITIONS, SUMMARY, VALUES, AdapterState, SparseDelta

DIGEST = "sha256"
"""The last part of the summary's key, `....fishdip_summary.sha256`."""

WORDS = 4
"""Number of 64-bit words of a SHA-256."""

DAMAGED = "the file is damaged; get a fresh copy of it."
OR_ANOTHER_BASE = " Or the base is another one: with compact=True, the effective weights of its base were saved."


def summary(state: AdapterState) -> Tensor:
    """The summary of an adapter: int64 (WORDS + number of deltas + 1,).

    It holds a SHA-256 of all positions and values, the number of active entries of each delta, and the number of mask
    updates. It is the only place in a checkpoint that tells active from inactive entries.
    """
    numbers = torch.tensor([*state.sizes, state.num_updates], dtype=torch.int64, device="cpu")
    pairs = zip((delta.support for delta in state.deltas), state.stored_values(), strict=True)
    return torch.cat([digest(state, list(pairs), numbers), numbers])


def summary_size(state: AdapterState) -> int:
    return WORDS + len(state.deltas) + 1


def digest(state: AdapterState, pairs: Sequence[tuple[Tensor, Tensor]], numbers: Tensor) -> Tensor:
    """SHA-256 of parameter names, numbers, and positions (or their codes, uint8) and values of each delta: int64
    (WORDS,)."""
    found = hashlib.sha256(repr([delta.name for delta in state.deltas]).encode())
    found.update(numbers.numpy().tobytes())
    for positions, values in pairs:
        code_or_wide = positions if positions.dtype == torch.uint8 else positions.to(torch.int64)
        found.update(code_or_wide.detach().cpu().contiguous().numpy().data)
        found.update(values.detach().cpu().to(torch.float32).contiguous().numpy().data)
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.int64)


def missing(state: AdapterState, tensors: Tensors) -> str | None:
    """What is lacking of an adapter's tensors, as part of a sentence; None if nothing is.

    Empty tensors may be missing: to accelerate's `save_state` they all share one storage, of which it saves one tensor.
    """
    if (SUMMARY, "") not in tensors:
        return f"no {SUMMARY}, which holds its checksum"
    told = tensors[SUMMARY, ""].flatten()[WORDS : WORDS + len(state.deltas)].tolist()
    for delta, count in zip_longest(state.deltas, told):
        found = [tensors[kind, delta.name] for kind in (POSITIONS, VALUES) if (kind, delta.name) in tensors]
        if len(found) == 2 or (count == 0 and not any(tensor.numel() for tensor in found)):
            continue
        lacking = [kind for kind in (POSITIONS, VALUES) if (kind, delta.name) not in tensors]
        return f"no {' and no '.join(lacking)} for {delta.name!r}"
    return None


def number_of_tensors(state: AdapterState) -> int:
    return 2 * len(state.deltas) + 1


class Installation(NamedTuple):
    """The writes that install an adapter, and its tensors, those of a compact file expanded."""

    writes: list[Write]
    tensors: Tensors


def installing(state: AdapterState, tensors: Tensors) -> Installation:
    """Check the tensors of an adapter as a whole, and return what installs it. Changes nothing yet.

    Raises:
        ValueError: a tensor is missing, of a wrong dtype or shape, or not what was saved; the message names it.
    """
    lacking = missing(state, tensors)
    if lacking:
        raise ValueError(f"the adapter has {lacking}: the file is incomplete or was made for another model.")
    no_positions, no_values = torch.empty(0, dtype=torch.int32, device="cpu"), torch.empty(0, device="cpu")
    names = [delta.name for delta in state.deltas]
    told = tensors[SUMMARY, ""].detach().cpu()

    def pairs_of(tensors: Tensors) -> list[tuple[Tensor, Tensor]]:
        return [(tensors.get((POSITIONS, n), no_positions), tensors.get((VALUES, n), no_values)) for n in names]

    stored = pairs_of(tensors)
    counts = active_counts(state, [num_entries(*pair) for pair in stored], told)
    tensors, of_this_base = expanded(state, tensors, counts)
    pairs = pairs_of(tensors)
    codes_and_deltas = [(code, deltas) for (code, _), (_, deltas) in zip(stored, pairs, strict=True)]
    entries, values = [], []
    for delta, pair, count in zip(state.deltas, pairs, counts, strict=True):
        found, active_values = check_delta(delta, *pair, count)
        entries.append(found)
        values.append(active_values)
    if not torch.equal(digest(state, codes_and_deltas if of_this_base else pairs, told[WORDS:]), told[:WORDS]):
        dtypes = {values.dtype for _, values in pairs if values.numel()}
        if len(dtypes) != 1 or torch.float32 in dtypes:
            raise ValueError(
                f"the adapter's tensors are not those that were saved, by their SHA-256: {DAMAGED}"
                + (OR_ANOTHER_BASE if of_this_base else "")
            )
        if len(tensors) < number_of_tensors(state):
            raise ValueError(
                "some of the adapter's tensors are missing, and no checksum can tell that they were empty."
            )
        warnings.warn(
            "the adapter's values are not float32, as they were saved: they have been cast since, and cannot be "
            "compared with their checksum.",
            UserWarning,
            stacklevel=2,
        )
    device = entries[0].active.device if state.flat.is_meta else state.flat.device
    updates = int(told[-1]) if told.numel() == summary_size(state) else state.num_updates
    trainable = torch.cat([value.to(device) for value in values])
    writes = state.replace_entries(entries, trainable)
    if of_this_base and not torch.equal(trainable.to(state.flat.dtype).float(), trainable):
        warnings.warn(
            f"the values of adapter {state.adapter_name!r} are rounded to {state.flat.dtype}, so the effective weights "
            "are not those that were saved with compact=True: load it without autocast_adapter_dtype=False.",
            UserWarning,
            stacklevel=2,
        )
    writes += [assign(state, "num_updates", updates), assign(state, "set_by_name", {})]
    return Installation(writes, tensors)


def active_counts(state: AdapterState, sizes: Sequence[int], told: Tensor) -> list[int]:
    """Number of active entries of each delta, from a summary; ValueError if it is none of an adapter with these deltas,
    of so many entries, and this K. Version 0.1 of the format lacks the number of updates."""
    if told.dtype != torch.int64 or told.dim() != 1 or summary_size(state) - told.numel() not in (0, 1):
        raise ValueError(
            f"the adapter's summary is a {told.dtype} of shape {tuple(told.shape)}, not int64 of "
            f"{summary_size(state)} entries: the file is damaged or was made for another model; get a fresh copy of "
            "it, or the right base."
        )
    counts: list[int] = told[WORDS : WORDS + len(state.deltas)].tolist()
    if any(not 0 <= count <= size for count, size in zip(counts, sizes, strict=True)):
        raise ValueError(f"the adapter's tensors have fewer entries than its counts of active ones say: {DAMAGED}")
    k = state.flat.numel()
    if sum(counts) != k:
        raise ValueError(
            f"the adapter has {sum(counts)} active entries where density={state.config.density} of "
            f"{state.num_parameters} parameters makes {k}. It was made with another density or for another model; "
            "load it under a new adapter name."
        )
    return counts


def check_delta(delta: SparseDelta, positions: Tensor, values: Tensor, num_active: int) -> tuple[Entries, Tensor]:
    """The entries of one delta and its trainable values, (num_active,), from the tensors of a checkpoint; ValueError if
    they cannot be a delta to this parameter."""
    where = f"the adapter's tensors for {delta.name!r}"
    if positions.dtype not in (torch.int32, torch.int64) or positions.dim() != 1:
        raise ValueError(
            f"{where}: positions must be a vector of int32, not {positions.dtype} of shape {tuple(positions.shape)}. "
            + REMEDY
        )
    if not values.is_floating_point() or values.shape != positions.shape:
        raise ValueError(
            f"{where}: values must be floating point, one for each of the {positions.numel()} positions, not "
            f"{values.dtype} of shape {tuple(values.shape)}. " + REMEDY
        )
    positions = positions.detach().to(torch.int64)
    ordered = positions.sort().values
    if positions.numel() and not 0 <= int(ordered[0]) <= int(ordered[-1]) < delta.numel:
        bad = int(ordered[0]) if int(ordered[0]) < 0 else int(ordered[-1])
        raise ValueError(
            f"{where}: position {bad} is outside of the parameter's {delta.numel} entries (shape "
            f"{tuple(delta.shape)}). " + REMEDY
        )
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise ValueError(f"{where}: position {int(ordered[1:][twice][0])} occurs twice. " + REMEDY)
    deltas = values.detach().float()
    if not deltas.isfinite().all():
        bad = int((~deltas.isfinite()).nonzero()[0])
        raise ValueError(f"{where}: the value at position {int(positions[bad])} is {float(values[bad])}. " + REMEDY)
    active, inactive = positions[:num_active], positions[num_active:]
    for run in (active, inactive):
        if (run[1:] < run[:-1]).any():
            order = f"its {num_active} active and {inactive.numel()} inactive positions are not ascending. "
            raise ValueError(f"{where}: {order}" + REMEDY)
    trained = deltas[:num_active] / delta.scale
    if not trained.isfinite().all():
        bad = int((~trained.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: the value at position {int(positions[bad])} is {float(values[bad])}, {float(values[bad]):.3g} / "
            f"{delta.scale:.3g} in the adapter's unit, which float32 cannot hold. " + REMEDY
        )
    device = delta.active.device
    entries = Entries(active.to(device), inactive.to(device), deltas[num_active:].to(device))
    return entries, trained.to(device)


@torch.no_grad()
def install_sum(state: AdapterState, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Make positions and deltas per parameter the adapter's; the K largest deltas become active."""
    k = state.flat.numel()
    chosen = top_k({name: values.abs() for name, (_, values) in sums.items()}, k).positions
    entries, trainable = [], []
    for delta in state.deltas:
        positions, values = (tensor.to(delta.active.device) for tensor in sums[delta.name])
        active = torch.zeros(positions.numel(), dtype=torch.bool, device=positions.device)
        active[chosen[delta.name].to(positions.device)] = True
        entries.append(Entries(positions[active], positions[~active], values[~active]))
        trainable.append((values[active] / delta.scale).to(state.flat.device))
    apply_all(state.replace_entries(entries, torch.cat(trainable)))
