"""The record of one mask update."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskUpdate:
    """What an update of the mask looked at and what it changed."""

    step: int
    """The optimizer step it was made before, as told by the caller; else the number of updates before it."""
    example_ids: tuple[int, ...]
    """Numbers of the examples whose gradients scored the parameters, highest loss first; empty for `set_mask`."""
    losses: tuple[float, ...]
    """Their losses, -log p(y|x)."""
    threshold: float
    """The smallest score in the mask; of what is trained, where deltas are scaled."""
    num_active: int
    """K, the entries that are trainable now."""
    overlap: float
    """Share of these that were trainable before."""
    union_size: int
    """Entries that hold a delta: the active and the frozen ones."""
    seconds: float
    """How long the update took."""

    def figures(self) -> dict[str, float]:
        """The update as figures for a training log."""
        return {
            "mask_overlap": self.overlap,
            "mask_threshold": self.threshold,
            "mask_active": self.num_active,
            "mask_union": self.union_size,
            "mask_examples": len(self.example_ids),
            "mask_max_loss": max(self.losses, default=0.0),
            "mask_seconds": self.seconds,
        }
