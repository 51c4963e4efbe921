"""Costs by the size of the model, the largest one, and compiled steps."""

import pytest
import torch

from benchmarks.speed import steps
from benchmarks.speed.models import make_base, multiply_adds, num_parameters
from benchmarks.speed.report import make_pictures
from benchmarks.speed.steps import figures_of_size, measure_compilation, measure_largest, one_size
from benchmarks.speed.targets import compilation, linearity
from benchmarks.speed.targets import scale as scale_findings

from .options import settings, tables

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def test_examples_have_the_lengths_that_were_asked_for(bench):
    assert {(len(x["input_ids"]), len(x["labels"])) for x in bench.examples(3)} == {(6, 5)}
    assert {(len(x["input_ids"]), len(x["labels"])) for x in bench.examples(3, length=4)} == {(4, 4)}


def test_operations_are_counted_by_hand(bench):
    attention, forward, head = 4 * 32 * 64, 2 * 32 * 64, 32 * 100
    on_source, on_target = attention + forward + attention // 2, attention + attention // 2 + forward + head
    assert multiply_adds(bench.base, bench.batch()) == 2 * (6 * on_source + 5 * on_target)
    with torch.device("meta"):
        assert num_parameters(make_base("tiny", torch.float32)) == bench.size


def test_a_size_that_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(steps, "memory_of", lambda device: (10, 10))
    record = one_size(settings(), "tiny:bfloat16")
    assert record["dtype"] == "bfloat16"
    assert "GB are free" in record["skipped"]


def test_steps_and_updates_of_a_size():
    names = ("frozen", "fishdip-uniform@0.01")
    words = ["--dtype", "bfloat16", "--scale-examples", "4", "--rounds", "1", "--methods", *names]
    record = figures_of_size(settings(*words))
    assert record["steps"]["contestants"].keys() == {*names}
    assert not any(method["error"] for method in record["steps"]["contestants"].values())
    assert len(record["update"]["update_seconds"]) == 1
    assert record["update"]["most_bytes"] > 0
    size = {"geometry": "tiny", "dtype": "bfloat16", "parameters": 9, "left_out": [], **record}
    part = {"settings": {"linear_from": 0}, "sizes": [size]}
    assert [table.caption for table in tables("scale", part)][1:] == ["Training steps: tiny, 9e-06 M, bfloat16"]
    assert [picture.name for picture in make_pictures({"scale": part})] == ["cost-by-size-bfloat16"]


def test_compiled_steps_take_turns_with_eager_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # what compiling does is another test's
    part = measure_compilation(settings("--rounds", "2", "--compiled-methods", "fishdip-uniform@0.1", "lora"))
    for record in part["contestants"].values():
        assert (len(record["eager"]), len(record["compiled"]), record["error"]) == (2, 2, "")
    part["contestants"]["fishdip-uniform@0.1"] |= {"eager": [1.0, 2.0], "compiled": [2.0, 3.0]}
    (finding,) = compilation({"compilation": part}, False)
    assert finding.values == [2.0, 1.5]
    assert finding.verdict.startswith("missed by")
    assert tables("compilation", part)[0].lines[0][-1].text == "1.75"


def test_what_cannot_be_compiled_is_recorded(monkeypatch):
    def refuse(**batch):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda model: refuse)
    part = measure_compilation(settings("--compiled-contestants", "fishdip-uniform@0.1"))
    assert "fishdip-uniform@0.1 failed:" in tables("compilation", part)[0].notes[0]
    (finding,) = compilation({"compilation": part}, False)
    assert finding.verdict == "not measured"


def test_the_largest_model_is_trained_in_a_process_of_its_own():
    words = ["--largest", "tiny:bfloat16", "--largest-tokens", "4", "--threads", "1"]
    part = measure_largest(settings(*words))
    size = part["size"]
    assert (part["settings"]["batch"], part["settings"]["source"]) == (1, 4)
    assert list(size["steps"]["contestants"]) == ["fishdip-uniform@0.01"]
    assert size["update"]["examples"] == 3
    finding = list(scale_findings({"largest": part}, False))[-1]
    assert finding.values == [size["update"]["most_bytes"] / 1e9]
    assert finding.verdict == "met"
    assert tables("largest", part)[0].lines[0][0].text == "tiny, 0.0363 M, bfloat16"
    too_big = {"geometry": "3b", "dtype": "float32", "parameters": 3e9, "skipped": "needs much"}
    assert "needs much" in tables("largest", {"size": too_big})[0].notes[0]
    finding = list(scale_findings({"largest": {"size": too_big}}, False))[-1]
    assert finding.verdict == "not measured"


def test_linearity_is_cost_per_parameter_to_the_smallest_that_is_big_enough():
    def size(parameters, step, update):
        contestants = {"fishdip-uniform@0.01": {"seconds": [step] * 3, "error": ""}}
        shown = {"geometry": "base", "dtype": "float32", "parameters": parameters}
        return {**shown, "steps": {"contestants": contestants}, "update": {"update_seconds": [update]}}

    part = {
        "settings": {"linear_from": 50},
        "sizes": [size(10, 9, 9), size(200, 5, 8), size(100, 2, 4), {"skipped": ""}],
    }
    values = [value for _, value in linearity(part)]
    assert values == pytest.approx([1.0, 1.25])
