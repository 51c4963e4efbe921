"""The largest model that is to be trained on this machine: does it, and in how much memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .scale import one_size
from .settings import Settings


def measure_largest(settings: Settings) -> dict[str, Any]:
    """Steps and updates of Fish-Dip alone, once each after once, on a few short examples: what counts is the memory."""
    geometry, _, dtype = settings.largest.partition(":")
    own = replace(
        settings,
        geometry=geometry,
        dtype=dtype or settings.dtype,
        batch=1,
        source=settings.largest_tokens,
        target=settings.largest_tokens,
        rounds=1,
        warmup=1,
        timed_steps=1,
        scale_contestants=(f"fishdip-uniform@{settings.density:g}",),
        scale_examples=3,
    )
    return {"settings": own.as_dict(), "size": one_size(own, settings.largest)}
