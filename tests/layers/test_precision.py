"""Compiled and in mixed precision, a model trains as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..support.models import FAMILIES, UNSCORED, flat_of, padded, random_scores, randomise, tied_t5, tuned

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # dynamo reads it
    pytest.mark.filterwarnings(UNSCORED),
]


def model_and_batch(family: str) -> tuple[Any, dict[str, Tensor]]:
    build, make = FAMILIES[family]
    model = tuned(build(), density=0.3, init_weights=False)
    return model, padded(make(3))


def gradient(model: Any, called: Any, batch: dict[str, Tensor]) -> Tensor:
    flat_of(model).grad = None
    called(**batch).loss.backward()
    found = flat_of(model).grad
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_tuned_layers_add_no_graph_break(family: str) -> None:
    model, batch = model_and_batch(family)
    bare = FAMILIES[family][0]()
    counts = []
    for called in (bare, model.base_model.model):
        torch.compiler.reset()
        counts.append(torch._dynamo.explain(called)(**batch).graph_break_count)
    assert counts[1] == counts[0]


@pytest.mark.slow
def test_a_compiled_step_has_the_same_gradient_also_after_an_update() -> None:
    _, batch = model_and_batch("t5")
    model = tuned(tied_t5(num_layers=1), density=0.3, init_weights=False)
    torch.compiler.reset()
    compiled = torch.compile(model.base_model.model, backend="aot_eager")
    for seed in (0, 1):
        eager = gradient(model, model, batch)
        torch.testing.assert_close(gradient(model, compiled, batch), eager, rtol=1e-4, atol=1e-6)
        model.base_model.set_mask(random_scores(model, seed))
        randomise(model, seed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["t5", "bert"])
def test_under_autocast_the_gradient_is_near_that_of_the_merged_model(family: str, dtype: torch.dtype) -> None:
    model, batch = model_and_batch(family)
    mask = model.base_model.mask()
    with torch.autocast("cpu", dtype):
        found = gradient(model, model, batch)
    assert found.dtype == torch.float32

    merged = model.merge_and_unload().requires_grad_(True)
    dense = dict(merged.named_parameters())
    with torch.autocast("cpu", dtype):
        merged(**batch).loss.backward()
    expected = torch.cat([dense[name].grad.flatten()[positions] for name, positions in mask.items()])
    assert nn.functional.cosine_similarity(found, expected, dim=0) > 0.999
    assert 0.97 < found.norm() / expected.norm() < 1.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_an_adapter_computes_what_the_merged_model_does(family: str, dtype: torch.dtype) -> None:
    model, batch = model_and_batch(family)
    with torch.autocast("cpu", dtype):
        unmerged = model(**batch).logits
    merged = model.merge_and_unload().requires_grad_(True)  # so that autocast converts weights in the same way
    with torch.autocast("cpu", dtype):
        assert torch.equal(unmerged, merged(**batch).logits)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_float16_trains_with_a_scaler(family: str) -> None:
    model, batch = model_and_batch(family)
    optimizer = torch.optim.SGD([flat_of(model)], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = flat_of(model).detach().clone()
    with torch.autocast("cpu", torch.float16):
        plain = gradient(model, model, batch).clone()
        flat_of(model).grad = None
        loss = model(**batch).loss
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(before - flat_of(model), 0.1 * plain, rtol=0.02, atol=1e-4)


def test_a_step_that_overflows_is_skipped_by_the_scaler() -> None:
    model, batch = model_and_batch("bert")
    optimizer = torch.optim.SGD([flat_of(model)], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = flat_of(model).detach().clone()
    scaler.scale(model(**batch).loss).backward()
    flat_of(model).grad[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(flat_of(model), before)
    assert scaler.get_scale() == 2.0**99
