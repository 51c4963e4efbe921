"""An interrupt while examples are scored leaves a model that trains, generates and is scored as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ..support.models import FAMILIES, UNSCORED, padded, snapshot, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


class Interrupting:
    """Raises KeyboardInterrupt once, right after the n-th call of a function."""

    def __init__(self, function: Any, number: int) -> None:
        self.function = function
        self.left = number

    def __get__(self, owner: Any, kind: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = self.function(owner, *args, **kwargs)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("number", [1, 3, 8])
@pytest.mark.parametrize("where", [(nn.Module, "register_forward_hook"), (nn.Module, "register_forward_pre_hook")])
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_hooks_that_were_just_registered_do_nothing_later(
    family: str, where: tuple[type, str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, make = FAMILIES[family]
    model, twin = (tuned(build(), density=0.1, seed=1) for _ in range(2))
    examples = make(6)
    with monkeypatch.context() as patch:
        patch.setattr(where[0], where[1], Interrupting(getattr(where[0], where[1]), number))
        try:
            model.base_model.update_mask(examples)
        except KeyboardInterrupt:
            twin_has_update = False
        else:
            twin_has_update = True
    if twin_has_update:
        twin.base_model.update_mask(examples)
    for size in (1, 2, 3):
        losses = [each(**padded(examples[:size])).loss for each in (model, twin)]
        for loss in losses:
            loss.backward()
        assert torch.equal(*losses)
    updates = [each.base_model.update_mask(examples) for each in (model, twin)]
    assert updates[0].example_ids == updates[1].example_ids
    for name, positions in twin.base_model.mask().items():
        assert torch.equal(model.base_model.mask()[name], positions)


def test_a_norm_interrupted_within_keeps_its_own_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    build, make = FAMILIES["t5"]
    model = tuned(build(), density=0.05)
    before, flags = snapshot(model.base_model.model), [p.requires_grad for p in model.parameters()]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rsqrt", Interrupting(lambda owner, *a: torch.Tensor.rsqrt(*a), 13).__get__(None, None))
        with pytest.raises(KeyboardInterrupt):
            model.base_model.update_mask(make(6))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any("weight" in module.__dict__ for module in model.modules())
    after = snapshot(model.base_model.model)
    assert all(torch.equal(after[name], found) for name, found in before.items())
