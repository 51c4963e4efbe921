"""Learning rates far from the adapter's unit are warned of once; those that people begin with are not."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import Adafactor

from peft_fishdip import SparseAdafactor, tuner_of

from ..support.models import (
    base_parameters,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    random_scores,
    tied_t5,
    tuned,
)


def told(model: Any, optimizer: Any, steps: int = 2) -> list[str]:
    """The warnings of some steps."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(steps):
            model(**padded(classifier_examples(2))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return [str(warning.message) for warning in found if warning.category is UserWarning]


def scored(scale: str, **settings: Any) -> Any:
    model = tuned(bert_classifier(), delta_scale=scale, **settings)
    model.base_model.set_mask(random_scores(model))
    return model


@pytest.mark.parametrize(
    ("scale", "fine", "small", "large"),
    [
        ("auto", (1e-4, 3e-4, 1e-3, 3e-3), (1e-5, 5e-5), (0.1, 1.0)),
        ("rms", (1e-3, 0.01, 0.05, 0.1), (5e-5,), (1.0,)),
        ("none", (1e-3, 3e-3, 1e-2, 3e-2), (5e-5,), (1.0,)),  # of weights with an RMS near 0.2
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam])
def test_a_rate_is_judged_by_the_unit_of_the_deltas(
    scale: str, fine: tuple[float, ...], small: tuple[float, ...], large: tuple[float, ...], kind: Any
) -> None:
    for rates, word in ((fine, None), (small, "small"), (large, "large")):
        for rate in rates:
            model = scored(scale)
            messages = told(model, kind([flat_of(model)], lr=rate))
            assert len(messages) == (word is not None), (rate, messages)
            if word is not None:
                assert f"{rate:g} of {kind.__name__} is far too {word} for adapter 'default'" in messages[0]
                assert "to begin with" in messages[0]


def test_the_peak_of_a_schedule_counts() -> None:
    for peak, count in ((1e-3, 0), (5e-5, 1)):
        model = scored("auto")
        optimizer = torch.optim.AdamW([flat_of(model)], lr=peak)
        LambdaLR(optimizer, lambda step: step / 10)
        assert optimizer.param_groups[0]["lr"] == 0
        assert len(told(model, optimizer)) == count


def test_adafactor_by_itself_is_warned_of_and_the_sparse_one_by_its_own_measure() -> None:
    model = scored("rms")
    plain = Adafactor([flat_of(model)], lr=1e-2, relative_step=False, scale_parameter=True)
    (message,) = told(model, plain)
    assert "use peft_fishdip.SparseAdafactor(model)" in message
    for rate, count in ((1e-2, 0), (1e-1, 0), (5e-5, 1), (1.0, 1)):
        assert len(told(model, SparseAdafactor(model, lr=rate))) == count


def test_modules_that_are_trained_whole_at_the_rate_of_scaled_deltas_are_warned_of() -> None:
    for scale, rate, count in (("rms", 0.05, 1), ("auto", 1e-3, 0)):
        model = scored(scale, task_type="SEQ_CLS")
        messages = told(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate))
        assert len(messages) == count
        assert all("modules that are trained whole (classifier, score)" in message for message in messages)
    model = scored("rms", task_type="SEQ_CLS")
    own = [p for name, p in model.named_parameters() if p.requires_grad and p is not flat_of(model)]
    groups = [{"params": [flat_of(model)], "lr": 0.05}, {"params": own, "lr": 1e-3}]
    assert told(model, torch.optim.AdamW(groups)) == []


def test_steps_whose_size_is_that_of_gradients_are_not_judged() -> None:
    model = scored("auto")
    assert told(model, torch.optim.SGD([flat_of(model)], lr=1e-6)) == []


@pytest.mark.parametrize("name", ["DAdaptAdam", "DAdaptLion", "Prodigy", "AdamThatFindsItsRate"])
def test_optimizers_that_find_their_rate_are_not_judged(name: str) -> None:
    kind: Any = type(name, (torch.optim.AdamW,), {})
    model = scored("auto")
    optimizer = kind([flat_of(model)], lr=1.0)
    if name.startswith("Adam"):
        optimizer.param_groups[0]["d0"] = 1e-6
    assert told(model, optimizer) == []


def test_each_optimizer_is_judged_though_nothing_updates_the_mask_by_itself() -> None:
    model = tuned(bert_classifier(), delta_scale="auto", auto_update=False)
    model.base_model.set_mask(random_scores(model))
    assert [len(told(model, torch.optim.AdamW([flat_of(model)], lr=1.0), steps=3)) for _ in range(2)] == [1, 1]


def test_one_rate_makes_larger_steps_in_models_of_the_t5_family() -> None:
    for base, unit in ((tied_t5(), 64.0), (bert_classifier(), 8.0)):
        model = tuned(base, delta_scale="auto", auto_update=False, density=0.1)
        state = tuner_of(model)._state(None)
        for delta in state.deltas:
            rms = float(base_parameters(model)[delta.name].square().mean().sqrt())
            if rms > 1e-3:
                assert unit / 1.5 < delta.scale / rms < unit * 1.5


def test_a_few_large_gains_do_not_make_large_steps_of_the_others() -> None:
    base = bert_classifier()
    name = "bert.embeddings.LayerNorm.weight"
    with torch.no_grad():
        base.get_parameter(name)[:2] = 500.0  # among others of 1
    units = {}
    for delta_scale in ("auto", "rms"):
        state = tuner_of(tuned(copy.deepcopy(base), delta_scale=delta_scale, density=0.1))._state(None)
        units[delta_scale] = next(delta.scale for delta in state.deltas if delta.name == name)
    assert units["auto"] == 8.0  # as if its RMS were 1
    assert units["rms"] > 50
