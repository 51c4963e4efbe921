"""Invariant 9: two threads may call one model at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peft_fishdip.layers import functional

from ..support.models import FAMILIES, UNSCORED, Attention, Convolutions, base_bits, flat_of, padded, randomise, tuned
from ..support.threads import run_together

pytestmark = pytest.mark.filterwarnings(UNSCORED)

ROUNDS = 12


class Everything(nn.Module):
    """Each kind of layer once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.rms = nn.RMSNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.lstm(self.embed(ids))[0]
        x = self.rms(x + self.attention(x, x, x)[0])
        return self.head(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))


def inputs(build: Callable[[], nn.Module], seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    if build is Convolutions:
        return {"x": torch.randn(2, 2, 6, 6, generator=generator)}
    if build in (Attention, Everything):
        return {"ids": torch.randint(1, 40, (2, 5), generator=generator)}
    family = next(name for name, (candidate, _) in FAMILIES.items() if candidate is build)
    return padded(FAMILIES[family][1](3, seed))


def forward_and_backward(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    flat = flat_of(model)
    out = model(**batch)
    logits = out if isinstance(out, Tensor) else out.logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), [flat])
    return logits.detach(), gradient


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Within, threads take turns at nearly every line."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(switch)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("build", [build for build, _ in FAMILIES.values()] + [Convolutions, Attention, Everything])
def test_two_threads_get_what_one_would(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = tuned(build(), density=0.5)
    randomise(model, scale=0.3)
    before = base_bits(model)
    batches = [inputs(build, seed) for seed in (1, 2)]
    expected = [forward_and_backward(model, batch) for batch in batches]

    def job(batch: dict[str, Any], logits: Tensor, gradient: Tensor) -> Callable[[], None]:
        def run() -> None:
            for _ in range(ROUNDS):
                found, found_gradient = forward_and_backward(model, batch)
                assert torch.equal(found, logits)
                torch.testing.assert_close(found_gradient, gradient, rtol=1e-5, atol=1e-6)
                with torch.no_grad():
                    out = model(**batch)
                    out = out if isinstance(out, Tensor) else out.logits
                    torch.testing.assert_close(out, logits, rtol=1e-4, atol=1e-5)

        return run

    run_together([job(batch, *result) for batch, result in zip(batches, expected, strict=True)])
    assert all(torch.equal(found, before[name]) for name, found in base_bits(model).items())


def test_a_weight_that_another_thread_has_swapped_in_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread multiplies by a weight with deltas swapped in, the others must not read or modify it."""
    model = tuned(nn.Sequential(nn.Linear(8, 8), nn.Embedding(8, 8)), density=1.0, target_modules=["0"])
    randomise(model)
    inside, most = 0, 0
    product = functional.product
    guard = threading.Lock()

    def slow(*args: Any) -> Tensor:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.02)
        out = product(*args)
        with guard:
            inside -= 1
        return out

    monkeypatch.setattr(functional, "product", slow)
    layer = model.base_model.model[0]
    x = torch.randn(2, 8)
    expected = layer(x)
    results: list[Tensor] = []
    run_together([lambda: results.append(layer(x))] * 4)
    assert most == 1
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.usefixtures("frequent_switches")
def test_a_call_beside_a_thread_that_merges_sees_all_parameters_merged_or_none() -> None:
    model = tuned(nn.Sequential(nn.Linear(64, 64)), density=0.2, init_weights=False)
    x = torch.randn(4, 64)
    with torch.no_grad():
        expected = model(x)
    outputs: list[Tensor] = []
    done = threading.Event()

    def call() -> None:
        with torch.no_grad():
            while not done.is_set():
                outputs.append(model(x))

    def merge() -> None:
        try:
            for _ in range(300):
                model.merge_adapter()
                model.unmerge_adapter()
        finally:
            done.set()

    run_together([call, merge])
    assert len(outputs) > 10
    for output in outputs:
        torch.testing.assert_close(output, expected)
