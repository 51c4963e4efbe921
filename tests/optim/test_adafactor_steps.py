"""SparseAdafactor does to sparse deltas what transformers' Adafactor does to a whole model with masked gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from peft_fishdip import SparseAdafactor

from ..support.models import Convolutions, bert_classifier, flat_of, scales_of, tied_t5, tuned
from .dense_adafactor import TOLERANCE, DenseAdafactor, difference, give, gradients_of, scores_of


def run_both(
    build: Callable[[], nn.Module],
    steps: int,
    options: dict[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float64,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
    mask_every: int = 10,
    **settings: Any,
) -> float:
    """Give both the same gradients; the largest difference over all steps."""
    base = build()
    dense = DenseAdafactor(base, dtype, **(options or {}))
    model = tuned(base, **settings)
    optimizer = SparseAdafactor(model, **{"lr": 1e-2, **(options or {})})
    schedulers = [LambdaLR(o, schedule) for o in (optimizer, dense.optimizer)] if schedule else []
    worst = 0.0
    for step in range(steps):
        if step % mask_every == 0:
            model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            dense.take_mask(model)
        gradients = gradients_of(model, step)
        give(model, gradients)
        dense.give(gradients)
        if clip is not None:
            for parameters in (model.parameters(), dense.parameters.values()):
                assert nn.utils.clip_grad_norm_(parameters, clip) > clip
        optimizer.step()
        dense.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        worst = max(worst, difference(model, dense))
    return worst


def rising_and_falling(step: int) -> float:
    return min(1.0, step / 5) * max(0.1, 1 - step / 60)


@pytest.mark.parametrize("build", [tied_t5, bert_classifier, Convolutions], ids=["t5", "bert", "convolutions"])
@pytest.mark.parametrize("density", [0.01, 0.2])
@pytest.mark.parametrize("delta_scale", ["none", "rms"])
def test_it_tracks_the_dense_optimizer_over_many_masks(build: Any, density: float, delta_scale: str) -> None:
    worst = run_both(build, 50, density=density, delta_scale=delta_scale, schedule=rising_and_falling)
    assert worst < TOLERANCE


def test_it_tracks_the_dense_optimizer_over_hundreds_of_steps() -> None:
    assert run_both(tied_t5, 250, mask_every=50, density=0.02) < TOLERANCE


def test_it_tracks_the_dense_optimizer_in_float32() -> None:
    # a dense weight is base and delta in one float32, and so rounds the delta coarsely
    assert run_both(tied_t5, 40, dtype=torch.float32, density=0.02) < 2e-5


@pytest.mark.parametrize("clip", [1e-4, 1e-2])
def test_it_tracks_the_dense_optimizer_with_clipped_gradients(clip: float) -> None:
    assert run_both(tied_t5, 40, clip=clip, density=0.02, schedule=rising_and_falling) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"eps": (1e-3, 1.0)},
        {"clip_threshold": 0.1},
        {"clip_threshold": 1e6},
        {"decay_rate": -0.3},
        {"scale_parameter": False, "lr": 1e-3},
        {"beta1": 0.9},
        {"beta1": 0.0},
        {"lr": 0.3},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_to_the_dense_optimizer(options: dict[str, Any]) -> None:
    assert run_both(tied_t5, 30, options, density=0.05) < TOLERANCE


def test_a_base_in_bfloat16_is_one_in_float32_that_has_its_values() -> None:
    def rounded() -> nn.Module:
        return tied_t5().bfloat16()

    assert run_both(rounded, 40, density=0.05) < TOLERANCE
    assert run_both(rounded, 20, density=0.05, delta_scale="rms") < TOLERANCE


def test_delta_scale_makes_no_difference_to_the_bits() -> None:
    results = []
    for delta_scale in ("none", "rms"):
        model = tuned(tied_t5(), density=0.05, delta_scale=delta_scale)
        optimizer = SparseAdafactor(model, weight_decay=0.1, beta1=0.5)
        for step in range(12):
            if step % 4 == 0:
                model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            give(model, gradients_of(model, step))
            optimizer.step()
        results.append((model.base_model.delta(), set(scales_of(model).values())))
    (none, one), (rms, scales) = results
    assert one == {1.0}
    assert len(scales) > 2
    assert all(torch.equal(none[name][1], rms[name][1]) and none[name][1].any() for name in none if len(none[name][1]))


def test_weight_decay_shrinks_the_delta_and_not_the_weight() -> None:
    """In units of lr times the RMS of the weight."""
    model = tuned(nn.Sequential(nn.Linear(8, 4, bias=False)), density=0.5)
    vector = flat_of(model)
    with torch.no_grad():
        vector.copy_(torch.linspace(-1, 1, 16))
    before = vector.detach().clone()
    weight = model.base_model.model[0].effective("weight").detach()
    optimizer = SparseAdafactor(model, lr=0.1, weight_decay=0.5)
    vector.grad = torch.zeros(16)
    optimizer.step()
    rate = 0.1 * float(weight.square().mean().sqrt())
    torch.testing.assert_close(vector.detach(), before * (1 - 0.5 * rate))


def test_a_step_without_gradients_changes_nothing() -> None:
    model = tuned(tied_t5(), density=0.02, init_weights=False)
    optimizer = SparseAdafactor(model, weight_decay=0.1)
    before = flat_of(model).detach().clone()
    assert optimizer.step() is None
    assert not optimizer.state
    assert torch.equal(flat_of(model).detach(), before)


def test_a_closure_is_called_with_gradients_on() -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    model.base_model.set_mask(scores_of(model, 0))
    optimizer = SparseAdafactor(model)

    def closure() -> float:
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss.item()

    before = optimizer.step(closure)
    after = optimizer.step(closure)
    assert after is not None
    assert after < before


@pytest.mark.parametrize("gradient", [0.0, 1e-25, 1e15])
def test_gradients_of_any_size_are_followed(gradient: float) -> None:
    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model)
    for _ in range(3):
        flat_of(model).grad = torch.full_like(flat_of(model), gradient)
        optimizer.step()
    assert flat_of(model).isfinite().all()
    assert bool(flat_of(model).any()) == (gradient > 0)
