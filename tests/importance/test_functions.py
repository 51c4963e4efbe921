"""Importance functions, named ones and a user's own: the masks are those of dense computation on the bare model."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from peft_fishdip import ExampleGradients, register_importance
from peft_fishdip.criteria.functions import lift

from ..support.models import (
    FAMILIES,
    Attention,
    Convolutions,
    assert_base_is,
    base_bits,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    randomise,
    scales_of,
    seq2seq_examples,
    tied_t5,
    tuned,
)
from ..support.reference import example_loss, global_top_k

SETTINGS = {"density": 0.1, "delta_scale": "rms", "sample_selection": "all"}


@pytest.fixture(autouse=True)
def no_names_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_fishdip.criteria.registry._registered", {})


def effective(model: Any, base: Any) -> Any:
    """A bare model with the values that `base` has with the adapter of `model`."""
    plain = copy.deepcopy(base)
    parameters = dict(plain.named_parameters())
    with torch.no_grad():
        for name, (positions, deltas) in model.base_model.delta().items():
            parameters[name].view(-1)[positions] += deltas
    return plain


def without_zeros(base: Any) -> Any:
    """With biases that are not zero: by these, GaLLoP divides gradients that are nothing but rounding errors."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return base


def gradients_of(plain: Any, family: str, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The gradient of each example's loss, (examples, *shape), by parameter; zero where it is not used."""
    parameters = dict(plain.named_parameters())
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for example in examples:
        loss = example_loss(plain, family, padded([example]))[0]
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            rows[name].append(torch.zeros_like(parameters[name]) if gradient is None else gradient)
    return {name: torch.stack(found) for name, found in rows.items()}


def positions_of(masks: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {(name, place) for name, mask in masks.items() for place in mask.flatten().nonzero().flatten().tolist()}


def mask_of(model: Any) -> set[tuple[str, int]]:
    return {(name, place) for name, places in model.base_model.mask().items() for place in places.tolist()}


def formula(importance: str, weight: Tensor, rows: Tensor, unit: float) -> Tensor:
    """The definitions, in float64."""
    weight, mean = weight.detach().double(), rows.double().mean(0)
    if importance == "gradient":
        return (mean * unit).abs()
    return weight.abs() if importance == "magnitude" else mean.abs() / (weight.abs() + 1e-8)


@pytest.mark.parametrize("scale", ["rms", "none"])
@pytest.mark.parametrize("importance", ["gradient", "gallop", "magnitude"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_the_formula_at_the_effective_weights(family: str, importance: str, scale: str) -> None:
    build, make = FAMILIES[family]
    base, examples = without_zeros(build()), make(5)
    model = tuned(copy.deepcopy(base), **SETTINGS | {"importance": importance, "delta_scale": scale})
    units = scales_of(model)
    for seed in (0, 1):
        randomise(model, seed, scale=0.5)
        plain = effective(model, base)
        update = model.base_model.update_mask(examples)
        rows = gradients_of(plain, family, examples)
        weights = dict(plain.named_parameters())
        scores = {
            name: formula(importance, weights[name], rows[name], units[name]).float()
            for name in model.base_model.mask()
        }
        expected = positions_of(global_top_k(scores, flat_of(model).numel()))
        assert len(expected) == len(mask_of(model))
        threshold = min(float(scores[name].flatten()[place]) for name, place in expected)
        for name, place in mask_of(model) ^ expected:  # only what rounding decides
            assert float(scores[name].flatten()[place]) == pytest.approx(threshold, rel=1e-3), (name, place)
        assert len(update.example_ids) == (0 if importance == "magnitude" else 5)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_lift_gives_each_matrix_the_entries_of_one_lora_rank_by_magnitude_in_its_truncated_svd(family: str) -> None:
    build, _ = FAMILIES[family]
    base, model = build(), tuned(build(), **SETTINGS | {"importance": "lift"})
    randomise(model, scale=0.5)
    plain = dict(effective(model, base).named_parameters())
    model.base_model.update_mask([])
    ranks = {}
    for name, places in model.base_model.mask().items():
        weight = plain[name].detach().double().numpy()
        if weight.ndim < 2:
            assert not len(places), name
            continue
        left, values, right = numpy.linalg.svd(weight, full_matrices=False)
        best = abs(values[0] * numpy.outer(left[:, 0], right[0])).ravel()  # 1/32 of a rank of 16 or 24, at least 1
        chosen = numpy.zeros(best.size, dtype=bool)
        chosen[places.numpy()] = True
        assert best[chosen].min() >= best[~chosen].max() * (1 - 1e-4), name
        ranks[name] = (len(places), sum(weight.shape))
    lowest = max((count - 1) / sides for count, sides in ranks.values())
    highest = min((count + 1) / sides for count, sides in ranks.values())
    assert lowest <= highest  # there is a rank r with floor(r * (m + n)) entries of every matrix
    assert sum(count for count, _ in ranks.values()) == flat_of(model).numel()


def test_lift_takes_another_rank_from_a_partial_function() -> None:
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    left, values, right = numpy.linalg.svd(weight.double().numpy(), full_matrices=False)
    for rank in (3, 12, 50):
        best = abs((left[:, :rank] * values[:rank]) @ right[:rank]).ravel()
        found = partial(lift, rank=rank)(weight.clone(), ExampleGradients({}, 0, 1.0)).flatten()
        assert found.argsort(descending=True)[:40].tolist() == (-best).argsort()[:40].tolist()


def test_lift_ranks_all_entries_whatever_the_default_dtype_is() -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = lift(weight.clone(), ExampleGradients({}, 0, 1.0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert found.unique().numel() == weight.numel()


class Spy:
    """An importance function that keeps what it was given, and ruins it."""

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, ExampleGradients]] = []

    def __call__(self, parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        averages = {name: tensor.clone() for name, tensor in gradients.averages.items()}
        self.given.append((parameter.clone(), ExampleGradients(averages, gradients.count, gradients.unit)))
        parameter.fill_(7)
        return gradients.mean.square_()


@pytest.mark.parametrize("family", ["t5", "gpt2"])
@pytest.mark.parametrize("needs", [("mean",), ("mean_square", "mean", "mean_absolute")])
def test_a_function_is_given_copies_of_the_effective_weights_and_the_averages_it_needs(
    family: str, needs: tuple[str, ...]
) -> None:
    build, make = FAMILIES[family]
    base, examples, spy = build(), make(4), Spy()
    register_importance("spy", spy, needs)
    model = tuned(build(), **SETTINGS | {"importance": "spy"})
    randomise(model, scale=0.5)
    before, plain = base_bits(model), effective(model, base)
    model.base_model.update_mask(examples, batch_size=2)
    assert_base_is(model, before)
    rows, weights, units = gradients_of(plain, family, examples), dict(plain.named_parameters()), scales_of(model)
    for name, (parameter, gradients) in zip(model.base_model.mask(), spy.given, strict=True):
        torch.testing.assert_close(parameter, weights[name].detach(), rtol=0, atol=1e-6)
        assert (gradients.count, gradients.unit) == (4, units[name])
        assert set(gradients.averages) == set(needs)
        expected = {
            "mean": rows[name].mean(0),
            "mean_square": rows[name].square().mean(0),
            "mean_absolute": rows[name].abs().mean(0),
        }
        for need in needs:
            torch.testing.assert_close(getattr(gradients, need), expected[need], rtol=1e-3, atol=1e-5)


def test_a_function_that_returns_squares_in_units_gives_the_mask_of_fisher() -> None:
    def squares(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        return gradients.mean_square * gradients.unit**2

    register_importance("squares", squares, needs="mean_square")
    masks = []
    for importance in ("fisher", "squares", squares):
        model = tuned(tied_t5(), **SETTINGS | {"importance": importance})
        model.base_model.update_mask(seq2seq_examples(5))
        masks.append(mask_of(model))
    assert masks[0] == masks[1] == masks[2]


def test_float16_weights_reach_a_function_as_float32() -> None:
    seen: list[torch.dtype] = []

    def magnitudes(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        seen.append(parameter.dtype)
        return parameter.abs()

    register_importance("magnitudes", magnitudes, needs=())
    base = bert_classifier().to(torch.bfloat16)
    expected = {name: p.detach().float().abs() for name, p in base.named_parameters()}
    model = tuned(base, **SETTINGS | {"importance": "magnitudes"})
    model.base_model.update_mask([])
    assert mask_of(model) == positions_of(global_top_k(expected, flat_of(model).numel()))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("build", [Convolutions, Attention])
def test_parameters_of_any_module_and_shape_have_their_effective_values(build: Any) -> None:
    """Convolutions, group norms, and parameters of modules within an attention module."""
    torch.manual_seed(0)
    base = without_zeros(build())
    model = tuned(copy.deepcopy(base), density=0.2, importance="magnitude")
    randomise(model, scale=0.5)
    weights = dict(effective(model, base).named_parameters())
    model.base_model.update_mask([])
    scores = {name: weights[name].detach().abs() for name in model.base_model.mask()}
    assert mask_of(model) == positions_of(global_top_k(scores, flat_of(model).numel()))
    model = tuned(base, density=0.2, importance="lift")
    model.base_model.update_mask([])
    assert {weights[name].dim() for name, places in model.base_model.mask().items() if len(places)} == {
        parameter.dim() for parameter in weights.values() if parameter.dim() > 1
    }


def test_masks_that_a_function_moves_are_carried_over_in_the_optimizer() -> None:
    model = tuned(bert_classifier(), **SETTINGS | {"importance": "gallop"})
    examples, optimizer = classifier_examples(8), torch.optim.AdamW([flat_of(model)], lr=1e-2)
    for start in (0, 4):
        update = model.base_model.update_mask(examples[start : start + 4], optimizer=optimizer)
        before = flat_of(model).detach().clone()
        model(**padded(examples)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float((flat_of(model).detach() - before).abs().max()) <= 1.2e-2
    assert 0 < update.overlap < 1
    assert update.support_size > update.num_active


def second(function: Any) -> Any:
    """Returns magnitudes for the first parameter, and what `function` makes of them for the second one."""
    calls: list[int] = []

    def importance(parameter: Tensor, gradients: ExampleGradients) -> Any:
        calls.append(1)
        return parameter.abs() if len(calls) != 2 else function(parameter.abs())

    return importance


def with_one(value: float) -> Any:
    return lambda scores: scores.flatten().index_fill(0, torch.tensor([5]), value).view_as(scores)


BAD: dict[str, tuple[Any, str]] = {
    "shape": (lambda scores: scores.sum(0), r"must return a real tensor of shape \(24, 16\) for {}.*shape \(16,\)"),
    "none": (lambda scores: None, r"must return a real tensor of shape \(24, 16\) for {}.*not a NoneType"),
    "list": (lambda scores: scores.tolist(), "must return a real tensor .* for {}.*not a list"),
    "complex": (lambda scores: scores.to(torch.complex64), "must return a real tensor .* for {}.*complex64"),
    "nan": (with_one(float("nan")), "returned nan for {} at flat position 5; scores must be finite"),
    "inf": (lambda scores: scores.double() * 1e300, "returned inf for {} at flat position 0; .* finite in float32"),
    "negative": (with_one(-2.0), r"returned -2\.0 for {} at flat position 5; .* at least 0"),
    "error": (lambda scores: scores @ scores, "failed at {}: RuntimeError: mat1 and mat2"),
}


@pytest.mark.parametrize("case", BAD)
def test_scores_that_are_none_are_refused_by_the_parameter_s_name_and_nothing_changes(case: str) -> None:
    spoil, message = BAD[case]
    model = tuned(bert_classifier(), **SETTINGS | {"importance": second(spoil)})
    before, mask = base_bits(model), mask_of(model)
    with pytest.raises(ValueError, match=message.format("'bert.embeddings.position_embeddings.weight'")):
        model.base_model.update_mask(classifier_examples(3))
    assert_base_is(model, before)
    assert mask_of(model) == mask
    assert model.base_model.last_update() is None


def test_only_zeros_are_refused() -> None:
    model = tuned(bert_classifier(), **SETTINGS | {"importance": lambda parameter, gradients: parameter * 0})
    with pytest.raises(ValueError, match="returned only zeros, so no entry comes before another"):
        model.base_model.update_mask(classifier_examples(3))


def test_memory_that_is_short_is_told_as_such() -> None:
    def function(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
        raise MemoryError("no more memory")

    model = tuned(bert_classifier(), **SETTINGS | {"importance": function})
    with pytest.raises(MemoryError, match="no more memory"):
        model.base_model.update_mask(classifier_examples(3))


def test_an_average_that_was_not_asked_for_is_refused_with_the_remedy() -> None:
    model = tuned(bert_classifier(), **SETTINGS | {"importance": lambda parameter, gradients: gradients.mean_square})
    remedy = r"gradients\.mean_square has not been computed: .*needs=\('mean', 'mean_square'\)"
    with pytest.raises(ValueError, match=remedy):
        model.base_model.update_mask(classifier_examples(3))


def test_examples_are_not_looked_at_where_none_are_needed() -> None:
    def refuses(model: Any, batch: Any) -> Tensor:
        raise AssertionError("an example was looked at")

    model = tuned(bert_classifier(), **SETTINGS | {"importance": "lift"})
    update = model.base_model.update_mask(classifier_examples(3), loss_fn=refuses)
    assert (update.example_ids, update.losses, update.num_active) == ((), (), flat_of(model).numel())
