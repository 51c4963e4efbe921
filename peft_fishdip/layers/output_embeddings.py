"""Output embeddings whose weight other libraries read, as losses do that compute the logits by themselves."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class CurrentWeights(BaseTunerLayer):
    """The part of a layer that gives its weight and bias to whoever reads them instead of calling it."""

    is_output = False
    """Whether it wraps the output embeddings of a model."""

    @property
    def weight(self) -> Any:
        """The base weight; of output embeddings the one that a call would compute with now, and its gradients."""
        return self.current("weight") if self.is_output else super().weight

    @property
    def bias(self) -> Any:
        """The base bias; of output embeddings the one that a call would compute with now, and its gradients."""
        return self.current("bias") if self.is_output else super().bias

    def current(self: Any, name: str) -> Any:
        """The tensor of that name with the values that a call would compute with now, and their gradients."""
        if name not in self.tuned or name in self.kept_out_of_merging:
            return getattr(self.base_layer, name)
        with self.locked():
            return self.base_parameter(name) if self.base_is_current() else self.effective(name)


class OutputEmbeddings(nn.Module):
    """The output embeddings of a model for other libraries: a module whose weight has its effective values.

    trl refuses a layer of PEFT in this place, because the weight of most is that of the base.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Attributes of the layer can be read here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)
