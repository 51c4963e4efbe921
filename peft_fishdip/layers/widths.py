"""How wide the inputs and outputs of a module are."""

from __future__ import annotations

from torch import nn


def widths(module: nn.Module) -> tuple[int | None, int | None]:
    """Input and output width of a module, which users of PEFT read as `in_features` and `out_features`."""
    names = (
        ("in_features", "out_features"),
        ("num_embeddings", "embedding_dim"),
        ("nx", "nf"),
        ("in_channels", "out_channels"),
        ("embed_dim", "embed_dim"),
    )
    for first, second in names:
        if hasattr(module, first) and hasattr(module, second):
            return getattr(module, first), getattr(module, second)
    return None, None
