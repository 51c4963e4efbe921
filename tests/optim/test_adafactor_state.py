"""SparseAdafactor's state: its size, how it follows the mask, and that it is saved and loaded exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Adafactor

from peft_fishdip import SparseAdafactor

from ..support.models import ANY_RATE, bert_classifier, flat_of, seq2seq_examples, tied_t5, train, tuned
from .dense_adafactor import RECIPE, give, gradients_of, scores_of


def test_its_state_is_of_the_size_of_rows_columns_and_mask() -> None:
    base = nn.Sequential(nn.Linear(96, 128), nn.Conv2d(4, 8, 3), nn.Embedding(200, 64))
    model = tuned(base, density=0.01)
    k, total = flat_of(model).numel(), sum(p.numel() for p in base.parameters())
    optimizer = SparseAdafactor(model)
    for step in range(3):
        model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
        give(model, gradients_of(model, step))
        optimizer.step()
    state = optimizer.state[flat_of(model)]
    # a linear weight and bias, 8 * 4 kernels of 3 x 3 and a bias, an embedding
    rows, columns = 128 + 128 + 32 * 3 + 8 + 200, 96 + 1 + 32 * 3 + 1 + 64
    assert {name: len(value) for name, value in state.items() if name != "step"} == {
        "exp_avg_sq_row": rows,
        "exp_avg_sq_col": columns,
    }
    (place,) = optimizer.stats.values()
    held = [value for value in vars(place).values() if isinstance(value, Tensor)]
    tensors = len(model.base_model.mask())
    assert sum(value.nbytes for value in held) <= 12 * k + 8 * (6 * tensors + 36)  # 36 matrices
    assert 12 * k < 4 * total / 10


def test_rows_and_columns_are_not_re_indexed_even_if_there_are_as_many_as_entries() -> None:
    model = tuned(nn.Sequential(nn.Linear(8, 8, bias=False)), density=1 / 8)
    vector = flat_of(model)
    optimizer = SparseAdafactor(model, beta1=0.9)
    model.base_model.set_mask({"0.weight": torch.eye(8)}, optimizer=optimizer)
    vector.grad = torch.arange(1.0, 9.0)
    optimizer.step()
    before = {name: copy.deepcopy(value) for name, value in optimizer.state[vector].items()}
    assert before["exp_avg_sq_row"].shape == before["exp_avg"].shape == vector.shape
    scores = torch.eye(8)
    scores[0, 0], scores[7, 0] = 0, 1
    model.base_model.set_mask({"0.weight": scores}, optimizer=optimizer)
    now = optimizer.state[vector]
    assert torch.equal(now["exp_avg_sq_row"], before["exp_avg_sq_row"])
    assert torch.equal(now["exp_avg_sq_col"], before["exp_avg_sq_col"])
    kept = before["exp_avg"][1:]
    assert torch.equal(now["exp_avg"], torch.cat([kept[:-1], torch.zeros(1), kept[-1:]]))


@pytest.mark.parametrize("options", [{}, {"beta1": 0.9}], ids=str)
def test_a_resumed_run_goes_on_with_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    examples = seq2seq_examples(8)

    def go_on(model: Any, optimizer: Any, steps: range) -> Tensor:
        def update(step: int) -> None:
            if steps[step] % 4 == 0:
                model.base_model.update_mask(examples, optimizer=optimizer)

        train(model, examples, len(steps), optimizer, update)
        return flat_of(model).detach().clone()

    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model, **options)
    go_on(model, optimizer, range(6))
    model.save_pretrained(str(tmp_path))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    twin, state = copy.deepcopy((model, optimizer.state_dict()))
    of_twin = SparseAdafactor(twin, **options)
    of_twin.load_state_dict(state)
    expected = go_on(model, optimizer, range(6, 12))

    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path), is_trainable=True)
    anew = SparseAdafactor(loaded, lr=0.5, **options)
    anew.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert torch.equal(go_on(loaded, anew, range(6, 12)), expected)
    assert torch.equal(go_on(twin, of_twin, range(6, 12)), expected)


def test_a_state_keeps_its_precision_over_a_vector_in_bfloat16() -> None:
    model = tuned(bert_classifier(), density=0.05).bfloat16()
    optimizer = SparseAdafactor(model)
    give(model, gradients_of(model, 0))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert flat_of(model).dtype == torch.bfloat16
    assert flat_of(model).any()
    anew = SparseAdafactor(model)
    anew.load_state_dict(saved)
    for name, value in saved["state"][0].items():
        found = anew.state[flat_of(model)][name]
        assert found == value if name == "step" else torch.equal(found, value) and found.dtype == torch.float64


@pytest.mark.filterwarnings(ANY_RATE)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model, beta1=0.9)
    give(model, gradients_of(model, 0))
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())

    def state(other: Any, make: Any) -> dict[str, Any]:
        flat_of(other).grad = torch.ones_like(flat_of(other))
        stepper = make(other)
        stepper.step()
        return stepper.state_dict()

    def adafactor(other: Any) -> Any:
        return Adafactor([flat_of(other)], **RECIPE)

    row = r"'exp_avg_sq_row' has shape"
    strangers = [
        (lambda: state(tuned(bert_classifier()), SparseAdafactor), row + r" \(\d+,\), not \(\d+,\)"),
        (lambda: state(tuned(tied_t5()), lambda m: SparseAdafactor(m, beta1=0.5)), "'exp_avg' has shape"),
        (lambda: state(tuned(tied_t5()), adafactor), row + " None"),
        (lambda: torch.optim.SGD([flat_of(model)], lr=0.1).state_dict(), "it has no option 'eps'"),
    ]
    for make, message in strangers:
        with pytest.raises(ValueError, match=f"this state does not fit: {message}.* load one that a SparseAdafactor"):
            optimizer.load_state_dict(make())
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for name, value in before["state"][0].items():
            assert torch.equal(torch.as_tensor(after["state"][0][name]), torch.as_tensor(value))
