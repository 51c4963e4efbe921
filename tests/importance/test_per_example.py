"""Examples that share a backward pass are scored as if each had its own, or have their own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_fishdip.importance.examples import Numbered
from peft_fishdip.importance.fisher import ImportanceSums, accumulate_importance, add_square, scoring_mode
from peft_fishdip.importance.losses import default_loss_fn
from peft_fishdip.importance.per_example import NotSupported, PerSampleGradients

from ..support.models import FAMILIES, num_hooks, padded, tied_t5, tuned


def group_of(examples: list[Any]) -> Numbered:
    return Numbered(list(range(len(examples))), padded(examples))


def scored(model: nn.Module, groups: list[Numbered], loss_fn: Any) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    with scoring_mode(model, parameters.values()):
        return accumulate_importance(model, parameters, groups, loss_fn, "mean_square")[0]


def supports_per_sample(model: nn.Module, group: Numbered, loss_fn: Any) -> bool:
    parameters = dict(model.named_parameters())
    sums = ImportanceSums(model, parameters, loss_fn, add_square)
    with scoring_mode(model, parameters.values()):
        found = sums.supports_per_sample(group)
    assert not any(tensor.any() for tensor in sums.total.values())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_models_support_per_sample_gradients(family: str) -> None:
    build, make = FAMILIES[family]
    model = build()
    assert supports_per_sample(model, group_of(make(4)), default_loss_fn(model, "sum"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_supports_per_sample_gradients(dtype: torch.dtype) -> None:
    _, make = FAMILIES["t5"]
    model, examples = tied_t5().to(dtype), make(4)
    loss_fn = default_loss_fn(model, "sum")
    assert supports_per_sample(model, group_of(examples), loss_fn)
    together = scored(model, [group_of(examples)], loss_fn)
    alone = scored(model, [Numbered([i], padded([example])) for i, example in enumerate(examples)], loss_fn)
    for name, tensor in together.items():
        assert (tensor - alone[name]).norm() <= 0.1 * alone[name].norm()


class Custom(nn.Module):
    """A classifier of bags of words that may treat its parameters in ways no hook on a module sees."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        if way == "convolution":
            self.extra: Any = nn.Conv1d(6, 6, 1)
        if way == "parameter":
            self.extra = nn.Parameter(torch.randn(6))
        if way == "tokens":
            self.extra = nn.Linear(6, 6)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.norm(self.hidden(self.embedding(input_ids)))
        if self.way == "convolution":
            x = self.extra(x.transpose(1, 2)).transpose(1, 2)
        if self.way == "parameter":
            x = x * self.extra
        if self.way == "tokens":  # all examples' tokens in one row
            x = self.extra(x.reshape(-1, 6)).view(x.shape)
        x = (x * (input_ids != 0).unsqueeze(-1)).sum(1)
        if self.way == "functional":  # an output tied past any module
            return F.linear(x, self.embedding.weight)
        return F.linear(x, torch.eye(20, 6))


def bags(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(1, 20, (count, 7), generator=generator).tolist()
    return [{"input_ids": row[: 3 + i % 4], "labels": row[:1]} for i, row in enumerate(rows)]


def bag_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["input_ids"]), batch["labels"][:, 0], reduction="none")


@pytest.mark.parametrize(
    ("way", "shares"),
    [("plain", True), ("convolution", False), ("parameter", False), ("functional", False), ("tokens", False)],
)
def test_what_has_no_per_sample_gradients_is_scored_one_by_one(way: str, shares: bool) -> None:
    model, examples = Custom(way), bags(4)
    assert supports_per_sample(model, group_of(examples), bag_loss) is shares
    together = scored(model, [group_of(examples)], bag_loss)
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter)
        for i in range(4):
            (gradient,) = torch.autograd.grad(bag_loss(model, padded([examples[i]])).sum(), parameter)
            expected += gradient**2
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-9)


def test_an_update_makes_fewer_passes_than_it_scores_examples() -> None:
    _, make = FAMILIES["t5"]
    model, examples = tuned(tied_t5(), density=0.05, num_samples=8), make(8)
    sizes = []
    model.base_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])) if torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    model.base_model.update_mask(examples, batch_size=4)
    assert sizes == [2, 1, 1, 4, 4]  # once: two examples together and alone
    sizes.clear()
    model.base_model.update_mask(examples, batch_size=4)
    assert sizes == [4, 4]


def test_examples_that_share_a_pass_give_the_same_mask_as_examples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, make = FAMILIES["t5"]
    masks = []
    for limit in (1024, 0):
        monkeypatch.setattr("peft_fishdip.importance.examples.TOKENS_TOGETHER", limit)
        model = tuned(tied_t5(), density=0.05, num_samples=6)
        update = model.base_model.update_mask(make(9))
        masks.append((model.base_model.mask(), update.example_ids))
    assert masks[0][1] == masks[1][1]
    for name, positions in masks[0][0].items():
        assert torch.equal(positions, masks[1][0][name])


def test_hooks_and_attributes_are_removed_even_after_a_pass_that_fails() -> None:
    _, make = FAMILIES["t5"]
    model, group = tied_t5(), group_of(make(3))
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}

    def failing(model: nn.Module, batch: Any) -> Tensor:
        default_loss_fn(model, "sum")(model, batch)
        raise RuntimeError("out of memory")

    with scoring_mode(model, []):
        for loss_fn in (default_loss_fn(model, "sum"), failing):
            watcher = PerSampleGradients(model, parameters, total, add_square)
            fails = loss_fn is failing
            with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext(), watcher.of_batch(3):
                loss_fn(model, group.batch).sum().backward()
            assert watcher.uses == {}
            assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
            assert num_hooks(model) == 0
    assert any(tensor.any() for tensor in total.values())


def test_an_output_that_does_not_begin_with_the_examples_is_refused() -> None:
    model = Custom("tokens")
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with (
        scoring_mode(model, []),
        pytest.raises(NotSupported, match="does not begin with 3 examples"),
        PerSampleGradients(model, parameters, total, add_square).of_batch(3),
    ):
        model(group_of(bags(3)).batch["input_ids"])


def test_whether_examples_can_share_a_pass_is_tried_once_for_each_model() -> None:
    sizes: list[int] = []

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        sizes.append(len(batch["labels"]))
        return bag_loss(model, batch)

    def update(model: Any) -> list[int]:
        sizes.clear()
        model.base_model.update_mask(bags(4), data_collator=padded, loss_fn=loss_fn)
        return list(sizes)

    model = tuned(Custom("plain"), density=0.2, sample_selection="all")
    first = update(model)
    assert update(model) == [4]
    assert len(first) > 1
    assert update(tuned(Custom("plain"), density=0.2, sample_selection="all")) == first
