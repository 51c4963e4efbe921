"""Parameters that are read otherwise than in a call of their module: by a parent, by a method, or again in backward."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DebertaV2Config,
    DebertaV2ForTokenClassification,
    MambaConfig,
    MambaForCausalLM,
)

from peft_fishdip.layers.current_weights import CurrentWeight
from peft_fishdip.layers.layer import FishDipLayer, tuned_parameters

from ..support.models import enable_checkpointing, flat_of, ignoring_unscored_mask, randomise, tuned


class Scaled(nn.Module):
    """Owns a parameter, and has a child and a method that is no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale

    def shifted(self, x: Tensor) -> Tensor:
        return x + self.scale.square()


class Multiply(torch.autograd.Function):
    """Takes a weight as custom operators do, which autograd does not look into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight * 1)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.flatten(0, -2).t() @ x.flatten(0, -2)


class Table(nn.Embedding):
    """An embedding with a method that is no forward, as ProphetNet's of positions."""

    def from_row(self, start: int) -> Tensor:
        return super().forward(torch.arange(start, 6))


class Stack(nn.Module):
    """Calls its children through a list, as the pyramids of MaskFormer do."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4)]
        for number, step in enumerate(self.steps):
            self.add_module(str(number), step)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Reader(nn.Module):
    """Reads the parameters of its children, as the mixers of state space models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv1d(4, 4, 3, groups=4, padding=2)
        self.table, self.stack = Table(6, 4), Stack()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.scaled = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.first.weight.dtype)
        x = F.conv1d(x.transpose(1, 2), self.conv.weight.squeeze(1).unsqueeze(1), self.conv.bias, groups=4, padding=2)
        x = self.first.weight @ x + self.first.bias[:, None]
        x = Multiply.apply(x.transpose(1, 2), self.second.weight) + self.table.weight[1:3].sum(0)
        x = self.stack(x + self.table.from_row(2).sum(0))
        x = self.norm(x) * self.norm.weight
        return self.scaled.shifted(self.scaled(x)) + self.scaled.scale


def mamba() -> Any:
    torch.manual_seed(2)
    sizes = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 8, "time_step_rank": 4}
    return MambaForCausalLM(MambaConfig(**sizes)).eval()


def deberta() -> Any:
    torch.manual_seed(2)
    sizes = {"vocab_size": 48, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    attention = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_position_embeddings": 32}
    return DebertaV2ForTokenClassification(DebertaV2Config(num_hidden_layers=1, **sizes, **attention)).eval()


IDS = {"input_ids": torch.arange(2, 14).view(2, 6)}
MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "reader": (Reader, lambda model: model(torch.linspace(-1, 1, 24).view(2, 3, 4))),
    "mamba": (mamba, lambda model: model(**IDS).logits),
    "deberta": (deberta, lambda model: model(**IDS).logits),
}


def dense_copy(make: Callable[[], Any], model: Any) -> Any:
    """The base with the deltas of an adapter added by hand, all of it trainable."""
    base = make()
    deltas = model.base_model.delta()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name in deltas:
                positions, values = deltas[name]
                parameter.view(-1)[positions] += values
    return base.requires_grad_()


def whole(make: Callable[[], Any], **settings: Any) -> Any:
    """A model with an adapter of all its entries."""
    model = tuned(make(), density=1.0, **settings)
    randomise(model)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_those_of_a_dense_copy(name: str) -> None:
    make, run = MODELS[name]
    model = whole(make)
    dense = dense_copy(make, model)
    weights = torch.linspace(-1, 1, run(dense).numel())
    torch.testing.assert_close(run(model), run(dense))
    (run(dense).flatten() * weights).sum().backward()
    with ignoring_unscored_mask():
        (run(model).flatten() * weights).sum().backward()
    state = model.base_model._state(None)
    parameters = dict(dense.named_parameters())
    for delta, gradient in zip(state.deltas, flat_of(model).grad.split(state.sizes), strict=True):
        expected = parameters[delta.name].grad
        expected = torch.zeros_like(parameters[delta.name]) if expected is None else expected
        torch.testing.assert_close(gradient, delta.scale * expected.flatten(), rtol=1e-4, atol=1e-6, msg=delta.name)


@pytest.mark.parametrize("name", MODELS)
def test_merged_disabled_temporarily_merged_and_copied(name: str, tmp_path: Any) -> None:
    make, run = MODELS[name]
    with torch.no_grad():
        base = run(make())
        model = whole(make)
        expected = run(model)
        assert not torch.allclose(expected, base)
        with model.disable_adapter():
            torch.testing.assert_close(run(model), base)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(run(other), expected)
            flat_of(other).data.zero_()
            torch.testing.assert_close(run(other), base)
        assert torch.equal(run(model), expected)
        model.merge_adapter()
        assert torch.equal(run(model), expected)
        model.unmerge_adapter()
        assert torch.equal(run(model), expected)
        keys = set(make().state_dict())
        assert {key.removeprefix("base_model.model.").replace("base_layer.", "") for key in model.state_dict()} >= keys
        plain = model.unload()
    assert type(plain) is type(make())
    assert [type(module) for module in plain.modules()] == [type(module) for module in make().modules()]
    torch.testing.assert_close(run(plain), base)


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_chosen_by_the_gradients_of_these_reads(name: str) -> None:
    make, run = MODELS[name]
    model = tuned(make(), density=0.2, num_samples=1, delta_scale="none")

    def loss_of(model: Any, batch: Any) -> Tensor:
        return run(model).square().sum().expand(1)

    model.base_model.update_mask([{"x": [1]}], loss_fn=loss_of)
    base = make()
    loss_of(base, None).sum().backward()
    scores = {key: p.grad.square() for key, p in base.named_parameters() if p.grad is not None}
    mask = model.base_model.mask()
    total = sum(positions.numel() for positions in mask.values())
    threshold = torch.cat([score.flatten() for score in scores.values()]).topk(total).values[-1]
    for key, positions in mask.items():
        inside = scores[key].flatten()[positions] if key in scores else torch.zeros(positions.numel())
        assert bool((inside >= threshold * (1 - 1e-4)).all()), key


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_gradient_of_a_step_has_these_reads(name: str) -> None:
    make, run = MODELS[name]
    model = tuned(make(), density=0.2)
    dense = make()
    run(dense).square().sum().backward()
    parameters = tuned_parameters(model, "default")
    for parameter, weight in parameters.values():
        parameter.gradient = torch.zeros_like(weight, dtype=torch.float32)
    with ignoring_unscored_mask():
        run(model).square().sum().backward()
    expected = dict(dense.named_parameters())
    for key, (parameter, weight) in parameters.items():
        gradient = torch.zeros_like(weight) if expected[key].grad is None else expected[key].grad
        torch.testing.assert_close(parameter.gradient, gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_layers_that_checkpoint_themselves(use_reentrant: bool) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for checkpointed in (False, True):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        config = BeitConfig(image_size=32, patch_size=16, num_labels=2, drop_path_rate=0.0, **sizes)
        base = BeitForImageClassification(config).train()
        if checkpointed:
            enable_checkpointing(base, {"use_reentrant": use_reentrant})
        model = tuned(base, density=1.0)
        randomise(model)
        with ignoring_unscored_mask():
            model(pixel_values=images, labels=torch.tensor([0, 1])).loss.backward()
        found[checkpointed] = flat_of(model).grad
        names = [delta.name for delta in model.base_model._state(None).deltas]
        assert any("lambda_1" in name for name in names)
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_reads_within_a_checkpoint(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            self.reader = Reader()
            self.on = on

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.reader, x, use_reentrant=use_reentrant) if self.on else self.reader(x)

    found = []
    for on in (False, True):
        model = whole(lambda on=on: Checkpointed(on))
        with ignoring_unscored_mask():
            model(torch.linspace(-1, 1, 24).view(2, 3, 4).requires_grad_()).square().sum().backward()
        found.append(flat_of(model).grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_children_of_a_module_with_parameters_of_its_own_are_tuned() -> None:
    model = tuned(Reader(), density=1.0)
    scaled = model.base_model.model.scaled
    assert isinstance(scaled, FishDipLayer)
    assert isinstance(scaled.base_layer.inner, FishDipLayer)
    model.base_model.unload()
    assert not any(isinstance(module, FishDipLayer) for module in model.modules())


def test_what_a_parent_sets_on_a_module_is_set_there() -> None:
    model = tuned(Reader(), density=1.0)
    scaled = model.base_model.model.scaled
    scaled.base_layer.state = None
    scaled.state = 3
    scaled.inner = nn.Identity()
    assert scaled.base_layer.state == scaled.state == 3
    assert "state" not in scaled.__dict__
    assert isinstance(scaled.base_layer.inner, nn.Identity)
    scaled.eval()
    assert not scaled.base_layer.training


def test_sizes_and_dtype_of_a_weight_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = whole(Reader)
    layer = model.base_model.model.first
    monkeypatch.setattr(CurrentWeight, "values", None)
    weight, base = layer.weight, layer.base_layer.weight
    assert isinstance(weight, nn.Parameter)
    assert (weight.dtype, weight.shape, weight.device, weight.ndim) == (base.dtype, base.shape, base.device, 2)
    assert (weight.size(0), weight.numel(), weight.is_floating_point(), len(weight)) == (4, 16, True, 4)


def test_a_change_of_what_was_read_is_refused() -> None:
    model = whole(Reader)
    before = model.base_model.model.first.base_layer.weight.clone()
    for change in (lambda w: w.zero_(), lambda w: w.__setitem__(0, 1.0), lambda w: w.add_(1)):
        with pytest.raises(RuntimeError, match=r"would change a copy of .first\.weight"), torch.no_grad():
            change(model.base_model.model.first.weight)
    assert torch.equal(model.base_model.model.first.base_layer.weight, before)
    model.base_model.model.first.weight = model.base_model.model.first.weight  # tying anew
    assert torch.equal(model.base_model.model.first.base_layer.weight, before)


def freeze(weight: Any) -> None:
    weight.requires_grad = False


@pytest.mark.parametrize("way", [freeze, lambda weight: weight.requires_grad_(False)], ids=["set", "called"])
@pytest.mark.parametrize("gradients", [True, False])
def test_what_was_read_may_be_frozen_as_the_base_is(way: Any, gradients: bool) -> None:
    model = whole(Reader)
    with torch.set_grad_enabled(gradients):
        way(model.base_model.model.first.weight)
    assert model.base_model.model.first.weight.requires_grad  # the deltas are trained as before
    with pytest.raises(RuntimeError, match="requires_grad_ would change a copy"):
        model.base_model.model.first.weight.requires_grad_(True)


@pytest.mark.parametrize("name", ["first", "table"])
def test_data_of_a_weight_has_the_deltas_and_no_gradients(name: str) -> None:
    model = tuned(Both(), init_weights=False, density=0.5)
    layer = getattr(model.base_model.model, name)
    expected = effective_of(model, f"{name}.weight")
    data = layer.weight.data
    ids = torch.tensor([1, 2])
    assert torch.equal(torch.from_numpy(data.cpu().numpy()), expected)
    assert torch.equal(torch.from_numpy(data.numpy()), expected)
    assert torch.equal(data.clone(), expected)
    assert torch.equal(F.embedding(ids, data), expected[ids])
    read = [data.sum(), data @ torch.ones(4), F.linear(torch.ones(2, 4), data), F.embedding(ids, data), data[0]]
    assert not any(value.requires_grad for value in [data, *read])
    assert torch.equal(nn.Embedding.from_pretrained(data.clone()).weight, expected)
    assert layer.weight.sum().requires_grad
    with pytest.raises(RuntimeError, match="would change a copy"):
        data.zero_()


class Both(nn.Module):
    """A matrix and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.table = nn.Embedding(4, 4)


def effective_of(model: Any, name: str) -> Tensor:
    """The base values plus the deltas."""
    found = dict(model.named_parameters())[f"base_model.model.{name.replace('.', '.base_layer.')}"].detach().clone()
    positions, values = model.base_model.delta()[name]
    found.view(-1)[positions] += values
    return found
