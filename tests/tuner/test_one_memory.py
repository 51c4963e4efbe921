"""Parameters that are the same view of one memory are one parameter; those that overlap otherwise are refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peft_fishdip import FishDipConfig

from ..support.models import UNSCORED, flat_of, gpt2, lm_examples, padded, snapshot, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


class Twice(nn.Module):
    """Two layers over one square matrix. `alias` makes the second one's Parameter from the first one's."""

    def __init__(self, alias: Callable[[nn.Parameter], nn.Parameter], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6, dtype=dtype)
        self.second = nn.Linear(6, 6, bias=False, dtype=dtype)
        self.second.weight = alias(self.first.weight)
        self.head = nn.Linear(6, 2, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


def squares(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["x"]).square().sum(1)


ALIASES: dict[str, Callable[[nn.Parameter], nn.Parameter]] = {
    "one object": lambda weight: weight,
    "detached": lambda weight: nn.Parameter(weight.detach()),
    "by its data": lambda weight: nn.Parameter(weight.data),
    "from numpy": lambda weight: nn.Parameter(torch.from_numpy(weight.detach().numpy())),
    "of a storage": lambda weight: nn.Parameter(torch.empty(0).set_(weight.untyped_storage(), 0, (6, 6))),
}


def trained(alias: str, **settings: Any) -> tuple[Any, dict[str, Tensor]]:
    """The model, its mask chosen by examples and trained for two steps; with what was found on the way."""
    x = torch.linspace(-2, 2, 24).view(4, 6)
    model = tuned(Twice(ALIASES[alias]), density=0.4, num_samples=3, **settings)
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.05)
    examples = [{"x": row} for row in x]
    found = {}
    for step in range(2):
        model.base_model.update_mask(examples, loss_fn=squares, optimizer=optimizer)
        squares(model, {"x": x}).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found |= {f"{step} {name}": positions for name, positions in model.base_model.mask().items()}
    return model, found | {"logits": model(x).detach(), "vector": flat_of(model).detach()}


@pytest.mark.parametrize("alias", list(ALIASES)[1:])
def test_two_parameters_over_one_memory_are_one_parameter(alias: str) -> None:
    model, found = trained(alias)
    _, expected = trained("one object")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    x = torch.linspace(-2, 2, 24).view(4, 6)
    model.merge_adapter()
    assert torch.equal(model(x), expected["logits"])
    model.unmerge_adapter()
    assert torch.equal(model(x), expected["logits"])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.merge_and_unload()(x), expected["logits"])


@pytest.mark.parametrize("alias", list(ALIASES)[1:])
def test_the_base_gets_its_own_parameters_back(alias: str) -> None:
    base = Twice(ALIASES[alias])
    first, second, before = base.first.weight, base.second.weight, snapshot(base)
    model = tuned(base, density=0.4, init_weights=False)
    model.unload()
    assert base.first.weight is first
    assert base.second.weight is second
    assert base.second.weight.data_ptr() == first.data_ptr()
    assert all(torch.equal(bits, snapshot(base)[name]) for name, bits in before.items())

    model = tuned(base, density=0.4, init_weights=False).double()
    expected = model(torch.ones(1, 6, dtype=torch.float64))
    merged = model.merge_and_unload()
    assert torch.equal(merged(torch.ones(1, 6, dtype=torch.float64)), expected)
    assert merged.second.weight is second
    assert torch.equal(merged.second.weight, merged.first.weight)


def test_a_failure_gives_the_base_its_own_parameters_back(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Twice(ALIASES["detached"])
    own = dict(base.named_parameters())
    monkeypatch.setattr("peft_fishdip.tuner.injection.first_values", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuned(base, density=0.4)
    assert {name: id(tensor) for name, tensor in base.named_parameters()} == {n: id(p) for n, p in own.items()}
    assert all(tensor.requires_grad for tensor in base.parameters())


# ----- loading with assign ------------------------------------------------------------------------------------------


def test_a_tied_model_that_was_loaded_by_assignment_trains_like_one_that_was_not() -> None:
    batch = padded(lm_examples(3))

    def outcome(assign: bool) -> tuple[Any, Tensor]:
        model = tuned(gpt2(), init_weights=False, density=0.3, num_samples=3)
        model.load_state_dict(model.state_dict(), assign=assign)
        model.base_model.update_mask(lm_examples(5))
        model.double().float()  # by object, each Parameter gets memory of its own
        model.merge_adapter()
        return model.base_model.mask(), model(**batch).logits.detach()

    (masks, logits), (expected_masks, expected) = outcome(True), outcome(False)
    assert torch.equal(logits, expected)
    assert all(torch.equal(positions, expected_masks[name]) for name, positions in masks.items())


def test_unloading_after_a_load_by_assignment_leaves_a_tied_model() -> None:
    model = tuned(gpt2(), init_weights=False)
    model.load_state_dict(model.state_dict(), assign=True)
    base = model.unload()
    assert base.lm_head.weight is base.transformer.wte.weight


# ----- other views of one memory ------------------------------------------------------------------------------------


class Sliced(nn.Module):
    """Two layers whose weights are parts of one memory."""

    def __init__(self, first: Tensor, second: Tensor, buffer: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(*reversed(part.shape), bias=False) for part in (first, second))
        self.first.weight, self.second.weight = nn.Parameter(first), nn.Parameter(second)
        self.register_buffer("table", buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x[:, : self.first.in_features]) + self.second(x[:, : self.second.in_features])


def whole() -> Tensor:
    return torch.linspace(-1, 1, 72).view(6, 12)


REFUSED: dict[str, Callable[[Tensor], Sliced]] = {
    "rows": lambda memory: Sliced(memory[:4], memory[2:]),
    "transposed": lambda memory: Sliced(memory[:, :6], memory[:, :6].t()),
    "another shape": lambda memory: Sliced(memory, memory.view(12, 6)),
    "one entry": lambda memory: Sliced(memory.view(-1)[:36].view(6, 6), memory.view(-1)[35:71].view(6, 6)),
    "columns": lambda memory: Sliced(memory[:, :7], memory[:, 6:]),
    "a buffer": lambda memory: Sliced(memory[:3], torch.ones(3, 12), memory[:3]),
    "a part of a buffer": lambda memory: Sliced(memory[:3], torch.ones(3, 12), memory[0]),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("target", [None, "first"])
def test_overlapping_views_are_refused_by_name(case: str, target: str | None) -> None:
    base = REFUSED[case](whole())
    if case in ("rows", "columns"):
        base.forward = lambda x: x  # type: ignore[method-assign]
    before, modules = snapshot(base), dict(base.named_modules())
    other = "table" if "buffer" in case else "second.weight"
    with pytest.raises(
        ValueError, match=rf"'(first.weight|{other})'.* and '(first.weight|{other})'.*share memory.*clone"
    ):
        tuned(base, density=0.2, target_modules=None if target is None else [target])
    assert modules == dict(base.named_modules())
    assert all(torch.equal(bits, snapshot(base)[name]) for name, bits in before.items())
    if "buffer" in case:
        tuned(base, density=0.2, exclude_modules=["first"])


def test_an_expanded_parameter_is_refused_by_name() -> None:
    base = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    base[0].weight = nn.Parameter(torch.ones(3, 1).expand(3, 4))
    with pytest.raises(ValueError, match=r"several entries of '0.weight'.*strides \(1, 0\).*contiguous"):
        tuned(base, density=0.2)
    assert "1.weight" in tuned(base, density=0.2, exclude_modules=["0"]).base_model.mask()


APART: dict[str, Callable[[Tensor], Sliced]] = {
    "rows": lambda memory: Sliced(memory[:3], memory[3:]),
    "columns": lambda memory: Sliced(memory[:, :6], memory[:, 6:]),
    "every other column": lambda memory: Sliced(memory[:, ::2], memory[:, 1::2]),
}


@pytest.mark.parametrize("case", APART)
def test_parts_of_one_memory_that_do_not_overlap_are_parameters_of_their_own(case: str) -> None:
    memory, x = whole(), torch.linspace(0, 1, 24).view(2, 12)
    model = tuned(APART[case](memory), density=0.3, init_weights=False)
    apart = APART[case](whole())
    for layer in (apart.first, apart.second):
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    twin = tuned(apart, density=0.3, init_weights=False)
    assert torch.equal(model(x), twin(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), twin(x))
    model.unmerge_adapter()
    assert torch.equal(memory, whole())


def test_on_meta_parameters_are_told_apart_by_object() -> None:
    base = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 4, device="meta"))
    model = tuned(base, density=0.3)
    assert len(model.base_model.mask()) == 4
    assert isinstance(model.peft_config["default"], FishDipConfig)
