"""What a refused adapter leaves of a base: nothing but the base."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peft_fishdip import FishDipLayer

from ...support.models import snapshot


def assert_clean(base: nn.Module, before: dict[str, Tensor]) -> None:
    """No trace is left: not a layer, a config, or a changed bit."""
    assert not any(isinstance(module, FishDipLayer) for module in base.modules())
    assert not getattr(base, "peft_config", None)
    after = snapshot(base)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], found) for name, found in before.items())
