"""What an adapter starts with: its targets, the first positions and values, and the scales of its deltas."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn

from ..config import FishDipConfig
from ..quantization import quantized_shape
from ..selection import num_active, random_positions, top_k
from .atomic import apply_all, assign, copy_into
from .entries import Entries
from .state import AdapterState

MIN_RMS = 1e-3
"""Scale of a tensor that starts at zero, as a bias does; Adafactor's epsilon_2."""


class Use(NamedTuple):
    """One module's use of a parameter: both by name, the module in the model with its wrappers."""

    module: str
    parameter: str


class Target(NamedTuple):
    """A parameter to tune, under its first name in the unwrapped model, with all its uses (several when tied)."""

    name: str
    tensor: nn.Parameter
    uses: list[Use]
    module: nn.Module
    """The first module that uses it, without its wrapper."""
    backend: QuantizationBackend | None
    """How a quantised weight is read; None if it isn't one."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the values; quantized storage may have another one."""
        return quantized_shape(self.module) if self.backend else self.tensor.shape

    @property
    def numel(self) -> int:
        return self.shape.numel()

    def values(self) -> Tensor:
        """The tensor itself, or the values of a quantised one as a new tensor."""
        return self.backend.get_base_weight(self.module) if self.backend else self.tensor.detach()


AUTO_UNIT, AUTO_UNIT_OF_T5 = 8.0, 64.0
"""What trained values count in with delta_scale="auto", times the RMS of the base tensor, so that AdamW at 1e-3 is a
good start: it then changes an entry by 0.008 RMS in a step, and by 0.064 in T5 and its kin, whose attention has no
scale and which the paper trains with 0.1 (Adafactor at 1e-2, 1 % of the entries). Measured in benchmarks/reports/recipe
and recipe_nano; 1e-3 also suits new modules."""

MOST_RMS_OF_AUTO = 1.0
"""A larger RMS counts as this one in delta_scale="auto". The norms of Gemma have gains in the hundreds among others
near 1, which a step of 0.8 % of the RMS would change by a third."""


T5_AND_ITS_KIN = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
"""By transformers' `model_type`."""


def auto_unit(model: nn.Module) -> float:
    """AUTO_UNIT_OF_T5 for T5_AND_ITS_KIN, else AUTO_UNIT."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return AUTO_UNIT_OF_T5 if kind in T5_AND_ITS_KIN else AUTO_UNIT


def delta_scale(config: FishDipConfig, target: Target, unit: float) -> float:
    """The factor from trainable values to deltas, a power of two: 1; or the RMS of the base tensor, if finite; or that
    RMS, at most MOST_RMS_OF_AUTO, times `unit`, the `auto_unit` of the model."""
    if config.delta_scale == "none":
        return 1.0
    size = rms(target.values())
    if not math.isfinite(size):
        raise ValueError(
            f"delta_scale={config.delta_scale!r}: the RMS of {target.name!r} is {size}; use delta_scale='none', or "
            "leave its module out with exclude_modules."
        )
    if config.delta_scale == "auto":
        return unit * 2.0 ** round(math.log2(min(size, MOST_RMS_OF_AUTO)))
    return 2.0 ** round(math.log2(size))


@torch.no_grad()
def rms(tensor: Tensor) -> float:
    """Root of the mean square, at least MIN_RMS."""
    return MIN_RMS if tensor.is_meta else max(MIN_RMS, float(tensor.float().square().mean().sqrt()))


def check_sizes(config: FishDipConfig, targets: Sequence[Target]) -> None:
    """Raise ValueError if K is 0, or if the support sizes of a checkpoint do not fit the model."""
    k = num_active(config.density, sum(target.numel for target in targets))
    sizes, _ = config.checkpointed()
    if sizes is None:
        return
    present = {target.name: target.numel for target in targets}
    strangers = sorted(present.keys() ^ sizes.keys())
    if strangers:
        where = "model" if strangers[0] in present else "adapter"
        raise ValueError(
            f"the adapter was made for another model: only the {where} has {strangers[0]!r} ({len(strangers)} "
            "parameters differ). Load it onto the model that its config names as base_model_name_or_path."
        )
    for name, size in sizes.items():
        if size > present[name]:
            raise ValueError(
                f"the adapter was made for another model, or its config is damaged: {size} entries of {name!r}, which "
                f"has {present[name]}."
            )
    for name, (size, _) in config.checkpointed_storage().items():
        if name not in present or size > present[name] // 4 + 64:  # two bits for each entry, and the ends of its runs
            raise ValueError(
                f"the adapter's config is damaged: compact_storage[{name!r}] has {size} bytes of positions."
            )
    if sum(sizes.values()) < k:
        raise ValueError(
            f"the adapter's config is damaged or was made for another model: it has {sum(sizes.values())} entries in "
            f"all, density={config.density} needs {k} active ones."
        )


def first_positions(config: FishDipConfig, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
    """Active and inactive positions per target before any example has been scored.

    Where a checkpoint is to be loaded, they have its sizes and are replaced by its positions.
    """
    numel = {target.name: target.numel for target in targets}
    k = num_active(config.density, sum(numel.values()))
    sizes, _ = config.checkpointed()
    if sizes is not None:
        active, inactive, left = {}, {}, k
        for name in numel:
            count = min(left, sizes[name])
            active[name], inactive[name] = torch.arange(sizes[name], device="cpu").tensor_split([count])
            left -= count
    else:
        active = data_free_mask(config, numel, k, {target.name: target.values for target in targets})
        inactive = dict.fromkeys(numel, torch.empty(0, dtype=torch.int64, device="cpu"))
    devices = {t.name: torch.device("cpu") if t.tensor.is_meta else t.tensor.device for t in targets}
    return [(active[name].to(device), inactive[name].to(device)) for name, device in devices.items()]


def data_free_mask(
    config: FishDipConfig, numel: Mapping[str, int], k: int, base_values: Mapping[str, Callable[[], Tensor]]
) -> dict[str, Tensor]:
    """The K positions of a fresh adapter, given the size of each parameter and how its base values are read."""
    if config.init_mask == "magnitude":
        with torch.no_grad():
            magnitudes = {name: values().abs() for name, values in base_values.items()}
            return dict(top_k(magnitudes, k, "repair these base weights, or choose init_mask='random'").positions)
    return dict(random_positions(dict(numel), k, torch.Generator().manual_seed(config.seed)))


@torch.no_grad()
def start_afresh(state: AdapterState) -> None:
    """Make an adapter a fresh one that was made with the config of a checkpoint, and is used before that is loaded."""
    numel = {delta.name: delta.numel for delta in state.deltas}
    bases = {delta.name: delta.first_base_values for delta in state.deltas}
    found = data_free_mask(state.config, numel, state.flat.numel(), bases)
    entries = []
    for delta in state.deltas:
        active = found[delta.name].to(delta.active.device)
        entries.append(Entries(active, active[:0], torch.empty(0, dtype=torch.float32, device=active.device)))
    values = first_values(state, [*bases.values()], [each.active for each in entries])
    fresh: dict[str, object] = {"num_updates": 0, "awaited_storage": {}, "awaited_sizes": None}
    apply_all(
        [
            *(assign(delta, "entries", new) for delta, new in zip(state.deltas, entries, strict=True)),
            copy_into(state.flat, values),
            *(assign(state, name, value) for name, value in fresh.items()),
        ]
    )
    state.drop_views()
    state.afresh = state.version


def is_replaceable(state: AdapterState) -> bool:
    """Whether an adapter was made for a checkpoint that was not loaded, and has not been trained since."""
    return state.waiting or (state.untouched and state.afresh is not None and state.afresh == state.version)


def first_values(
    state: AdapterState, base_values: Sequence[Callable[[], Tensor]], active_positions: Sequence[Tensor]
) -> Tensor:
    """The trainable vector: zeros, or with `init_weights=False` random deltas on the scale of each base tensor."""
    device = active_positions[0].device
    if state.config.init_weights:
        return torch.zeros(sum(map(len, active_positions)), dtype=torch.float32, device=device)
    # two adapters with one config must differ
    generator = torch.Generator().manual_seed(state.config.seed + zlib.crc32(state.adapter_name.encode()))
    parts = [
        torch.randn(active.numel(), generator=generator, dtype=torch.float32, device="cpu")
        * max(rms(values()), 0.02)
        / delta.scale
        for values, delta, active in zip(base_values, state.deltas, active_positions, strict=True)
    ]
    return torch.cat(parts).to(device)
