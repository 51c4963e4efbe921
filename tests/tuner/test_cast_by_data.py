"""The trainable vector stays float32 where a library casts trainable parameters by `parameter.data = ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ..support.models import flat_of, llama, lm_examples, randomise, train, tuned

EXAMPLES = lm_examples(8)


def cast(model: Any) -> None:
    """What trl does to a model with a quantized base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def test_training_after_a_cast_is_the_same_as_without_it() -> None:
    deltas = []
    for is_cast in (False, True):
        model = tuned(llama(), update_interval=2, delta_scale="rms", auto_update=True)
        if is_cast:
            cast(model)
            model.to("cpu")  # as trainers do
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        train(model, EXAMPLES, 5, optimizer)
        [state] = optimizer.state.values()
        assert {flat_of(model).dtype, state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float32}
        deltas.append(model.base_model.delta())
    for name, (positions, values) in deltas[0].items():
        assert torch.equal(positions, deltas[1][name][0])
        assert torch.equal(values, deltas[1][name][1])


def test_an_adapter_is_loaded_exactly_after_a_cast(tmp_path: Path) -> None:
    model = tuned(llama())
    randomise(model)
    model.save_pretrained(tmp_path)
    other = tuned(llama())
    cast(other)
    other.load_adapter(tmp_path, "default", is_trainable=True)
    for name, (_, values) in model.base_model.delta().items():
        assert torch.equal(other.base_model.delta()[name][1], values)


def test_trained_values_that_a_cast_has_rounded_are_told_of(tmp_path: Path) -> None:
    model = tuned(llama())
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True)
    cast(loaded)
    with pytest.warns(UserWarning, match=r"'default' were cast to torch.bfloat16 .* load the adapter"):
        loaded.base_model.delta()
    assert flat_of(loaded).dtype == torch.float32


def test_a_cast_of_the_whole_model_is_kept() -> None:
    model = tuned(llama()).bfloat16()
    model.base_model.delta()
    assert flat_of(model).dtype == torch.bfloat16
