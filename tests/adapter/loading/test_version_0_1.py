"""Adapters that version 0.1 saved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from ...support.models import bert_classifier
from .damages import (
    CONFIG,
    REFUSAL,
    TENSORS,
    changed_count,
    damaged_folder,
    flipped_value,
    summary_key,
    swapped_position,
)
from .new_ways import NEW
from .trained import assert_same_adapter, trained


def write_as_version_0_1(folder: Path, model: Any) -> None:
    """Rewrite a saved adapter as version 0.1 wrote it: counts in the config, a digest over counts alone."""
    mask, delta = model.base_model.mask(), model.base_model.delta()
    tensors = load_file(folder / TENSORS)
    counts = {name: [mask[name].numel(), delta[name][0].numel() - mask[name].numel()] for name in mask}
    found = hashlib.sha256(repr(list(counts)).encode())
    active = torch.tensor([pair[0] for pair in counts.values()])
    found.update(active.numpy().tobytes())
    for name in counts:
        path, _, leaf = f"base_model.model.{name}".rpartition(".")
        found.update(tensors[f"{path}.fishdip_indices.{leaf}"].long().numpy().tobytes())
        found.update(tensors[f"{path}.fishdip_values.{leaf}"].numpy().tobytes())
    digest = torch.frombuffer(bytearray(found.digest()), dtype=torch.int64)
    tensors[summary_key(tensors)] = torch.cat([digest, active])
    save_file(tensors, folder / TENSORS)
    config = json.loads((folder / CONFIG).read_text())
    del config["support_sizes"]
    config |= {"counts": counts, "num_updates": 3}
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("way", NEW)
def test_adapters_of_version_0_1_load_to_the_same_bits_without_a_warning(way: Any, tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(str(tmp_path))
    write_as_version_0_1(tmp_path, model)
    _, load = way(tmp_path)
    loaded = load()  # warnings are errors
    assert_same_adapter(loaded, model)
    (number,) = {
        int(tensor[-1])
        for key, tensor in loaded.state_dict().items()
        if "fishdip_summary" in key and ("second" in key or way not in NEW[2:4] + NEW[5:])
    }
    assert number == 3


def test_a_damaged_adapter_of_version_0_1_is_refused(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(str(tmp_path))
    write_as_version_0_1(tmp_path, model)
    for damage in (flipped_value, swapped_position, changed_count):
        with pytest.raises(ValueError, match=REFUSAL):
            PeftModel.from_pretrained(bert_classifier(), str(damaged_folder(tmp_path, tmp_path / "damaged", damage)))
