"""What SparseAdafactor refuses: options out of range, models without an adapter, and steps that cannot be made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from peft_fishdip import SparseAdafactor

from ..support.models import flat_of, tuned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, r"lr=0 must be a number above 0, such as 1e-2"),
        ({"lr": -1e-2}, r"lr=-0.01 must be a number above 0"),
        ({"lr": math.nan}, r"lr=nan must be"),
        ({"lr": math.inf}, r"lr=inf must be"),
        ({"lr": None}, r"lr=None must be a number above 0"),
        ({"eps": 1e-30}, r"eps=1e-30 must be two numbers"),
        ({"eps": (0.0, 1e-3)}, r"eps=\(0.0, 0.001\) must be two numbers, the first above 0"),
        ({"eps": (1e-30, -1.0)}, r"eps=\(1e-30, -1.0\) must be"),
        ({"clip_threshold": 0}, r"clip_threshold=0 must be a number above 0, such as 1.0"),
        ({"decay_rate": 0.8}, r"decay_rate=0.8 must be a number in \[-1, 0\), such as -0.8"),
        ({"beta1": 1.0}, r"beta1=1.0 must be None or a number in \[0, 1\)"),
        ({"weight_decay": -0.1}, r"weight_decay=-0.1 must be a number of at least 0"),
        ({"scale_parameter": 1}, r"scale_parameter=1 must be True or False"),
        ({"relative_step": True}, r"relative_step=True: SparseAdafactor has no such option, only lr, .* LR scheduler"),
        ({"momentum": 0.9}, r"momentum=0.9: SparseAdafactor has no such option"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    with pytest.raises(ValueError, match=message):
        SparseAdafactor(model, **options)
    with pytest.raises(ValueError, match=message):
        SparseAdafactor(model, params=[{"params": [flat_of(model)], **options}])


def test_a_model_without_an_adapter_to_train_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"no vector of a Fish-Dip adapter .* of Sequential; make .*get_peft_model"):
        SparseAdafactor(plain)
    model = tuned(plain, density=0.5)
    with pytest.raises(ValueError, match="no vector of a Fish-Dip adapter"):
        SparseAdafactor(model, params=[nn.Parameter(torch.zeros(3))])
    with pytest.raises(TypeError, match=r"model is a generator; give SparseAdafactor the model itself.*params="):
        SparseAdafactor(model.parameters())  # type: ignore[arg-type]


def test_a_step_is_refused_while_the_adapter_is_merged_or_after_its_vector_was_replaced() -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5, init_weights=False)
    optimizer = SparseAdafactor(model)
    before = flat_of(model).detach().clone()
    flat_of(model).grad = torch.ones_like(before)
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"adapter 'default' is merged; call unmerge_adapter\(\) first"):
        optimizer.step()
    assert torch.equal(flat_of(model).detach(), before)
    assert not optimizer.state
    model.unmerge_adapter()
    old = flat_of(model)
    [name] = [name for name, parameter in model.named_parameters() if parameter is old]
    model.get_submodule(name.removesuffix(".flat")).flat = nn.Parameter(before.clone())
    with pytest.raises(ValueError, match=r"the vector of adapter 'default' has been replaced .* SparseAdafactor anew"):
        optimizer.step()
    assert torch.equal(old.detach(), before)
