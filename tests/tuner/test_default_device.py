"""Another default device than that of the base: an adapter is where its base is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from peft_fishdip import SparseAdafactor

from ..support.models import flat_of, random_scores, tuned

DEVICE = torch.device("meta")  # which no value survives


@pytest.fixture(params=["default", "context"])
def elsewhere(request: Any) -> Iterator[Any]:
    """Makes another device the default, until the test ends."""

    def begin() -> None:
        if request.param == "default":
            torch.set_default_device(DEVICE)
        else:
            DEVICE.__enter__()

    began = []
    yield lambda: began.append(begin())
    if began and request.param == "context":
        DEVICE.__exit__(None, None, None)
    torch.set_default_device(None)


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))


@pytest.mark.parametrize("density", [0.1, 0.9])
@pytest.mark.parametrize("init_mask", ["random", "magnitude"])
def test_masks_are_those_of_any_default_device(elsewhere: Any, density: float, init_mask: Any) -> None:
    settings: dict[str, Any] = {"density": density, "init_mask": init_mask, "init_weights": False}
    expected, plain = tuned(base(), **settings), base()
    scores, x = random_scores(expected), torch.ones(2, 6)
    optimizer = torch.optim.SGD([flat_of(expected)], lr=0.1)
    expected.base_model.set_mask(scores, optimizer=optimizer)
    elsewhere()
    model = tuned(plain, **settings)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    optimizer = torch.optim.SGD([flat_of(model)], lr=0.1)
    model.base_model.set_mask(scores, optimizer=optimizer)
    assert torch.equal(model(x), expected(x))
    SparseAdafactor(model).step()
    model(x).sum().backward()


def test_adapters_are_summed_saved_and_loaded(elsewhere: Any, tmp_path: Path) -> None:
    plain, other, x = base().half(), base().half(), torch.ones(2, 6).half()
    elsewhere()
    model = tuned(plain, density=0.2, init_weights=False, compact=True)
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.add_weighted_adapter(["default", "second"], [1.0, 0.5], "sum")
    model.base_model.add_weighted_adapter(["default", "second"], [1.0, 0.5], "elected", "ties", density=0.5)
    model.requires_grad_(False)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(other, tmp_path, torch_device="cpu")
    model.set_adapter("default")
    assert torch.equal(loaded(x), model(x))
