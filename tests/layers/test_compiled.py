"""The operators that compiled graphs hold: their rules, their gradients, and that graphs hold nothing dense."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_fishdip.adapter.handles import named
from peft_fishdip.layers.compiled import embedding, linear

from ..support.models import UNSCORED, flat_of, random_scores, randomise, tuned

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # dynamo reads it
    pytest.mark.filterwarnings(UNSCORED),
]

ROWS = 9


class Used(nn.Module):
    """Each kind of module that has an operator of its own; the embedding's gradient at 0 is zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(ROWS, 12, padding_idx=0)
        self.linear = nn.Linear(12, 12)
        self.no_bias = nn.Linear(12, 12, bias=False)
        self.conv1d = Conv1D(12, 12)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv1d(torch.tanh(self.no_bias(torch.tanh(self.linear(self.embedding(ids))))))


def used(**settings: Any) -> Any:
    return tuned(Used(), density=0.3, init_weights=False, **settings)


IDS = torch.tensor([[1, 2, 0], [2, 2, 8]])


def gradient(model: Any, called: Any, autocast: bool = False) -> Tensor:
    flat_of(model).grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = called(IDS)
    output.float().square().sum().backward()
    found = flat_of(model).grad
    assert found is not None
    return found


class Graphs:
    """A compiler that runs graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.seen: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.seen.append(graph)
        return graph.forward

    def targets(self) -> list[str]:
        return [str(node.target) for graph in self.seen for node in graph.graph.nodes]


def argument(layer: Any) -> tuple[list[Tensor], int, list[int]]:
    parameter, deltas = layer.tuned["weight"], layer.deltas("weight")
    views = [delta.state.views()[delta.index].detach().clone().requires_grad_() for delta in deltas]
    return views, parameter.handle, [delta.handle for delta in deltas]


@pytest.mark.parametrize("name", ["linear", "conv1d"])
@pytest.mark.parametrize("wants_x", [True, False])
def test_the_linear_operator_passes_torch_s_operator_check(name: str, wants_x: bool) -> None:
    layer = used().base_model.model.get_submodule(name)
    weight = layer.base_parameter("weight").detach()
    before = weight.clone()
    x = torch.randn(2, 3, 12, requires_grad=wants_x)
    torch.library.opcheck(linear, (x, weight, *argument(layer), name == "conv1d"))
    assert torch.equal(weight, before)


def test_the_embedding_operator_passes_torch_s_operator_check() -> None:
    layer = used().base_model.model.embedding
    weight = layer.base_parameter("weight").detach()
    before = weight.clone()
    torch.library.opcheck(embedding, (IDS, weight, *argument(layer), 0))
    torch.library.opcheck(embedding, (IDS, weight, *argument(layer), None))
    assert torch.equal(weight, before)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_compiled_step_has_the_gradient_of_an_eager_one_also_after_an_update(autocast: bool) -> None:
    model = used()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close = {"rtol": 2e-2, "atol": 2e-2} if autocast else {"rtol": 1e-4, "atol": 1e-6}
    for seed in range(3):
        randomise(model, seed)
        torch.testing.assert_close(gradient(model, compiled, autocast), gradient(model, model, autocast), **close)
        model.base_model.set_mask(random_scores(model, seed))


def test_two_adapters_are_summed_in_a_compiled_graph() -> None:
    model = used()
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    model.base_model.set_adapter(["default", "other"])
    for seed, name in enumerate(("default", "other")):
        randomise(model, seed, adapter=name)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    for called in (model, compiled):
        vectors = [flat_of(model, name) for name in ("default", "other")]
        for vector in vectors:
            vector.grad = None
        called(IDS).square().sum().backward()
        found.append([vector.grad for vector in vectors])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_graph_has_one_split_and_no_dense_delta_of_a_matrix() -> None:
    model, graphs = used(), Graphs()
    torch.compiler.reset()
    torch.compile(model, backend=graphs, fullgraph=True)(IDS)
    targets = graphs.targets()
    assert sum(target == "split" for target in targets) == 1
    assert sum("peft_fishdip.linear" in target for target in targets) == 3
    assert sum("peft_fishdip.embedding" in target for target in targets) == 1
    made = [node for graph in graphs.seen for node in graph.graph.nodes if str(node.target).startswith("index_add")]
    assert made
    assert all(node.meta["example_value"].shape == (12,) for node in made)  # biases


def test_copies_have_handles_of_their_own() -> None:
    model = used()
    copied = copy.deepcopy(model)
    for a, b in zip(model.modules(), copied.modules(), strict=True):
        for name, parameter in getattr(a, "tuned", {}).items():
            other = b.tuned[name]
            assert named(parameter.handle) is parameter
            assert named(other.handle) is other
            for delta, copy_of_it in zip(parameter.deltas.values(), other.deltas.values(), strict=True):
                assert named(delta.handle) is delta
                assert named(copy_of_it.handle) is copy_of_it


def test_a_deleted_model_leaves_no_handle() -> None:
    model = used()
    handle = model.base_model.model.linear.tuned["weight"].handle
    del model
    gc.collect()
    with pytest.raises(ValueError, match="the adapter was deleted"):
        named(handle)
