"""Invariant 6: what lives longer than one layer's pass is weights, O(K + support) and activations."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peft_fishdip import selection

from ..support.models import FAMILIES, UNSCORED, flat_of, padded, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


def strided(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


class Storages(TorchDispatchMode):
    """The bytes of all storages made within that are alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {tensor.untyped_storage()._cdata for tensor in strided((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in strided(out):
            self.note(tensor, known)
        return out

    def note(self, tensor: Tensor, known: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in known or storage._cdata in self.alive:
            return
        key, size = storage._cdata, storage.nbytes()
        self.alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


BIG = 64
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(BIG, BIG, bias=False), lambda: torch.randn(1, BIG, requires_grad=True)),
    "linear without gradient of its input": (lambda: nn.Linear(BIG, BIG, bias=False), lambda: torch.randn(1, BIG)),
    "embedding": (lambda: nn.Embedding(BIG, BIG), lambda: torch.tensor([3, 5])),
    "scaled embedding": (lambda: ScaledEmbedding(BIG, BIG), lambda: torch.tensor([3, 5])),
    "conv2d": (lambda: nn.Conv2d(BIG, BIG, 3), lambda: torch.randn(1, BIG, 3, 3, requires_grad=True)),
    "conv1d": (lambda: nn.Conv1d(BIG, BIG, 3), lambda: torch.randn(1, BIG, 3, requires_grad=True)),
    "attention": (lambda: SelfAttention(BIG), lambda: torch.randn(1, 1, BIG, requires_grad=True)),
    "bilinear": (lambda: Twice(nn.Bilinear(16, 16, 64)), lambda: torch.randn(1, 16, requires_grad=True)),
}


class ScaledEmbedding(nn.Embedding):
    """With a forward of its own, as BART has."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * 2.0


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_no_effective_weight_is_kept_for_backward_and_no_dense_gradient_after_it(kind: str) -> None:
    build, make_input = LAYERS[kind]
    base = nn.Sequential(build())
    dense_bytes = max(p.numel() for p in base.parameters()) * 4
    model = tuned(base, density=0.02)
    x = make_input()
    with Storages() as storages:
        out = model(x).sum()
        kept = storages.now
        assert kept < dense_bytes / 2, f"{kept} bytes are kept for backward; the weight has {dense_bytes}"
        out.backward()
        del out
        assert storages.now < dense_bytes / 2
    assert flat_of(model).grad.shape == flat_of(model).shape
    assert all(p.grad is None for p in base.parameters() if p is not flat_of(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_of_a_whole_model_keeps_no_weights(family: str) -> None:
    build, make = FAMILIES[family]
    model = tuned(build(), density=0.01)
    shapes = {tuple(p.shape) for p in build().parameters() if p.dim() > 1}
    shapes |= {shape[::-1] for shape in shapes}
    base_addresses = {p.data_ptr() for p in model.parameters()}
    saved: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) in shapes and tensor.data_ptr() not in base_addresses and tensor.is_floating_point():
            saved.append(tuple(tensor.shape))
        return tensor

    batch = padded(make(1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    tokens = {batch["input_ids"].shape[1], batch["labels"].shape[-1]}
    assert not [shape for shape in saved if shape[0] not in tokens and shape[-1] not in tokens]
    loss.backward()


def test_optimizer_state_and_gradients_are_of_the_mask_s_size() -> None:
    build, make = FAMILIES["t5"]
    model = tuned(build(), density=0.01)
    k = flat_of(model).numel()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [p.numel() for p in trainable] == [k]
    optimizer = torch.optim.AdamW(trainable, lr=0.01)
    for start in (0, 3):
        model.base_model.update_mask(make(6)[start : start + 3], optimizer=optimizer)
        model(**padded(make(3))).loss.backward()
        optimizer.step()
    sizes = [value.numel() for state in optimizer.state.values() for value in state.values()]
    assert sum(sizes) == 2 * k + 1
    assert sum(p.grad.numel() for p in model.parameters() if p.grad is not None) == k


def bytes_of_all_tensors() -> int:
    """Bytes of the storages of all tensors that Python knows."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_what_stays_besides_the_weights_is_of_the_order_of_the_support() -> None:
    build, make = FAMILIES["t5"]
    base = build()
    total = sum(p.numel() for p in base.parameters())
    before = bytes_of_all_tensors()
    model = tuned(base, density=0.01)
    model.base_model.update_mask(make(3))
    model(**padded(make(3))).loss.backward()
    assert 0 < bytes_of_all_tensors() - before < 0.5 * 4 * total


@pytest.mark.parametrize("importance", ["fisher", "absolute", "gradient", "gallop", "magnitude", "lift"])
def test_an_update_adds_one_float32_per_parameter_and_one_layer_s_gradient(
    importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "CHUNK", 256)
    depth = 24
    base = nn.Sequential(*(nn.Linear(BIG, BIG) for _ in range(depth)))
    total = sum(p.numel() for p in base.parameters())
    model = tuned(base, density=0.01, importance=importance)
    batches = [{"x": torch.randn(2, BIG), "labels": torch.randn(2, BIG)} for _ in range(3)]

    def loss_fn(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch["x"]) - batch["labels"]).square().sum(1)

    with Storages() as storages:
        model.base_model.update_mask(iter(batches), loss_fn=loss_fn)
        after = storages.now
    histograms = 8 * selection.HALF * 4  # counts, their sums
    layer = 4 * BIG * BIG * 4  # a gradient, its square, what autograd makes on the way
    assert storages.peak < 4 * total + histograms + layer + 16 * flat_of(model).numel() * 8
    assert after < 0.2 * 4 * total
