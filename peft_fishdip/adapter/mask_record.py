"""The record of a mask update."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskUpdate:
    """What an update of the mask scored and what it changed."""

    step: int
    """The optimizer step it was made before, as the caller gave it; otherwise the number of updates before it."""
    example_ids: tuple[int, ...]
    """Numbers of the examples whose gradients scored the parameters, highest loss first; empty if none was
    needed, as for `set_mask`."""
    losses: tuple[float, ...]
    """Their losses, -log p(y|x)."""
    threshold: float
    """The smallest score in the mask; where deltas are scaled, the score of the scaled value."""
    num_active: int
    """K, the number of entries that are trainable now."""
    overlap: float
    """Share of these entries that were trainable before."""
    support_size: int
    """Number of entries that hold a delta, active and inactive ones."""
    seconds: float
    """Duration of the update."""

    def figures(self) -> dict[str, float]:
        """The update as figures for a training log."""
        return {
            "mask_overlap": self.overlap,
            "mask_threshold": self.threshold,
            "mask_active": self.num_active,
            "mask_support": self.support_size,
            "mask_examples": len(self.example_ids),
            "mask_max_loss": max(self.losses, default=0.0),
            "mask_seconds": self.seconds,
        }
