"""Every kind of layer: values and gradients are those of the dense weights, whatever the input and mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_fishdip import FishDipLayer
from peft_fishdip.adapter import base_parameter
from peft_fishdip.adapter.state import SparseDelta
from peft_fishdip.layers import sparse_grad
from peft_fishdip.layers.sparse_grad import (
    BACKENDS,
    Costs,
    Pattern,
    matrix_gradient,
    pattern_of,
)

from ..support.models import (
    FAMILIES,
    UNSCORED,
    Attention,
    flat_of,
    padded,
    random_scores,
    randomise,
    scales_of,
    tuned,
)

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
    model.add_adapter("other", type(model.peft_config["default"])(density=0.5, init_weights=False, seed=1))
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


@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("count", [1, 4, None])
def test_the_backends_of_the_weight_gradient_agree(shape: tuple[int, int], count: int | None, tokens: int) -> None:
    base = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    total = base[0].weight.numel()
    model = tuned(base, density=(count or total) / total)
    delta = delta_of(model)
    left, right = torch.randn(tokens, shape[0]), torch.randn(tokens, shape[1])
    expected = (left.t() @ right).reshape(-1)[delta.active]
    for backend in (*BACKENDS.values(), matrix_gradient):
        torch.testing.assert_close(backend(left, right, delta), expected, rtol=1e-5, atol=1e-6)


def delta_of(model: Any) -> SparseDelta:
    """The delta to the weight of a model of one linear layer, as the backends of its gradient take it."""
    [delta] = model.base_model.model[0].deltas("weight")
    return delta


def delta_with(rows: list[int], columns: list[int], shape: tuple[int, int]) -> SparseDelta:
    """A mask of all entries in the given rows and columns."""
    model = tuned(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)), density=1.0)
    delta = delta_of(model)
    grid = torch.tensor(rows).unsqueeze(1) * shape[1] + torch.tensor(columns)
    delta.set_positions(grid.flatten(), delta.inactive[:0], delta.inactive_values[:0])
    return delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [([2], [0, 3]), ([0, 7, 8], [1]), (list(range(9)), [4]), ([8], [5])])
def test_the_backends_agree_on_clustered_masks(rows: list[int], columns: list[int], dtype: torch.dtype) -> None:
    delta = delta_with(rows, columns, (9, 6))
    left, right = torch.randn(11, 9).to(dtype), torch.randn(11, 6).to(dtype)
    expected = (left.float().t() @ right.float()).reshape(-1)[delta.active]
    for backend in BACKENDS.values():
        found = backend(left, right, delta).float()
        torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_the_cheapest_backend_is_chosen_by_the_mask_and_the_costs() -> None:
    def mask(count: int, rows: int, columns: int) -> Pattern:
        generator = torch.Generator().manual_seed(0)
        inside = torch.randperm(rows * columns, generator=generator)[:count].sort().values
        base = nn.Sequential(nn.Linear(256, 256, bias=False))
        delta = delta_of(tuned(base, density=1.0))
        delta.set_positions(inside // columns * 256 + inside % columns, delta.inactive[:0], delta.inactive_values[:0])
        return pattern_of(delta)

    costs = Costs(multiply=0.025, dot=0.13, move=1.2, gather=1.2, pick=1.5)
    assert mask(655, 256, 256).cheapest(100, costs) == "sampled"  # 1 %, everywhere
    assert mask(26_000, 256, 256).cheapest(100, costs) == "dense"  # 40 %
    assert mask(6_000, 80, 80).cheapest(100, costs) == "subset"  # almost all of a block
    assert mask(655, 256, 256).cheapest(100, costs._replace(dot=13.0)) == "dense"
    assert mask(6_000, 80, 80).cheapest(100, costs._replace(gather=100.0, move=100.0)) == "dense"


def test_all_backends_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name, backend in BACKENDS.items():
        monkeypatch.setitem(sparse_grad.BACKENDS, name, lambda *a, n=name, f=backend: (used.append(n), f(*a))[1])
    for active in (torch.arange(0, 90_000, 301), torch.arange(90_000), torch.arange(9_000)):
        model = tuned(nn.Sequential(nn.Linear(300, 300, bias=False)), density=active.numel() / 90_000)
        scores = torch.zeros(90_000)
        scores[active] = 1.0
        model.base_model.set_mask({"0.weight": scores.view(300, 300)})
        model(torch.randn(50, 300)).sum().backward()
    assert used == ["sampled", "dense", "subset"]


@pytest.mark.parametrize("targets", [None, ["out_proj"], ["attention"], r".*out_proj"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_never_a_silent_no_op(targets: Any, training: bool) -> None:
    base = Attention().train(training)
    x = torch.randint(1, 40, (2, 5))
    with torch.no_grad():
        expected = base(x)
    model = tuned(base, density=1.0, target_modules=targets)
    model.train(training)
    randomise(model, scale=0.5)
    names = list(model.base_model.mask())
    assert "attention.out_proj.weight" in names
    assert ("attention.in_proj_weight" in names) == (targets in (None, ["attention"]))
    with torch.no_grad():
        found = model(x)
    assert not torch.allclose(found, expected)
    model(x).square().sum().backward()
    start = 0
    for name, positions in model.base_model.mask().items():
        part = flat_of(model).grad[start : start + len(positions)]
        start += len(positions)
        assert part.abs().sum() > 0, name
    model.merge_adapter()
    with torch.no_grad():
        torch.testing.assert_close(model(x), found, rtol=1e-5, atol=1e-6)
    merged = model.unload()
    assert type(merged.attention) is nn.MultiheadAttention
    assert type(merged.attention.out_proj).__name__ == "NonDynamicallyQuantizableLinear"


@pytest.mark.parametrize("targets", [None, ["linear1"], ["out_proj"], ["norm2"]])
@pytest.mark.parametrize("nested", [True, False])
def test_the_fast_path_of_the_transformer_encoder_does_not_bypass_the_adapter(targets: Any, nested: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    base = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model = tuned(base, density=1.0, target_modules=targets)
    randomise(model, scale=0.5)
    slow = model(x, src_key_padding_mask=padding)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors.*")
        fast = model(x, src_key_padding_mask=padding)
        model.merge_adapter()
        merged = model(x, src_key_padding_mask=padding)
        model.unmerge_adapter()
        unloaded = model.merge_and_unload()(x, src_key_padding_mask=padding)
    for found in (fast, merged, unloaded):
        torch.testing.assert_close(found[~padding], slow.detach()[~padding], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradient(family: str, reentrant: bool) -> None:
    build, make = FAMILIES[family]
    batch = padded(make(3))

    def gradient(checkpointing: bool) -> Tensor:
        model = tuned(build(), density=0.3, init_weights=False)
        model.train()
        if checkpointing:
            model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch, use_cache=False).loss.backward() if family != "bert" else model(**batch).loss.backward()
        return flat_of(model).grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_trains_in_bfloat16_with_float32_values(family: str) -> None:
    build, make = FAMILIES[family]
    batch = padded(make(3))
    gradients = []
    for autocast in (False, True):
        model = tuned(build(), density=0.3, init_weights=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        gradients.append(flat_of(model).grad)
    assert gradients[1].dtype == torch.float32
    assert not torch.equal(*gradients)
    assert nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


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


def test_a_layer_has_the_attributes_of_the_module_it_wraps() -> None:
    model = tuned(nn.Sequential(nn.Embedding(5, 3, padding_idx=1), nn.Linear(3, 4), nn.LayerNorm(4)), density=0.5)
    embedding, linear, norm = model.base_model.model
    assert all(isinstance(layer, FishDipLayer) for layer in (embedding, linear, norm))
    assert (embedding.num_embeddings, embedding.padding_idx, linear.in_features, norm.eps) == (5, 1, 3, 1e-5)
    assert linear.weight is linear.base_layer.weight
    assert not hasattr(linear, "nothing_of_the_kind")
    assert "fishdip.FishDipLinear" in repr(linear)
    with pytest.raises(RuntimeError, match="expected an input of dtype"):
        linear(torch.zeros(1, 3, dtype=torch.float16))


def test_an_embedding_that_rewrites_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"embedding '0' has max_norm=1.0 and rewrites its own weight; exclude it"):
        tuned(nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)), density=0.5)


def test_parameters_outside_of_modules_are_named_in_a_warning() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(3))
            self.extra = nn.ParameterList([nn.Parameter(torch.ones(2))])
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.gate

    with pytest.warns(UserWarning, match=r"the parameters extra\.0, gate belong to the model itself or to a list"):
        model = tuned(Root(), density=0.5)
    assert list(model.base_model.mask()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "embedding"])
def test_the_output_of_a_layer_may_be_changed_in_place(kind: str, bias: bool) -> None:
    layers: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(4, 6, bias=bias),
        "conv1d": lambda: Conv1D(6, 4),
        "embedding": lambda: nn.Embedding(4, 6),
    }
    x = torch.tensor([[0, 1, 3]]) if kind == "embedding" else torch.randn(2, 3, 4)
    gradients = []
    for in_place in (True, False):
        torch.manual_seed(0)
        model = tuned(nn.Sequential(layers[kind]()), density=0.5)
        turned = model(x).permute(0, 2, 1)
        turned = turned.mul_(2.0) if in_place else turned * 2.0
        turned.square().sum().backward()
        gradients.append(flat_of(model).grad)
    assert torch.equal(*gradients)


def test_a_weight_that_an_interrupt_left_modified_is_restored_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tuned(nn.Sequential(nn.Linear(8, 8, bias=False)), density=0.5, init_weights=False)
    weight = model.base_model.model[0].base_layer.weight
    before, x = weight.detach().clone(), torch.randn(3, 8)
    real, calls = base_parameter.write, []

    def interrupted(*args: Any) -> None:
        calls.append(0)
        if len(calls) == 2:  # the first one puts the effective values in place
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(base_parameter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    assert not torch.equal(weight, before)
    expected = model(x)
    assert torch.equal(weight, before)
    monkeypatch.undo()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_merging_between_forward_and_backward_changes_no_gradient(kind: str) -> None:
    module, shape = {"linear": (nn.Linear(4, 4), (3, 4)), "convolution": (nn.Conv1d(4, 4, 1), (3, 4, 5))}[kind]
    model = tuned(nn.Sequential(module), density=0.5, init_weights=False)
    x = torch.randn(shape, requires_grad=True)
    model(x).square().sum().backward()
    expected, x.grad = x.grad, None
    loss = model(x).square().sum()
    model.merge_adapter()
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    merged = model(x).detach()
    model.unmerge_adapter()
    assert torch.equal(model(x), merged)


def test_a_parameter_that_is_viewed_as_complex_gives_the_gradients_of_the_merged_one() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.view_as_complex(self.weight)).abs()

    model = tuned(nn.Sequential(Filter()), density=0.5, init_weights=False)
    x = torch.randn(6, 5, requires_grad=True)
    model(x).square().sum().backward()
    unmerged, x.grad = x.grad, None
    model.merge_adapter()
    model(x).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(unmerged, x.grad)
