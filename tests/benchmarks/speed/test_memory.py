"""Memory: what is saved for the backward pass, and the peaks of processes of their own."""

import os

import pytest
import torch
from torch import nn

from benchmarks.memory import saved_for_backward
from benchmarks.speed.measure import in_child
from benchmarks.speed.settings import Method
from benchmarks.speed.steps import memory_of_method

from .options import settings, tables

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def test_saved_bytes_are_those_counted_by_hand():
    first, second = nn.Linear(3, 5), nn.Linear(5, 2, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(4, 3)
    # the first product saves x, ReLU its output, which the second product saves too; weights do not count
    assert saved_for_backward(model, lambda: model(x).sum()) == 4 * 4 * 3 + 4 * 4 * 5
    frozen = model.requires_grad_(False)
    x.requires_grad_(True)
    assert saved_for_backward(frozen, lambda: frozen(x).sum()) == 4 * 4 * 5
    assert saved_for_backward(first, lambda: first(x.detach()).sum()) == 0


def test_what_hooks_and_functions_keep_counts_too():
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.own = x.new_zeros(10)
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    weight = torch.ones(3, requires_grad=True)
    model = nn.Identity()
    assert saved_for_backward(model, lambda: Keeps.apply(weight).sum()) == 40

    def in_half():
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.half, torch.Tensor.float):
            return (weight * torch.ones(3).requires_grad_()).sum()

    assert saved_for_backward(model, in_half) == 2 * 6


def test_a_sparse_tensor_counts_by_its_positions_and_values():
    sparse = torch.eye(3).to_sparse_coo()

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.sparse = sparse
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    weight = nn.Parameter(torch.zeros(2))
    assert saved_for_backward(nn.Identity(), lambda: Keeps.apply(weight).sum()) == 2 * 24 + 12


def test_memory_figures_of_a_process_of_its_own(bench):
    figures = in_child(memory_of_method, settings(), "fishdip-uniform@0.01")
    assert figures["trainable"] == int(0.01 * figures["parameters"])
    assert figures["weights"] + figures["state"] + figures["activations"] == figures["peak"]
    part = {"contestants": {"fishdip-uniform@0.01": {"processes": [figures] * 2, "error": ""}}}
    (table,) = tables("memory", part)
    assert table.lines[0][1].value == pytest.approx(figures["peak"] / 1e6)
    made = bench.make(Method("fishdip", "uniform", 0.01))
    assert figures["saved"] == saved_for_backward(made.model, made.forward)


def end_process(settings):
    os._exit(3)


def raise_error(settings):
    raise ValueError("some\nreason")


def test_a_process_that_fails_says_why_in_one_line():
    assert in_child(raise_error, settings()) == {"error": "ValueError: some reason"}
    assert "process" in in_child(end_process, settings())["error"]
