"""A base that accelerate keeps partly on the CPU or the disk: refused by name, or right if what is tuned stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from peft_fishdip import FishDipConfig

from ..support.models import UNSCORED, flat_of, llama, lm_examples, padded, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)
CPU = torch.device("cpu")


def places(model: nn.Module, second_layer: str) -> dict[str, str]:
    """A device map; accelerate's main device is that of the first entry."""
    names = [name for name, _ in model.named_modules() if name.count(".") == 1 and "layers" not in name]
    return dict.fromkeys([*names, "lm_head", "model.layers.0"], "cpu") | {"model.layers.1": second_layer}


def loaded_partly(folder: Path) -> nn.Module:
    llama().save_pretrained(folder / "base")
    return AutoModelForCausalLM.from_pretrained(
        folder / "base", device_map=places(llama(), "disk"), offload_folder=folder / "offload"
    )


def dispatched(folder: Path) -> nn.Module:
    model = llama()
    return dispatch_model(model, places(model, "disk"), main_device="cpu", offload_dir=str(folder / "offload"))


OFFLOADED: dict[str, Callable[[Path], Any]] = {
    "from_pretrained": loaded_partly,
    "dispatch_model": dispatched,
    "cpu_offload": lambda folder: cpu_offload(llama(), execution_device=CPU),
    "disk_offload": lambda folder: disk_offload(llama(), str(folder / "offload"), execution_device=CPU),
}
BY_NAME = r"'model.layers.1.*'.* are offloaded.*exclude_modules"


@pytest.mark.parametrize("how", OFFLOADED)
def test_offloaded_targets_are_refused_by_name_and_the_base_still_works(how: str, tmp_path: Path) -> None:
    base, batch = OFFLOADED[how](tmp_path), padded(lm_examples(2))
    with pytest.raises(ValueError, match=BY_NAME if "offload" not in how else r"are offloaded.*exclude_modules"):
        tuned(base)
    with pytest.raises(ValueError, match=r"are offloaded"):
        base.add_adapter(FishDipConfig(target_modules=["q_proj"]))
    with torch.no_grad():
        torch.testing.assert_close(base(**batch).logits, llama()(**batch).logits)


def test_loading_an_adapter_onto_an_offloaded_base_is_refused(tmp_path: Path) -> None:
    tuned(llama(), init_weights=False).save_pretrained(str(tmp_path / "adapter"))
    base = loaded_partly(tmp_path)
    with pytest.raises(ValueError, match=BY_NAME):
        PeftModel.from_pretrained(base, str(tmp_path / "adapter"))


AFTERWARDS: dict[str, Callable[[Any, Path], Any]] = {
    "cpu_offload": lambda model, folder: cpu_offload(model, execution_device=CPU),
    "disk_offload": lambda model, folder: disk_offload(model, str(folder), execution_device=CPU),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("how", AFTERWARDS)
def test_offloading_after_the_adapter_was_added_is_refused_by_name(how: str, gradients: bool, tmp_path: Path) -> None:
    model = AFTERWARDS[how](tuned(llama(), init_weights=False), tmp_path)
    refused = pytest.raises(ValueError, match=r"'model\.embed_tokens.*offloaded.*exclude_modules")
    with refused, torch.set_grad_enabled(gradients):
        model(**padded(lm_examples(2)))


def test_offloading_some_modules_after_the_adapter_was_added_is_refused_by_name() -> None:
    model = tuned(llama(), init_weights=False)
    cpu_offload(model.base_model.model.lm_head.base_layer, execution_device=CPU)
    with pytest.raises(ValueError, match=r"'lm_head.*offloaded.*exclude_modules"):
        model(**padded(lm_examples(2)))


@pytest.mark.parametrize("how", ["from_pretrained", "dispatch_model"])
def test_what_stays_in_place_is_tuned_beside_offloaded_modules(how: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"exclude_modules": r".*layers\.1\..*", "init_weights": False}
    batch = padded(lm_examples(3))
    found, expected = (tuned(base, **settings) for base in (OFFLOADED[how](tmp_path), llama()))
    for model in (found, expected):
        model.base_model.update_mask(lm_examples(4))
        model(**batch).loss.backward()
    torch.testing.assert_close(flat_of(found).grad, flat_of(expected).grad)
    torch.testing.assert_close(found(**batch).logits, expected(**batch).logits)


def test_a_base_that_is_on_meta_as_a_whole_is_none_that_was_offloaded() -> None:
    with torch.device("meta"):
        base = llama()
    assert tuned(base).base_model.mask()
