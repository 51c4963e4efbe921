"""A pickle or deep copy of SparseAdafactor is its state and its parameters, without the model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from peft_fishdip import SparseAdafactor

from ..support.models import flat_of, seq2seq_examples, tied_t5, train, tuned

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "deepcopy": copy.deepcopy,
}


def trained() -> tuple[Any, SparseAdafactor]:
    model = tuned(tied_t5(), density=0.02)
    model.base_model.update_mask(seq2seq_examples(8))
    optimizer = SparseAdafactor(model, beta1=0.9)
    train(model, seq2seq_examples(8), 3, optimizer)
    return model, optimizer


class Classes(pickle.Unpickler):
    """Notes the classes that a pickle names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.found: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        self.found.append(super().find_class(module, name))
        return self.found[-1]


def test_a_pickle_is_as_small_as_the_state_and_holds_no_module() -> None:
    model, optimizer = trained()
    data = pickle.dumps(optimizer)
    unpickler = Classes(data)
    unpickler.load()
    assert not [found for found in unpickler.found if isinstance(found, type) and issubclass(found, nn.Module)]
    vector, state = flat_of(model), optimizer.state[flat_of(model)]
    values = vector.nbytes + sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
    assert len(data) < values + 5000


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_has_no_model_and_says_so(kind: str) -> None:
    _, optimizer = trained()
    copied = COPIES[kind](optimizer)
    assert copied.model is None
    message = r"does not contain the model; make SparseAdafactor\(model\) .* load_state_dict"
    for action in (
        copied.step,
        lambda: copied.load_state_dict(optimizer.state_dict()),
        lambda: copied.add_param_group({"params": [nn.Parameter(torch.zeros(2))]}),
    ):
        with pytest.raises(RuntimeError, match=message):
            action()
    assert len(copied.param_groups) == 1


@pytest.mark.parametrize("kind", COPIES)
def test_the_state_of_a_copy_goes_on_in_an_optimizer_that_has_the_model(kind: str) -> None:
    model, optimizer = trained()
    state = COPIES[kind](optimizer).state_dict()
    twin = copy.deepcopy(model)
    anew = SparseAdafactor(twin, lr=0.5)
    anew.load_state_dict(state)
    for each, of_each in ((model, optimizer), (twin, anew)):
        train(each, seq2seq_examples(8), 3, of_each)
    assert flat_of(model).any()
    assert torch.equal(flat_of(model), flat_of(twin))
