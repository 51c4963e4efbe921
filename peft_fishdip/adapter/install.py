"""Loading an adapter: its tensors are checked as a whole, against their SHA-256, and installed in one step."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from ..selection import top_k
from .atomic import Write, apply_all, assign
from .entries import Entries
from .state import POSITIONS, SUMMARY, VALUES, AdapterState, SparseDelta

DIGEST = "sha256"
"""The last part of the summary's key, `....fishdip_summary.sha256`."""

WORDS = 4
"""Number of 64-bit words of a SHA-256."""

DAMAGED = "the file is damaged; get a fresh copy of it."
REMEDY = "The file is damaged or belongs to another base model; get a fresh copy of it, or the right base."

Tensors = Mapping[tuple[str, str], Tensor]
"""The tensors of an adapter by kind and parameter name, as [`containers.tensors_in`] finds them."""


def summary(state: AdapterState) -> Tensor:
    """The summary of an adapter: int64 (WORDS + number of deltas + 1,).

    It holds a SHA-256 of all positions and values, the number of active entries of each delta, and the number of mask
    updates. It is the only place in a checkpoint that tells active from inactive entries.
    """
    numbers = torch.tensor([*state.sizes, state.num_updates], dtype=torch.int64)
    pairs = zip((delta.support for delta in state.deltas), state.stored_values(), strict=True)
    return torch.cat([digest(state, list(pairs), numbers), numbers])


def summary_size(state: AdapterState) -> int:
    return WORDS + len(state.deltas) + 1


def digest(state: AdapterState, pairs: Sequence[tuple[Tensor, Tensor]], numbers: Tensor) -> Tensor:
    """SHA-256 of parameter names, numbers, and positions and values of each delta: int64 (WORDS,)."""
    found = hashlib.sha256(repr([delta.name for delta in state.deltas]).encode())
    found.update(numbers.numpy().tobytes())
    for positions, values in pairs:
        found.update(positions.detach().cpu().to(torch.int64).contiguous().numpy().tobytes())
        found.update(values.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
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


def installing(state: AdapterState, tensors: Tensors) -> list[Write]:
    """Check the tensors of an adapter as a whole, and return the writes that install it. Changes nothing yet.

    Raises:
        ValueError: a tensor is missing, of a wrong dtype or shape, or not what was saved; the message names it.
    """
    lacking = missing(state, tensors)
    if lacking:
        raise ValueError(f"the adapter has {lacking}: the file is incomplete or was made for another model.")
    no_positions, no_values = torch.empty(0, dtype=torch.int32), torch.empty(0)
    names = [delta.name for delta in state.deltas]
    pairs = [(tensors.get((POSITIONS, n), no_positions), tensors.get((VALUES, n), no_values)) for n in names]
    told = tensors[SUMMARY, ""].detach().cpu()
    counts = active_counts(state, pairs, told)
    entries, values = [], []
    for delta, pair, count in zip(state.deltas, pairs, counts, strict=True):
        found, active_values = check_delta(delta, *pair, count)
        entries.append(found)
        values.append(active_values)
    if not torch.equal(digest(state, pairs, told[WORDS:]), told[:WORDS]):
        dtypes = {values.dtype for _, values in pairs if values.numel()}
        if len(dtypes) != 1 or torch.float32 in dtypes:
            raise ValueError(f"the adapter's tensors are not those that were saved, by their SHA-256: {DAMAGED}")
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
    return [*writes, assign(state, "num_updates", updates), assign(state, "set_by_name", {})]


def active_counts(state: AdapterState, pairs: Sequence[tuple[Tensor, Tensor]], told: Tensor) -> list[int]:
    """Number of active entries of each delta, from a summary; ValueError if it is none of an adapter with these deltas
    and this K. Version 0.1 of the format lacks the number of updates."""
    if told.dtype != torch.int64 or told.dim() != 1 or summary_size(state) - told.numel() not in (0, 1):
        raise ValueError(
            f"the adapter's summary is a {told.dtype} of shape {tuple(told.shape)}, not int64 of "
            f"{summary_size(state)} entries: the file is damaged or was made for another model; get a fresh copy of "
            "it, or the right base."
        )
    counts: list[int] = told[WORDS : WORDS + len(state.deltas)].tolist()
    if any(not 0 <= count <= positions.numel() for count, (positions, _) in zip(counts, pairs, strict=True)):
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
