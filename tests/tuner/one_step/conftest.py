"""What operations load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ...support.models import randomise
from .subjects import FAMILIES, made, scores_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family an adapter on disk, and a state dict of a model with two."""
    path = tmp_path_factory.mktemp("adapters")
    for family in FAMILIES:
        model = made(family).model
        for adapter in ("default", "other"):
            model.base_model.set_mask(scores_for(model, 20), adapter_name=adapter)
            randomise(model, seed=20, adapter=adapter)
        torch.save(model.state_dict(), path / f"{family}.pt")
        model.delete_adapter("other")
        model.save_pretrained(str(path / family))
    return path
