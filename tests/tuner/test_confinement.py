"""Invariant 5: exactly K active entries after every update; outside of the mask nothing moves under any optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Adafactor

from ..support.models import ANY_RATE, FAMILIES, base_bits, flat_of, padded, seq2seq_examples, tied_t5, tuned

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.3),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, weight_decay=0.3),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05, weight_decay=0.3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05, weight_decay=0.3),
    "adafactor": lambda p: Adafactor(
        p, lr=0.05, relative_step=False, scale_parameter=False, beta1=0.9, weight_decay=0.3
    ),
    "torch adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.3),
}


def support(model: Any) -> dict[str, dict[int, float]]:
    return {
        name: dict(zip(positions.tolist(), values.tolist(), strict=True))
        for name, (positions, values) in model.base_model.delta().items()
    }


@pytest.mark.filterwarnings(ANY_RATE)
@pytest.mark.parametrize(
    ("optimizer", "dropped"), [*((name, "freeze") for name in OPTIMIZERS), ("sgd", "reset"), ("adamw", "reset")]
)
def test_outside_of_the_mask_nothing_moves(optimizer: str, dropped: str) -> None:
    base, examples = tied_t5(), seq2seq_examples(9)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = tuned(base, density=0.02, dropped=dropped, delta_scale="rms")
    k = math.floor(0.02 * sum(p.numel() for p in base.parameters() if p.shape != flat_of(model).shape))
    assert flat_of(model).numel() == k
    stepper = OPTIMIZERS[optimizer]([flat_of(model)])
    ever: dict[str, set[int]] = {name: set() for name in model.base_model.mask()}
    for round_ in range(3):
        # the examples change, so that the masks do
        update = model.base_model.update_mask(examples[3 * round_ : 3 * round_ + 3], optimizer=stepper)
        mask = model.base_model.mask()
        assert update.num_active == k == sum(len(set(positions.tolist())) for positions in mask.values())
        active = {name: set(positions.tolist()) for name, positions in mask.items()}
        inactive = {
            name: {p: v for p, v in values.items() if p not in active[name]} for name, values in support(model).items()
        }
        for name, positions in active.items():
            ever[name] |= positions
        if dropped == "reset":
            assert not any(inactive.values())
        for step in range(2):
            model(**padded(examples[step : step + 3])).loss.backward()
            stepper.step()
            stepper.zero_grad()
        after = support(model)
        for name, values in after.items():
            assert {p: v for p, v in values.items() if p not in active[name]} == inactive[name]
            assert set(values) <= ever[name]
    assert any(inactive.values()) == (dropped == "freeze")  # masks did change
    assert all(
        torch.equal(base_bits(model)[name].view(before[name].dtype), before[name].flatten())
        for name in base_bits(model)
    )
    merged = model.merge_and_unload()
    for name, parameter in merged.named_parameters():
        moved = (parameter.detach() != before[name]).flatten().nonzero().flatten().tolist()
        assert set(moved) <= ever[name], name
        if dropped == "reset":
            assert set(moved) <= active[name]


@pytest.mark.parametrize("density", [1e-9, 0.0003, 0.011, 0.37, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_k_is_the_floor_of_density_times_parameters(family: str, density: float) -> None:
    base = FAMILIES[family][0]()
    total = sum(p.numel() for p in base.parameters())
    if math.floor(density * total) == 0:
        with pytest.raises(ValueError, match=r"density=1e-09 of \d+ targeted parameters leaves none"):
            tuned(base, density=density)
        return
    for init_mask in ("random", "magnitude"):
        model = tuned(FAMILIES[family][0](), density=density, init_mask=init_mask)
        mask = model.base_model.mask()
        assert sum(len(positions) for positions in mask.values()) == math.floor(density * total)
        assert all(torch.equal(positions, positions.unique()) for positions in mask.values())
        assert model.get_nb_trainable_parameters()[0] == math.floor(density * total)


def test_the_vector_keeps_its_identity_length_and_storage_over_updates() -> None:
    model = tuned(tied_t5())
    flat = flat_of(model)
    address = flat.data_ptr()
    for start in (0, 3, 6):
        model.base_model.update_mask(seq2seq_examples(9)[start : start + 3])
        assert flat_of(model) is flat
        assert flat.data_ptr() == address
    assert flat.dtype == torch.float32


def test_a_data_free_mask_that_was_never_trained_leaves_no_inactive_entries() -> None:
    model = tuned(tied_t5())
    update = model.base_model.update_mask(seq2seq_examples(4))
    assert update.support_size == update.num_active


def test_a_data_free_mask_that_was_trained_keeps_its_deltas_like_any_other() -> None:
    model = tuned(tied_t5())
    before = {name: set(positions.tolist()) for name, positions in model.base_model.mask().items()}
    with torch.no_grad():
        flat_of(model).fill_(0.5)
    update = model.base_model.update_mask(seq2seq_examples(4))
    assert update.support_size > update.num_active
    for name, (positions, values) in model.base_model.delta().items():
        assert before[name] <= set(positions.tolist())
        kept = torch.tensor([position in before[name] for position in positions.tolist()], dtype=torch.bool)
        assert (values[kept] == 0.5).all()
        assert (values[~kept] == 0).all()


def test_beyond_the_largest_support_the_smallest_inactive_deltas_return_to_the_base() -> None:
    model = tuned(torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False)), density=0.25, max_support=1.5)
    tuner, rows = model.base_model, [{"0.weight": torch.zeros(4, 4)} for _ in range(3)]
    for row, scores in enumerate(rows):
        scores["0.weight"][row] = 1
    tuner.set_mask(rows[0])
    with torch.no_grad():
        flat_of(model).copy_(torch.tensor([1.0, -4.0, 3.0, 0.5]))
    assert tuner.set_mask(rows[1]).support_size == 6
    positions, values = tuner.delta()["0.weight"]
    assert (positions.tolist(), values.tolist()) == ([1, 2, 4, 5, 6, 7], [-4, 3, 0, 0, 0, 0])
    with torch.no_grad():
        flat_of(model).copy_(torch.tensor([3.5, 2.0, 2.0, 2.0]))
    assert tuner.set_mask(rows[2]).support_size == 6
    positions, values = tuner.delta()["0.weight"]
    assert (positions.tolist(), values.tolist()) == ([1, 4, 8, 9, 10, 11], [-4, 3.5, 0, 0, 0, 0])


@pytest.mark.parametrize("dropped", ["freeze", "reset"])
def test_what_returns_to_the_mask_goes_on_from_where_it_was(dropped: str) -> None:
    model = tuned(torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False)), density=0.25, dropped=dropped)
    tuner = model.base_model
    row = {"0.weight": torch.zeros(4, 4)}
    other = {"0.weight": torch.zeros(4, 4)}
    row["0.weight"][1], other["0.weight"][2] = 1, 1
    tuner.set_mask(row)
    with torch.no_grad():
        flat_of(model).copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert tuner.set_mask(other).overlap == 0
    assert flat_of(model).tolist() == [0, 0, 0, 0]
    tuner.set_mask(row)
    assert flat_of(model).tolist() == ([1, 2, 3, 4] if dropped == "freeze" else [0, 0, 0, 0])
    assert tuner.set_mask(row).overlap == 1
    positions, values = tuner.delta()["0.weight"]
    assert positions.tolist() == ([4, 5, 6, 7, 8, 9, 10, 11] if dropped == "freeze" else [4, 5, 6, 7])
    assert values[:4].tolist() == ([1, 2, 3, 4] if dropped == "freeze" else [0, 0, 0, 0])
