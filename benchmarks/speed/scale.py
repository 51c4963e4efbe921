"""Steps and updates at several sizes of model, each in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..settings import SettingsError
from .child import run_in_child
from .contestants import Workbench, warm_up
from .geometry import GEOMETRIES, count_parameters, multiply_adds
from .lifetime import free_memory
from .peak import at_rest
from .settings import Settings
from .spec import Spec
from .steps import measure_steps
from .update import split_updates

NEED_PER_PARAMETER = 4
"""Bytes that an update adds to the weights, which no step of Fish-Dip exceeds."""
ACTIVATIONS = 1e9
"""Room for one batch's activations and the process itself, roughly."""


def measure_scale(settings: Settings) -> dict[str, Any]:
    """Each size: steps of its contestants and updates; or why it was left out."""
    return {"sizes": [one_size(settings, text) for text in settings.geometries]}


def one_size(settings: Settings, text: str) -> dict[str, Any]:
    geometry, _, dtype = text.partition(":")
    if geometry not in GEOMETRIES:
        raise SettingsError(
            f"geometry {text!r} is unknown; there are {', '.join(GEOMETRIES)}, each with :DTYPE or without"
        )
    own = replace(settings, geometry=geometry, dtype=dtype or settings.dtype, model=None, adapter=None)
    size = count_parameters(geometry)
    record: dict[str, Any] = {"geometry": geometry, "dtype": own.dtype, "parameters": size}
    item = own.torch_dtype.itemsize
    need, free = size * (item + NEED_PER_PARAMETER) + ACTIVATIONS, free_memory(own.torch_device)
    if free is not None and need > free:
        return {**record, "skipped": f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"}
    fitting: list[str] = []
    left_out: list[str] = []
    for name in settings.scale_contestants:
        method = Spec.parse(name).method
        extra = size * (3 * item + (method == "masked")) if method in ("full", "masked") else 0
        fits = free is None or size * item + extra + ACTIVATIONS < free
        (fitting if fits else left_out).append(name)
    own = replace(own, contestants=tuple(fitting))
    return {**record, "left_out": left_out, **run_in_child("scale", own)}


def scale_of(settings: Settings) -> dict[str, Any]:
    """The figures of one size; for a process that has done nothing else."""
    device = settings.torch_device
    for name in settings.contestants:
        warm_up(settings, Spec.parse(name))
    before = at_rest(device)
    bench = Workbench(settings)
    weights = at_rest(device) - before
    steps = measure_steps(settings, bench)
    split, _ = split_updates(bench, settings.scale_examples, settings.batch)
    return {
        "multiply_adds": multiply_adds(bench.base, settings.batch, settings.source, settings.target),
        "weights": weights,
        "steps": steps,
        "update": split,
    }
