"""Weights as kernels, checkpoints and FSDP read them."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.checkpoint import checkpoint

from ..support.models import flat_of, ignoring_unscored_mask, tuned
from .test_reads import Reader, Scaled, dense_copy, whole

X = torch.linspace(-1, 1, 24).view(2, 3, 4)


def assert_exact(make: Callable[[], nn.Module]) -> None:
    """Outputs and gradients are those of a dense copy, in train mode."""
    model = whole(make)
    dense = dense_copy(make, model)
    model.train(), dense.train()
    outputs = model(X), dense(X)
    torch.testing.assert_close(*outputs)
    with ignoring_unscored_mask():
        for output in outputs:
            output.square().sum().backward()
    state = model.base_model._state(None)
    parameters = dict(dense.named_parameters())
    for delta, gradient in zip(state.deltas, flat_of(model).grad.split(state.sizes), strict=True):
        expected = delta.scale * parameters[delta.name].grad.flatten()
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=delta.name)


class FromMemory(torch.autograd.Function):
    """A product that reads its weight by the address of its memory, as Triton's kernels do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        numbers = (ctypes.c_float * weight.numel()).from_address(weight.data_ptr())
        read = torch.tensor(numbers, dtype=torch.float32).view(weight.shape)
        ctx.save_for_backward(x, read)
        return x @ read.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.flatten(0, -2).t() @ x.flatten(0, -2)


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return FromMemory.apply(x, self.linear.weight) + self.linear.bias


def test_kernels_that_read_memory_get_the_deltas() -> None:
    assert_exact(Kernel)


class Inner(nn.Module):
    """Checkpoints a method of its own, which reads its parameters."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix, self.gain = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.linear = nn.Linear(4, 4)
        self.use_reentrant = use_reentrant

    def part(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(x @ self.matrix)) * self.gain

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.part, x, use_reentrant=self.use_reentrant)


class Shared(nn.Module):
    """Hands a parameter of its own to two checkpointed layers, otherwise than as an argument."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.level = nn.Parameter(torch.randn(4))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        level = self.level.view(1, -1)
        for layer in self.layers:
            x = checkpoint(lambda h, layer=layer: torch.tanh(layer(h + level)), x, use_reentrant=self.use_reentrant)
        return x


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.clone().requires_grad_())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("kind", [Inner, Shared])
def test_checkpoints_within_a_module_that_owns_parameters(kind: Any, use_reentrant: bool) -> None:
    assert_exact(lambda: Outer(kind(use_reentrant)))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Owner(nn.Module):
    """Of parameters that are read in a call, and in a method."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scaled = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled.shifted(self.scaled(x))


@pytest.mark.filterwarnings("ignore:requires_grad=True of:UserWarning")  # FSDP wants the same flag of all parameters
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
@pytest.mark.filterwarnings("ignore:.*FSDP:FutureWarning")
@pytest.mark.parametrize("make", [Owner, Reader])
@pytest.mark.parametrize("version", [1, 2])
def test_fsdp_of_one_process_changes_nothing(make: Any, version: int, one_process: None) -> None:
    model = whole(make)
    dense = dense_copy(make, model)
    model.requires_grad_(True)
    if version == 1:
        wrapped: Any = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    else:
        wrapped = fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    for _ in range(2):
        torch.testing.assert_close(wrapped(X), dense(X))
    with ignoring_unscored_mask():
        wrapped(X).square().sum().backward()


def test_a_weight_that_was_read_is_like_the_parameter() -> None:
    base = Kernel()
    base.linear.weight.mark = 3
    model = tuned(base, density=1.0)
    weight = model.base_model.model.linear.weight
    assert weight.mark == 3
    assert torch.equal(copy.deepcopy(weight), weight)
    with pytest.raises(RuntimeError, match="zero_ would change a copy"):
        weight.data.zero_()
    with pytest.raises(RuntimeError, match="setting data would change a copy"):
        weight.data = torch.zeros(4, 4)
    with pytest.raises(AttributeError):
        weight.nothing  # noqa: B018
