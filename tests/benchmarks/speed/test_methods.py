"""The methods whose costs are compared, and the turns that they take."""

import pytest
import torch

from benchmarks.speed import models, steps
from benchmarks.speed.measure import in_turns
from benchmarks.speed.models import Workbench, num_parameters
from benchmarks.speed.settings import Method
from benchmarks.speed.steps import measure_steps
from peft_fishdip import FishDipConfig

from .options import settings, tables

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


@pytest.mark.parametrize("pattern", ["uniform", "clustered", "real"])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.05])
def test_fishdip_has_a_mask_of_its_density(bench, pattern, density):
    model = bench.make(Method("fishdip", pattern, density)).model
    mask = model.base_model.mask()
    assert sum(map(len, mask.values())) == num_parameters(model, trainable=True) == int(density * bench.size)
    if pattern == "real":
        assert all(torch.equal(mask[name], bench.real_mask(density)[name]) for name in bench.shapes)


def test_clustered_entries_lie_in_a_tenth_of_rows_and_columns():
    scores = models.random_scores({"w": torch.Size([500, 400])}, "clustered", 0)["w"]
    rows, columns = (scores.view(-1).topk(20_000).indices // 400, scores.view(-1).topk(20_000).indices % 400)
    counts = rows.bincount(minlength=500)
    assert 30 < len(hot := counts.topk(70).indices[counts.topk(70).values > 100]) <= 70
    assert len(columns[~torch.isin(rows, hot)].unique()) <= 60
    uniform = models.random_scores({"w": torch.Size([500, 400])}, "uniform", 0)["w"].view(-1).topk(20_000).indices
    assert (uniform // 400).bincount(minlength=500).max() < 100


def test_the_dense_reference_moves_nothing_outside_of_its_mask(bench):
    alone = Workbench(settings())
    made = alone.make(Method("masked", "", 0.05))
    before = {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}
    made.step(2)
    moved = sum(int((parameter.detach() != before[name]).sum()) for name, parameter in made.model.named_parameters())
    assert 0.5 * 0.05 * alone.size < moved <= 0.05 * alone.size


def test_the_floor_has_gradients_at_the_embeddings_and_at_no_weight(bench):
    made = bench.make(Method("frozen"))
    outputs = []
    made.model.shared.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    made.model.encoder.embed_tokens.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    made.step()
    assert outputs
    assert all(output.grad is not None and output.grad.abs().sum() > 0 for output in outputs)
    assert all(parameter.grad is None for parameter in made.model.parameters())
    assert num_parameters(made.model, trainable=True) == 0


def test_shira_trains_about_as_many_entries(bench):
    density = 0.1  # a tiny model leaves little choice of ranks
    count = num_parameters(bench.make(Method("shira", "", density)).model, trainable=True)
    assert 0.5 < count / (density * bench.size) < 1.5


def test_methods_share_the_weights_but_no_parameters(bench):
    one, other = bench.make(Method("full")), bench.make(Method("frozen"))
    assert one.model.shared.weight is not other.model.shared.weight
    assert one.model.shared.weight.data_ptr() == other.model.shared.weight.data_ptr()
    assert one.model.lm_head.weight is one.model.shared.weight


def test_methods_are_built_anew_where_little_memory_is_free(monkeypatch):
    monkeypatch.setattr(steps, "memory_of", lambda device: (1, 10))
    result = measure_steps(settings("--methods", "lora", "full", "--rounds", "2", "--warmup", "0"))
    assert result["lifetime"].startswith("0 of 2 in memory")
    assert all(len(record["seconds"]) == 2 for record in result["contestants"].values())


def test_a_method_that_fails_is_recorded_and_the_others_go_on(monkeypatch):
    def broken(bench, method):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(models.MAKERS, "shira", broken)
    own = settings("--methods", "shira@0.01", "lora", "--rounds", "1", "--warmup", "0")
    part = measure_steps(own)
    assert part["contestants"]["shira@0.01"]["error"] == "RuntimeError: no such kernel"
    assert len(part["contestants"]["lora"]["seconds"]) == 1
    (table,) = tables("steps", part)
    assert "shira@0.01 failed: RuntimeError: no such kernel" in table.notes


def test_turns_come_in_random_order_and_errors_end_them():
    calls = []

    def broken():
        raise ValueError("no")

    turns = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    failed = {}
    results, order = in_turns({**turns, "d": broken}, 5, 0, failed)
    assert calls == [name for names in order for name in names if name != "d"]
    assert sorted(order[0]) == [*"abcd"]
    assert all(sorted(names) == [*"abc"] for names in order[1:])
    assert len({tuple(names) for names in order}) > 2
    assert (len(results["a"]), results["d"], failed) == (5, [], {"d": "ValueError: no"})
    with pytest.raises(ValueError, match="no"):
        in_turns({"d": broken}, 1, 0)


def test_the_config_of_the_mask_is_the_users(bench):
    config = bench.make(Method("fishdip", "uniform", 0.01)).model.peft_config["default"]
    assert isinstance(config, FishDipConfig)
    assert config.target_modules is None
