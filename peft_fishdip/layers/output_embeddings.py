"""Output embeddings for other libraries, such as those with a loss that computes the logits by itself."""

from __future__ import annotations

from typing import Any

from torch import nn


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
