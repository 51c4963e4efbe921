"""The tuner does what a dense, example-by-example implementation of the algorithm does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from peft_fishdip.importance.examples import Numbered
from peft_fishdip.importance.fisher import accumulate_importance, scoring_mode
from peft_fishdip.importance.losses import default_loss_fn

from ..support.models import FAMILIES, UNSCORED, flat_of, padded, scales_of, shapes_of, tuned
from ..support.reference import DenseFishDip, example_loss

LEARNING_RATE = 0.02


def both(family: str, optimizer: str = "adamw", **settings: Any) -> tuple[Any, DenseFishDip, list[dict[str, Any]], Any]:
    """The tuned model, its dense twin, examples, and the tuned model's optimizer."""
    build, examples = FAMILIES[family]
    settings = {"density": 0.03, **settings}
    dense = DenseFishDip(build(), family, settings, optimizer)
    model = tuned(build(), **settings)
    flat = [flat_of(model)]
    if optimizer == "adamw":
        stepper: Any = torch.optim.AdamW(flat, lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)
    else:
        stepper = torch.optim.SGD(flat, lr=LEARNING_RATE, momentum=0.9, weight_decay=0.1)
    return model, dense, examples(11), stepper


def assert_same_mask(model: Any, dense: DenseFishDip) -> None:
    mask = model.base_model.mask()
    assert list(mask) == list(dense.mask)
    for name, expected in dense.mask.items():
        assert torch.equal(mask[name], expected.flatten().nonzero().squeeze(1)), name


def assert_same_delta(model: Any, dense: DenseFishDip, tolerance: float = 2e-5) -> None:
    for name, (positions, values) in model.base_model.delta().items():
        found = torch.zeros_like(dense.delta[name]).flatten()
        found[positions] = values
        torch.testing.assert_close(found, dense.delta[name].flatten(), atol=tolerance, rtol=1e-3)


def run(
    model: Any,
    dense: DenseFishDip,
    examples: list[dict[str, Any]],
    optimizer: Any,
    steps: int = 6,
    interval: int = 2,
) -> None:
    for step in range(steps):
        if step % interval == 0:
            update = model.base_model.update_mask(examples, optimizer=optimizer, batch_size=5)
            chosen, losses = dense.update(examples)
            assert list(update.example_ids) == chosen
            assert list(update.losses) == pytest.approx(losses, rel=1e-4)
            assert_same_mask(model, dense)
        batch = padded([examples[(5 * step + i) % len(examples)] for i in range(4)])
        example_loss(model, dense.family, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        dense.step(batch, LEARNING_RATE, weight_decay=0.1)
        assert_same_delta(model, dense)


@pytest.mark.parametrize(
    ("family", "dropped", "delta_scale"),
    [
        *((family, *pair) for family in FAMILIES for pair in (("freeze", "none"), ("reset", "rms"))),
        ("bert", "freeze", "rms"),
        ("bert", "reset", "none"),
    ],
)
def test_a_run_with_several_masks_under_adamw_is_that_of_the_dense_reference(
    family: str, dropped: str, delta_scale: str
) -> None:
    model, dense, examples, optimizer = both(family, dropped=dropped, delta_scale=delta_scale)
    run(model, dense, examples, optimizer)


@pytest.mark.parametrize(("family", "dropped"), [("t5", "freeze"), ("bert", "reset"), ("gpt2", "freeze")])
def test_a_run_under_sgd_with_momentum_is_that_of_the_dense_reference(family: str, dropped: str) -> None:
    run(*both(family, "sgd", dropped=dropped), steps=6, interval=2)


@pytest.mark.parametrize(("family", "max_support"), [("t5", 1.005), ("bert", 1.01), ("gpt2", 1.0)])
def test_a_run_with_a_bounded_support_is_that_of_the_dense_reference(family: str, max_support: float) -> None:
    model, dense, examples, optimizer = both(family, max_support=max_support, delta_scale="rms")
    unbounded, *rest = both(family, delta_scale="rms")
    run(model, dense, examples, optimizer)
    run(unbounded, *rest)
    assert model.base_model.last_update().support_size == math.floor(max_support * dense.k)
    assert unbounded.base_model.last_update().support_size > math.floor(max_support * dense.k)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("t5", {"importance": "absolute", "example_loss": "mean", "delta_scale": "rms"}),
        ("t5", {"num_samples": 7}),
        ("bert", {"importance": "absolute"}),
        ("bert", {"sample_selection": "all"}),
        ("gpt2", {"example_loss": "mean"}),
        ("gpt2", {"importance": "absolute", "sample_selection": "all"}),
        ("llama", {"num_samples": 1, "example_loss": "mean"}),
    ],
    ids=str,
)
def test_other_ways_of_scoring_are_those_of_the_dense_reference(family: str, settings: dict[str, Any]) -> None:
    run(*both(family, **settings), steps=4, interval=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_fish_scores_random_examples_once(family: str) -> None:
    model, dense, examples, optimizer = both(family, update_interval=None, sample_selection="random", num_samples=5)
    update = model.base_model.update_mask(examples, optimizer=optimizer)
    assert len(set(update.example_ids)) == 5
    assert sorted(update.losses, reverse=True) == list(update.losses)
    dense.update(examples, only=list(update.example_ids))
    assert_same_mask(model, dense)


@pytest.mark.filterwarnings(UNSCORED)
@pytest.mark.parametrize("importance", ["fisher", "absolute"])
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_scaled_deltas_are_chosen_by_the_gradients_of_what_is_trained(family: str, importance: str) -> None:
    """The oracle differentiates by the trainable vector itself, of an adapter of all entries."""
    build, make_examples = FAMILIES[family]
    examples = make_examples(4)
    whole = tuned(build(), density=1.0, delta_scale="rms")
    vector = flat_of(whole)
    scores = torch.zeros_like(vector)
    for example in examples:
        loss = example_loss(whole, family, padded([example]))[0]
        (gradient,) = torch.autograd.grad(loss, [vector])
        scores += gradient.square() if importance == "fisher" else gradient.abs()
    part = tuned(build(), density=0.1, delta_scale="rms", importance=importance, sample_selection="all")
    part.base_model.update_mask(examples)
    masks = part.base_model.mask().values()
    sizes = [shape.numel() for shape in shapes_of(whole).values()]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    chosen = torch.cat([mask + start for mask, start in zip(masks, starts, strict=True)])
    unchosen = torch.ones_like(scores, dtype=torch.bool).index_fill_(0, chosen, False)
    assert len(set(scales_of(whole).values())) > 2
    assert scores[chosen].min() >= scores[unchosen].max() * (1 - 1e-4)


def test_random_examples_differ_between_seeds_and_updates_but_not_between_runs() -> None:
    def chosen(seed: int) -> list[tuple[int, ...]]:
        model, _, examples, _ = both("bert", sample_selection="random", num_samples=4, seed=seed)
        return [tuple(sorted(model.base_model.update_mask(examples).example_ids)) for _ in range(3)]

    assert chosen(0) == chosen(0)
    assert len(set(chosen(0))) > 1
    assert chosen(0) != chosen(1)


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("importance", ["fisher", "absolute"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_themselves_are_those_of_the_dense_reference(family: str, importance: str, together: int) -> None:
    build, make = FAMILIES[family]
    model, examples = build(), make(4)
    dense = DenseFishDip(build(), family, {"density": 0.1, "importance": importance})
    parameters = dict(model.named_parameters())
    with scoring_mode(model, parameters.values()):
        groups = [
            Numbered(list(range(i, i + together)), padded(examples[i : i + together])) for i in range(0, 4, together)
        ]
        average = "mean_square" if importance == "fisher" else "mean_absolute"
        sums, _ = accumulate_importance(model, parameters, groups, default_loss_fn(model, "sum"), average)
    for name, expected in dense.scores(examples).items():
        torch.testing.assert_close(sums[name] / 4, expected, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_a_padded_batch_are_those_of_its_examples_one_by_one(family: str, mean: bool) -> None:
    build, make = FAMILIES[family]
    model, examples = build(), make(6)
    batched = default_loss_fn(model, "mean" if mean else "sum")(model, padded(examples))
    alone = [example_loss(model, family, padded([example]), mean)[0] for example in examples]
    torch.testing.assert_close(batched.double(), torch.stack(alone), rtol=1e-4, atol=1e-6)


def test_k_is_a_share_of_all_parameters_and_a_tied_matrix_counts_once() -> None:
    model, dense, _, _ = both("t5")
    untied = sum(p.numel() for p in dense.base.values())
    assert flat_of(model).numel() == int(0.03 * untied)
    assert "shared.weight" in model.base_model.mask()
    assert "lm_head.weight" not in model.base_model.mask()
