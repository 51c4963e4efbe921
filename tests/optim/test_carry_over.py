"""The optimizer's state follows the entries when the mask changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..support.models import flat_of, ignoring_unscored_mask, tuned

K = 4


def model_and_masks(rows: int = 4, **settings: Any) -> tuple[Any, list[dict[str, Tensor]]]:
    """A linear layer with K = 4 active entries and, per row of its weight, the scores that choose this row."""
    model = tuned(nn.Sequential(nn.Linear(4, rows, bias=False)), density=1 / rows, **settings)
    scores = []
    for row in range(rows):
        score = torch.zeros(rows, 4)
        score[row] = 1
        scores.append({"0.weight": score})
    model.base_model.set_mask(scores[0])
    return model, scores


def halves(first: int, second: int) -> dict[str, Tensor]:
    """Scores that choose the left half of one row and the right half of another."""
    score = torch.zeros(4, 4)
    score[first, :2] = 1
    score[second, 2:] = 1
    return {"0.weight": score}


def step_with(optimizer: Any, vector: nn.Parameter, gradient: list[float]) -> None:
    vector.grad = torch.tensor(gradient)
    optimizer.step()
    optimizer.zero_grad()


def test_survivors_keep_their_moments_dropped_ones_lose_theirs_and_new_ones_start_at_zero() -> None:
    model, _ = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.AdamW([vector], lr=0.1)
    for _ in range(3):
        step_with(optimizer, vector, [1.0, 2.0, 3.0, 4.0])
    state = {name: value.clone() for name, value in optimizer.state[vector].items()}
    model.base_model.set_mask(halves(0, 2), optimizer=optimizer)
    now = optimizer.state[vector]
    assert torch.equal(now["exp_avg"], torch.tensor([*state["exp_avg"][:2], 0.0, 0.0]))
    assert torch.equal(now["exp_avg_sq"][:2], state["exp_avg_sq"][:2])
    assert now["step"] == state["step"]
    assert (now["exp_avg_sq"][2:] > 0).all()
    model.base_model.set_mask(halves(3, 2), optimizer=optimizer)
    assert torch.equal(now["exp_avg"], torch.zeros(4))  # the first two are gone for good


def test_an_entry_is_found_again_at_its_new_index() -> None:
    model, _ = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.SGD([vector], lr=0.1, momentum=0.9)
    score = torch.zeros(4, 4)
    score[1, 0] = score[2, 1] = score[2, 2] = score[3, 3] = 1
    model.base_model.set_mask({"0.weight": score}, optimizer=optimizer)
    step_with(optimizer, vector, [1.0, 2.0, 3.0, 4.0])
    values = vector.detach().clone()
    score = torch.zeros(4, 4)
    score[0, 3] = score[2, 1] = score[3, 0] = score[3, 3] = 1  # old indices: new, 1, new, 3
    model.base_model.set_mask({"0.weight": score}, optimizer=optimizer)
    assert optimizer.state[vector]["momentum_buffer"].tolist() == [0, 2, 0, 4]
    assert torch.equal(vector.detach(), torch.stack([torch.tensor(0.0), values[1], torch.tensor(0.0), values[3]]))


@pytest.mark.parametrize("kind", ["adamw", "amsgrad", "adam", "fused", "foreach", "nadam"])
@pytest.mark.parametrize("steps", [1, 2, 200])
@pytest.mark.parametrize("gradient", [1e-8, 1e-3, 1.0, 1e15])
def test_no_new_entry_moves_more_than_1_2_learning_rates_in_its_first_step(
    kind: str, steps: int, gradient: float
) -> None:
    lr = 0.1
    model, _ = model_and_masks()
    vector = flat_of(model)
    classes: dict[str, Any] = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}
    options = {"amsgrad": {"amsgrad": True}, "fused": {"fused": True}, "foreach": {"foreach": True}}.get(kind, {})
    inner = classes.get(kind, torch.optim.AdamW)([vector], lr=lr, **options)
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        step_with(inner, vector, (torch.randn(4, generator=generator) * 1e-4).tolist())
    optimizer = Wrapper(inner)
    model.base_model.set_mask(halves(0, 2), optimizer=optimizer)
    before = vector.detach().clone()
    step_with(optimizer, vector, [1e-4, 1e-4, gradient, -gradient])
    moved = (vector.detach() - before)[2:].abs()
    assert (moved <= 1.2 * lr).all()
    # and nothing is held back for good: with such gradients going on, they get to move like any other
    for _ in range(30):
        step_with(optimizer, vector, [1e-4, 1e-4, gradient, -gradient])
    before = vector.detach().clone()
    step_with(optimizer, vector, [1e-4, 1e-4, gradient, -gradient])
    assert ((vector.detach() - before)[2:].abs() > 0.5 * lr).all() or gradient < 1e-3


class Wrapper:
    """As accelerate wraps an optimizer."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def test_new_entries_stay_capped_over_two_updates_without_a_step_and_beside_other_hooks() -> None:
    lr = 0.1
    model, _ = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.AdamW([vector], lr=lr)
    calls = []
    optimizer.register_step_pre_hook(lambda *args: calls.append("before"))
    for _ in range(100):
        step_with(optimizer, vector, [1e-6] * 4)
    model.base_model.set_mask(halves(0, 2), optimizer=optimizer)
    model.base_model.set_mask(halves(1, 2), optimizer=optimizer)  # entries 2 and 3 are new since the last step, too
    optimizer.register_step_pre_hook(lambda *args: calls.append("after"))
    before = vector.detach().clone()
    calls.clear()
    step_with(optimizer, vector, [10.0, -10.0, 10.0, -10.0])
    assert calls == ["before", "after"]
    assert ((vector.detach() - before).abs() <= 1.2 * lr).all()
    second = optimizer.state[vector]["exp_avg_sq"].clone()
    step_with(optimizer, vector, [1000.0] * 4)
    assert (optimizer.state[vector]["exp_avg_sq"] < 1000.0**2 / 100).all()  # the cap is for the first step alone
    assert (optimizer.state[vector]["exp_avg_sq"] > second).all()


def test_a_step_without_a_gradient_leaves_the_cap_waiting() -> None:
    model, _ = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.AdamW([vector], lr=0.1)
    for _ in range(100):
        step_with(optimizer, vector, [1e-6] * 4)
    model.base_model.set_mask(halves(0, 2), optimizer=optimizer)
    optimizer.step()
    before = vector.detach().clone()
    step_with(optimizer, vector, [1e-6, 1e-6, 10.0, 10.0])
    assert ((vector.detach() - before).abs() <= 0.12).all()


def test_a_fused_step_that_a_grad_scaler_skips_leaves_no_infinity_behind() -> None:
    model, _ = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.AdamW([vector], lr=0.1, fused=True)
    for _ in range(3):
        step_with(optimizer, vector, [1.0] * 4)
    model.base_model.set_mask(halves(0, 2), optimizer=optimizer)
    before = vector.detach().clone()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(1.0)
    step_with(optimizer, vector, [float("inf")] * 4)
    optimizer.found_inf = torch.tensor(0.0)
    step_with(optimizer, vector, [1024.0] * 4)
    assert optimizer.state[vector]["exp_avg_sq"].isfinite().all()
    assert ((vector.detach() - before).abs()[2:] <= 0.12).all()


def test_new_second_moments_are_on_the_scale_of_those_that_stay() -> None:
    base = nn.Sequential(nn.Linear(6, 8, bias=False))
    model = tuned(base, density=0.5)
    vector = flat_of(model)
    optimizer = torch.optim.AdamW([vector], lr=0.01)
    batches = [{"x": torch.randn(3, 6), "y": torch.randn(3, 8)} for _ in range(4)]

    def loss_fn(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch["x"]) - batch["y"]).square().sum(1)

    model.base_model.update_mask(iter(batches[:2]), loss_fn=loss_fn, optimizer=optimizer)
    for batch in batches * 3:
        loss_fn(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    old = model.base_model.mask()["0.weight"]
    second = optimizer.state[vector]["exp_avg_sq"].clone()
    model.base_model.update_mask(iter(batches[2:]), loss_fn=loss_fn, optimizer=optimizer)
    stays = torch.isin(model.base_model.mask()["0.weight"], old)
    assert 0 < stays.sum() < stays.numel()
    fresh = optimizer.state[vector]["exp_avg_sq"][~stays]
    assert (fresh > second.min() / 100).all()
    assert (fresh < second.max() * 100).all()


def test_gradients_accumulated_so_far_survive_an_update() -> None:
    model, _ = model_and_masks()
    vector = flat_of(model)
    vector.grad = torch.tensor([1.0, 2.0, 3.0, 4.0])
    grad = vector.grad
    model.base_model.set_mask(halves(0, 2))
    assert vector.grad is grad
    assert grad.tolist() == [1, 2, 0, 0]
    with ignoring_unscored_mask():
        model(torch.ones(1, 4)).sum().backward()
    assert vector.grad.tolist() == [2, 3, 1, 1]


class ScheduleFree(torch.optim.Optimizer):
    """As schedulefree: SGD moves `z`, the vector is a point between `z` and the average, which evaluation takes."""

    def __init__(self, vector: nn.Parameter, beta: float = 0.9) -> None:
        super().__init__([vector], {})
        self.vector, self.beta = vector, beta

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        z = self.state[self.vector].setdefault("z", self.vector.detach().clone())
        self.vector.lerp_(z, 0.1).sub_(0.01 * self.vector.grad)
        z.sub_(0.1 * self.vector.grad)

    @torch.no_grad()
    def eval(self) -> None:
        self.vector.lerp_(self.state[self.vector]["z"], 1 - 1 / self.beta)


def test_a_second_copy_of_the_values_has_those_of_entries_that_return() -> None:
    model, scores = model_and_masks()
    vector = flat_of(model)
    optimizer = ScheduleFree(vector)
    for _ in range(3):
        step_with(optimizer, vector, [1.0, 2.0, 3.0, 4.0])
    frozen = vector.detach().clone()
    model.base_model.set_mask(scores[1], optimizer=optimizer)
    assert not optimizer.state[vector]["z"].any()
    step_with(optimizer, vector, [1.0, 2.0, 3.0, 4.0])
    z = optimizer.state[vector]["z"].clone()
    model.base_model.set_mask(halves(1, 0), optimizer=optimizer)
    returned = optimizer.state[vector]["z"]
    assert sorted(returned.tolist()) == sorted([*frozen[2:].tolist(), *z[:2].tolist()])
    at = torch.isin(vector.detach(), frozen)
    optimizer.eval()
    torch.testing.assert_close(vector.detach()[at], frozen[2:])


class OddState(torch.optim.Optimizer):
    """Keeps a state that the test gives it."""

    def __init__(self, vector: nn.Parameter, value: Any) -> None:
        super().__init__([vector], {})
        self.state[vector]["odd"] = value

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(K, dtype=torch.uint8),
        torch.zeros(2, K),
        torch.zeros(256),
        [torch.zeros(K), torch.zeros(K)],
        {"past": torch.zeros(K)},
        torch.zeros(K).to_sparse(),
    ],
    ids=["8 bit", "stacked", "code book", "history", "nested", "sparse"],
)
def test_an_optimizer_whose_state_cannot_follow_is_refused_before_anything_changes(value: Any) -> None:
    model, scores = model_and_masks()
    vector = flat_of(model)
    with torch.no_grad():
        vector.copy_(torch.arange(4.0))
    mask = model.base_model.mask()["0.weight"]
    with pytest.raises(ValueError, match=r"OddState keeps its state 'odd' .* AdamW, or update_interval=None"):
        model.base_model.set_mask(scores[1], optimizer=OddState(vector, value))
    with pytest.raises(ValueError, match="OddState keeps its state"):
        model.base_model.update_mask([], optimizer=OddState(vector, value))
    assert torch.equal(model.base_model.mask()["0.weight"], mask)
    assert vector.tolist() == [0, 1, 2, 3]


def test_lbfgs_is_refused_once_it_has_a_history() -> None:
    model, scores = model_and_masks()
    vector = flat_of(model)
    optimizer = torch.optim.LBFGS([vector])

    def closure() -> Tensor:
        vector.grad = vector.detach() - 1
        return ((vector.detach() - 1) ** 2).sum()

    optimizer.step(closure)
    with pytest.raises(ValueError, match="LBFGS keeps its state"):
        model.base_model.set_mask(scores[1], optimizer=optimizer)


@pytest.mark.parametrize("first", [True, False])
def test_lbfgs_is_refused_wherever_it_keeps_its_history(first: bool) -> None:
    model, scores = model_and_masks()
    vector, other = flat_of(model), nn.Parameter(torch.ones(3))
    parameters = [vector, other] if first else [other, vector]
    optimizer = torch.optim.LBFGS(parameters)

    def closure() -> Tensor:
        for parameter in parameters:
            parameter.grad = parameter.detach() - 2
        return sum((parameter.detach() - 2).square().sum() for parameter in parameters)

    optimizer.step(closure)
    with pytest.raises(ValueError, match=r"LBFGS keeps its state '.*' .* AdamW, or update_interval=None"):
        model.base_model.set_mask(scores[1], optimizer=optimizer)


def test_what_does_not_train_the_adapter_is_refused() -> None:
    model, scores = model_and_masks()
    stranger = torch.optim.AdamW([nn.Parameter(torch.zeros(K))])
    with pytest.raises(ValueError, match=r"AdamW does not train the adapter's vector of 4 values; pass the"):
        model.base_model.set_mask(scores[1], optimizer=stranger)
    with pytest.raises(TypeError, match=r"optimizer is a str; pass the torch\.optim\.Optimizer"):
        model.base_model.set_mask(scores[1], optimizer="adamw")
