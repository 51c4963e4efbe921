"""What an update of the mask consists of, and what it is compared to."""

from pkgutil import resolve_name

import pytest
import torch

from benchmarks.speed import internals
from benchmarks.speed.__main__ import main
from benchmarks.speed.internals import PHASES, Phases
from benchmarks.speed.update import differences, measure_selection, squared_gradients

from .options import settings

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def test_phases_restore_what_they_have_wrapped():
    functions = [f"peft_fishdip.{path}" for paths in PHASES.values() for path in paths]
    before = list(map(resolve_name, functions))
    with Phases() as phases:
        assert not any(now is own for now, own in zip(map(resolve_name, functions), before, strict=True))
        resolve_name(f"peft_fishdip.{PHASES['selection'][0]}")({"a": torch.rand(5)}, 2)
    assert phases.seconds["selection"] > 0
    assert phases.scores.keys() == {"a"}
    assert list(map(resolve_name, functions)) == before


def test_selection_beside_topk():
    scores = {"a": torch.rand(30, 4), "b": torch.rand(50)}
    result = measure_selection(scores, settings("--density", "0.1"))
    assert result["same"]
    assert result["k"] == 17
    assert [len(result[way][figure]) for way in ("ours", "topk") for figure in ("seconds", "bytes")] == [2] * 4


def test_one_by_one_is_the_mean_of_squared_gradients(bench):
    examples = bench.examples(2, length=3)
    model = bench.shared().requires_grad_(True)
    found = squared_gradients(model, bench, examples)
    expected = torch.zeros_like(model.shared.weight)
    for example in examples:
        model.zero_grad()
        (3 * model(**bench.batch([example])).loss).backward()  # transformers' loss is the mean over 3 target tokens
        expected += model.shared.weight.grad**2 / 2
    torch.testing.assert_close(found["shared.weight"], expected, rtol=1e-4, atol=1e-10)
    same = differences(found, found)
    assert (same["norm_difference"], same["entry_difference"]) == (0.0, 0.0)
    other = {**found, "shared.weight": found["shared.weight"] * 1.5}
    assert differences(other, found)["norm_difference"] == pytest.approx(0.5)
    assert differences(other, found)["worst"] == "shared.weight"


def test_costs_are_calibrated_by_measurement(monkeypatch, capsys):
    monkeypatch.setattr(internals, "SHAPES", ((40, 30, 20),))
    assert min(internals.calibrate()) > 0
    monkeypatch.setattr(internals, "calibrate", lambda: internals.COSTS)
    assert main(["calibrate"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("multiply", "dot", "move", "gather", "pick"))
    assert main(["calibrate", "--threads", "0"]) == 2
    assert "threads=0" in capsys.readouterr().err
