"""Optimizers that make the steps of another one with the same vector: masks change as without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ...support.models import bert_classifier, classifier_examples, flat_of, random_scores
from .loops import adamw, batches, driven, labelled_loss, loop, unlabelled_loss


class Lookahead(torch.optim.Optimizer):
    """As common libraries have it, with slow weights that are the fast ones: the steps are those of the other one."""

    def __init__(self, inner: torch.optim.Optimizer, shared: bool = True) -> None:
        groups = inner.param_groups if shared else [{"params": group["params"]} for group in inner.param_groups]
        super().__init__(groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


class SlowLookahead(torch.optim.Optimizer):
    """With slow weights, which the fast ones meet halfway in every third step; in its state or in a list."""

    def __init__(self, inner: torch.optim.Optimizer, in_state: bool) -> None:
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups
        self.inner, self.steps = inner, 0
        self.lists: list[list[Tensor]] = []
        [vector] = inner.param_groups[0]["params"]
        if in_state:
            self.state[vector]["slow_buffer"] = vector.detach().clone()
        else:
            self.lists.append([vector.detach().clone()])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.inner.step(closure)
        self.steps += 1
        [vector] = self.param_groups[0]["params"]
        if self.steps % 3 == 0:
            slow = self.state[vector]["slow_buffer"]
            vector.copy_(slow.lerp_(vector, 0.5))


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization: the gradient is that of a point a little further up."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    @torch.no_grad()
    def step(self, closure: Any) -> None:  # type: ignore[override]
        [vector] = self.param_groups[0]["params"]
        up = None if vector.grad is None else 0.01 * vector.grad / (vector.grad.norm() + 1e-12)
        if up is not None:
            vector.add_(up)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        if up is not None:
            vector.sub_(up)
        self.inner.step()


@pytest.mark.parametrize("loss", [labelled_loss, unlabelled_loss])
@pytest.mark.parametrize("shared", [True, False])
def test_lookahead_has_the_masks_and_values_of_its_optimizer(loss: Any, shared: bool) -> None:
    data = batches(classifier_examples(10), 2, 14)
    model, plain = driven(bert_classifier()), driven(bert_classifier())
    course = loop(model, data, Lookahead(adamw(model), shared), loss)
    expected = loop(plain, data, None, loss)
    assert course.steps == expected.steps == [0, 4, 8, 12]
    assert course.masks == expected.masks
    assert all(torch.equal(a, b) for a, b in zip(course.values, expected.values, strict=True))


@pytest.mark.parametrize("by_itself", [True, False])
def test_slow_weights_follow_the_mask(by_itself: bool) -> None:
    data = batches(classifier_examples(10), 2, 5)
    model = driven(bert_classifier())
    optimizer = SlowLookahead(adamw(model), in_state=True)
    if by_itself:  # the fifth call changes the mask, before its forward pass
        course = loop(model, data, optimizer)
        assert course.steps == [0, 4]
    else:
        loop(model, data[:4], optimizer)
        model.base_model.set_mask(random_scores(model), optimizer=optimizer.inner)
    vector = flat_of(model)
    new = ~vector.detach().bool() if not by_itself else None
    slow, moments = optimizer.state[vector]["slow_buffer"], optimizer.inner.state[vector]["exp_avg"]
    if new is not None:
        assert 0 < new.sum() < new.numel()
        assert not slow[new].any()
        assert not moments[new].any()
    else:
        kept = sum(len(set(a) & set(b)) for a, b in zip(*(m.values() for m in course.masks[3:]), strict=True))
        assert int(slow.bool().sum()) <= kept < slow.numel()


def test_slow_weights_outside_of_the_state_are_refused_with_a_remedy() -> None:
    data = batches(classifier_examples(10), 2, 5)
    model = driven(bert_classifier())
    with pytest.raises(ValueError, match=r"SlowLookahead keeps a tensor .* outside of its state.*optimizer\.state"):
        loop(model, data, SlowLookahead(adamw(model), in_state=False))
    fixed = driven(bert_classifier(), update_interval=None)
    assert loop(fixed, data[:2], SlowLookahead(adamw(fixed), in_state=False)).steps == [0]


@pytest.mark.filterwarnings("ignore:Adapter .* is being trained on its data-free:UserWarning")
def test_sharpness_aware_minimization_chooses_one_mask_per_interval() -> None:
    model = driven(bert_classifier())
    optimizer = SAM(adamw(model))
    model.train()
    steps, before = [], None
    for batch in batches(classifier_examples(10), 2, 10):

        def closure(batch: dict[str, Tensor] = batch) -> Tensor:
            loss = model(**batch).loss
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
        optimizer.zero_grad()
        update = model.base_model.last_update()
        if update is not before:
            steps.append(update.step)
        before = update
    assert steps == [0, 4, 8]
    assert flat_of(model).detach().any()


def test_an_optimizer_that_comes_after_a_wrapped_one_begins_anew() -> None:
    data = batches(classifier_examples(10), 2, 6)
    model = driven(bert_classifier())
    assert loop(model, data, Lookahead(adamw(model))).steps == [0, 4]
    assert loop(model, data, adamw(model)).steps == [0, 4]
    wrapped = Lookahead(adamw(model))
    assert loop(model, data, wrapped).steps == [0, 4]
    assert loop(model, data, wrapped.inner).steps == [4, 8]  # the same training goes on
