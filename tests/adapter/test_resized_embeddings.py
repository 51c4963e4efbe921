"""Adapters of a model whose vocabulary was resized after it had been loaded: PEFT saves the embeddings with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from ..support.models import ANY_RATE, FAMILIES, gpt2, padded, tied_t5, tuned
from ..support.training import Examples, trainer
from .compact.saved import TENSORS
from .loading.trained import assert_same_adapter, trained

pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")

TOKENS = 50
FAMILY = {gpt2: "gpt2", tied_t5: "t5"}


def resized(folder: Path, build: Callable[[], Any], dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
    """Makes models with more tokens than the one that it saves to a folder."""
    base = build()
    base.save_pretrained(folder)

    def make() -> Any:
        model = type(base).from_pretrained(folder).to(dtype)
        model.resize_token_embeddings(TOKENS, mean_resizing=False)
        with torch.no_grad():
            for parameter in model.get_input_embeddings().parameters():
                parameter[-2:] = 0.5
        return model.eval()

    return make


def extra(path: Path) -> list[str]:
    """Tensors in a saved adapter that are none of it, by the ends of their names."""
    parts = ("fishdip_indices", "fishdip_values", "fishdip_summary")
    keys = [key.rsplit(".", 2) for key in load_file(path / TENSORS)]
    return sorted({".".join(key[1:]) for key in keys if key[1] not in parts or key[2] == "flat"})


@pytest.mark.parametrize("build", FAMILY)
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_they_load_to_the_same_adapter(build: Any, compact: bool, finished: bool, tmp_path: Path) -> None:
    make = resized(tmp_path / "base", build, torch.bfloat16 if finished else torch.float32)
    model = trained(make, compact=compact)
    model.requires_grad_(not finished)
    model.save_pretrained(str(tmp_path))
    assert extra(tmp_path) == ["base_layer.weight"]
    loaded = PeftModel.from_pretrained(make(), str(tmp_path)).eval()
    batch = padded(FAMILIES[FAMILY[build]][1](3))
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
    if not finished:
        assert_same_adapter(loaded, model)


def test_embeddings_that_are_saved_on_demand(tmp_path: Path) -> None:
    model = trained(gpt2)
    model.save_pretrained(str(tmp_path), save_embedding_layers=True)
    assert extra(tmp_path) == ["base_layer.weight"]
    assert_same_adapter(PeftModel.from_pretrained(gpt2(), str(tmp_path)), model)


def test_each_of_two_adapters_has_its_own_file(tmp_path: Path) -> None:
    make = resized(tmp_path / "base", gpt2)
    model = tuned(make(), init_weights=False)
    model.add_adapter("two", model.peft_config["default"])
    model.save_pretrained(str(tmp_path))
    assert extra(tmp_path) == extra(tmp_path / "two") == ["base_layer.weight"]
    for folder, name in ((tmp_path, "default"), (tmp_path / "two", "two")):
        loaded = PeftModel.from_pretrained(make(), str(folder))
        model.set_adapter(name)
        assert_same_adapter(loaded, model)


def test_files_with_the_trainable_vector_load(tmp_path: Path) -> None:
    make = resized(tmp_path / "base", gpt2)
    model = trained(make)
    model.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / TENSORS)
    tensors["base_model.model.transformer.wte.fishdip_values.flat"] = torch.zeros(3)
    save_file(tensors, tmp_path / TENSORS)
    loaded = PeftModel.from_pretrained(make(), str(tmp_path))
    assert_same_adapter(loaded, model)
    loaded.load_adapter(str(tmp_path), "default")
    assert_same_adapter(loaded, model)


@pytest.mark.filterwarnings(ANY_RATE)
def test_a_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    make = resized(tmp_path / "base", gpt2)
    examples = Examples(FAMILIES["gpt2"][1](10))
    arguments: dict[str, Any] = {"examples": examples, "save_strategy": "steps", "save_steps": 3}
    first, whole = trainer(tmp_path / "run", tuned(make(), auto_update=True), **arguments)
    first.train()
    second, rest = trainer(tmp_path / "run", tuned(make(), auto_update=True), **arguments)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert rest.steps.keys() == {4, 5, 6} < whole.steps.keys()
