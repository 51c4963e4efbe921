"""Every kind of layer: values and gradients are those of the dense weights, whatever the input and mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..support.models import UNSCORED, flat_of, random_scores, randomise, scales_of, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


class Call(nn.Module):
    """A layer as a model: makes a tensor of what the layer gives."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.call is None else self.call(self.layer, x)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Embedding):
    """An embedding that changes the rows it looks up."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * 2.5


class Mixed(nn.Embedding):
    """An embedding that uses its weight in two ways."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + self.weight.mean(0)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def bidirectional(kind: Any) -> Callable[[], nn.Module]:
    return lambda: Call(kind(5, 4, num_layers=2, bidirectional=True, batch_first=True), lambda m, x: m(x)[0])


def attention(**kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: Call(nn.MultiheadAttention(8, 2, batch_first=True, **kwargs), lambda m, x: m(x, x, x)[0])


def frozen_channels_last() -> nn.Module:
    return Call(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))


def transposed_linear() -> nn.Module:
    layer = nn.Linear(6, 4)
    layer.weight = nn.Parameter(noise(6, 4).t())  # not contiguous
    return Call(layer)


def weight_norm() -> nn.Module:
    return Call(torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: Call(nn.Linear(6, 4)), noise(2, 3, 6)),
    "linear without bias": (lambda: Call(nn.Linear(6, 4, bias=False)), noise(5, 6)),
    "linear of a vector": (lambda: Call(nn.Linear(6, 4)), noise(6)),
    "linear of nothing": (lambda: Call(nn.Linear(6, 4)), noise(0, 6)),
    "linear of other strides": (lambda: Call(nn.Linear(6, 4)), noise(6, 5, 2).transpose(0, 2)),
    "linear with a transposed weight": (transposed_linear, noise(2, 6)),
    "conv1d of transformers": (lambda: Call(Conv1D(4, 6)), noise(2, 3, 6)),
    "conv1d of transformers of nothing": (lambda: Call(Conv1D(4, 6)), noise(0, 6)),
    "embedding": (lambda: Call(nn.Embedding(7, 4)), ids(2, 5)),
    "embedding with padding": (lambda: Call(nn.Embedding(7, 4, padding_idx=2)), ids(3, 6)),
    "embedding with negative padding": (lambda: Call(nn.Embedding(7, 4, padding_idx=-1)), ids(3, 6)),
    "embedding scaled by frequency": (lambda: Call(nn.Embedding(7, 4, scale_grad_by_freq=True)), ids(3, 6)),
    "embedding that scales": (lambda: Call(Scaled(7, 4, padding_idx=2)), ids(3, 6)),
    "embedding that scales, negative padding": (lambda: Call(Scaled(7, 4, padding_idx=-1)), ids(3, 6)),
    "embedding that uses its weight twice": (lambda: Call(Mixed(7, 4)), ids(3, 6)),
    "embedding of one token": (lambda: Call(nn.Embedding(7, 4)), torch.tensor(3)),
    "embedding of nothing": (lambda: Call(nn.Embedding(7, 4)), ids(0, 3)),
    "embedding bag": (lambda: Call(nn.EmbeddingBag(7, 4)), ids(3, 6)),
    "layer norm": (lambda: Call(nn.LayerNorm(6)), noise(2, 3, 6)),
    "rms norm": (lambda: Call(nn.RMSNorm(6)), noise(2, 3, 6)),
    "batch norm": (lambda: Call(nn.BatchNorm1d(6)), noise(5, 6)),
    "group norm": (lambda: Call(nn.GroupNorm(2, 6)), noise(2, 6, 3)),
    "conv1d": (lambda: Call(nn.Conv1d(4, 6, 3)), noise(2, 4, 5)),
    "conv2d": (lambda: Call(nn.Conv2d(4, 6, 3, groups=2, stride=2)), noise(2, 4, 5, 5)),
    "conv2d, channels last": (frozen_channels_last, noise(2, 3, 5, 5)),
    "transposed conv": (lambda: Call(nn.ConvTranspose1d(4, 6, 3)), noise(2, 4, 5)),
    "attention": (attention(), noise(2, 5, 8)),
    "attention with other widths": (attention(add_bias_kv=True), noise(2, 5, 8)),
    "lstm": (bidirectional(nn.LSTM), noise(2, 4, 5)),
    "gru": (bidirectional(nn.GRU), noise(2, 4, 5)),
    "lstm cell": (lambda: Call(nn.LSTMCell(5, 4), lambda m, x: m(x)[0]), noise(2, 5)),
    "bilinear": (lambda: Call(nn.Bilinear(3, 3, 4), lambda m, x: m(x, x)), noise(2, 3)),
    "prelu": (lambda: Call(nn.PReLU(3)), noise(2, 3)),
    "weight norm": (weight_norm, noise(2, 6)),
}


def built(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind][0]()


def dense_twin(model: Any, base: nn.Module) -> nn.Module:
    """The base with the deltas added to its weights, all of which require gradients."""
    twin = copy.deepcopy(base)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, (positions, values) in model.base_model.delta().items():
            flat = parameters[name].reshape(-1).clone()
            flat[positions] += values
            parameters[name].copy_(flat.view(parameters[name].shape))
    return twin


def gathered_gradient(model: Any, twin: nn.Module) -> Tensor:
    parameters = dict(twin.named_parameters())
    parts = []
    for name, positions in model.base_model.mask().items():
        gradient = parameters[name].grad
        dense = torch.zeros_like(parameters[name]) if gradient is None else gradient
        parts.append(dense.reshape(-1)[positions])
    return torch.cat(parts)


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_dense_weights(kind: str, density: float) -> None:
    base, x = built(kind), KINDS[kind][1].clone()
    density = max(density, 1.01 / sum(p.numel() for p in base.parameters()))
    model = tuned(copy.deepcopy(base), density=density, delta_scale="rms")
    assert list(model.base_model.mask()) == list(dict(base.named_parameters()))
    randomise(model, scale=0.5)
    twin = dense_twin(model, base)
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    expected, found = twin(inputs[0]), model(inputs[1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    scales = scales_of(model)
    scale = torch.cat([torch.full(mask.shape, scales[name]) for name, mask in model.base_model.mask().items()])
    torch.testing.assert_close(flat_of(model).grad, gathered_gradient(model, twin) * scale, rtol=1e-4, atol=1e-5)
    if x.is_floating_point():
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
    assert all(not p.requires_grad for name, p in model.named_parameters() if "flat" not in name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_at_once_each_get_their_gradient(kind: str) -> None:
    base, x = built(kind), KINDS[kind][1]
    model = tuned(copy.deepcopy(base), density=0.5, init_weights=False)
    model.add_adapter(
        "other", type(model.peft_config["default"])(density=0.5, init_weights=False, delta_scale="none", seed=1)
    )
    model.base_model.set_adapter(["default", "other"])
    twin = copy.deepcopy(base)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for adapter in ("default", "other"):
            for name, (positions, values) in model.base_model.delta(adapter).items():
                flat = parameters[name].reshape(-1).clone()
                flat[positions] += values
                parameters[name].copy_(flat.view(parameters[name].shape))
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    for adapter in ("default", "other"):
        mask = model.base_model.mask(adapter)
        dense = [torch.zeros_like(p) if p.grad is None else p.grad for p in (parameters[name] for name in mask)]
        expected = torch.cat([g.reshape(-1)[p] for g, p in zip(dense, mask.values(), strict=True)])
        torch.testing.assert_close(flat_of(model, adapter).grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at all
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_a_compiled_model_computes_what_an_eager_one_does_also_after_an_update(kind: str) -> None:
    base, x = built(kind), KINDS[kind][1]
    model = tuned(base, density=0.3, init_weights=False)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for seed in (0, 1):
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
        gradients = []
        for called in (compiled, model):
            flat_of(model).grad = None
            called(x).square().sum().backward()
            gradients.append(flat_of(model).grad)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
        model.base_model.set_mask(random_scores(model, seed))
        randomise(model, seed)


def test_an_embedding_that_scales_its_rows_makes_no_copy_of_its_table() -> None:
    model = tuned(Call(Scaled(5000, 4)), density=0.5, init_weights=False)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        out = model(ids(2, 5))
    views = flat_of(model).numel()
    assert max((size for size in sizes if size != views), default=0) < 5000
    assert type(out.grad_fn).__name__ == "MulBackward0"
    assert "SparseDeltaEmbedding" in type(out.grad_fn.next_functions[0][0]).__name__
