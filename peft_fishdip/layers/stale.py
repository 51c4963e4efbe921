"""Backward passes that come too late: what they need was changed after their forward pass, as torch says of weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..adapter.base_parameter import TunedParameter
from ..adapter.state import SparseDelta
from ..private import version_of


class Snapshot:
    """What the deltas of a parameter were in a forward pass: their entries, and versions of their trained values."""

    def __init__(self, parameter: TunedParameter, deltas: Sequence[SparseDelta], views: Sequence[Tensor]) -> None:
        self.parameter = parameter
        self.deltas = deltas
        self.views = [view.detach() for view in views]
        self.entries = [delta.entries for delta in deltas]
        self.versions = [version_of(view) for view in views]

    def effective(self, weight: Tensor) -> Tensor:
        """The effective values of the forward pass, made anew from the base tensor.

        Raises:
            RuntimeError: the mask or the trained values have changed since.
        """
        self.refuse_other_entries()
        for delta, view, version in zip(self.deltas, self.views, self.versions, strict=True):
            if version_of(view) != version:
                self._refuse(delta, "has made a step, or been changed otherwise,")
        return self.parameter.effective(weight, self.deltas, self.views)

    def refuse_other_entries(self) -> None:
        """Raise RuntimeError if the mask has changed since."""
        for delta, entries in zip(self.deltas, self.entries, strict=True):
            if delta.entries is not entries:
                self._refuse(delta, "has a new mask")

    def _refuse(self, delta: SparseDelta, what: str) -> None:
        raise RuntimeError(
            f"adapter {delta.state.adapter_name!r} {what} since the forward pass that this backward pass belongs to, "
            f"which needs what {self.parameter.name!r} was then: call backward() before optimizer.step(), set_mask and "
            "update_mask, or compute the loss anew after them."
        )
