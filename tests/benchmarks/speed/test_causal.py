"""Decoder-only models in the benchmark of costs: its structure and its arithmetic, never its times."""

import json
from statistics import median

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from benchmarks.speed.__main__ import main
from benchmarks.speed.causal import CausalBench
from benchmarks.speed.targets import findings

from .options import TINY, settings

BRIEF = ["--causal-batch", "2", "--causal-tokens", "3", "--causal-steps", "5", "--causal-examples", "4"]
BRIEF += ["--causal-interval", "2"]
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    shape = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "head_dim": 4}
    config = Gemma3TextConfig(**shape, num_attention_heads=2, num_key_value_heads=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    assert main(["causal", *TINY, *BRIEF, "--causal-model", model, "--output", str(folder)]) == 0
    return folder


def test_logits_for_targets_alone_give_the_loss_of_all_logits(model):
    bench = CausalBench(settings(*BRIEF, "--causal-model", model, command="causal"))
    rows = bench.rows(2)
    whole, kept = bench.batch(rows, all_logits=True), bench.batch(rows)
    with torch.no_grad():
        (all_logits, loss), (few, same) = ((x.logits, x.loss) for x in (bench.base(**whole), bench.base(**kept)))
    assert all_logits.shape[1] == 6
    assert few.shape[1] == 4
    assert torch.equal(few, all_logits[:, -4:])
    torch.testing.assert_close(same, loss)


def test_everything_has_a_turn_in_every_round_and_updates_come_when_due(measured):
    part = json.loads((measured / "causal.json").read_text(encoding="utf-8"))
    names = {f"{name}{way}" for name in ("fishdip", "all_logits", "lora") for way in ("", ", autocast")}
    assert part["seconds"].keys() == names
    assert all(len(seconds) == 2 for seconds in part["seconds"].values())
    assert all(set(order) == names for order in part["order"])
    assert part["model"] == part["settings"]["causal_model"]
    assert "/" not in part["model"]
    assert list(part["training"]["updates"]) == ["0", "2", "4"]
    assert sum(part["training"]["updates"].values()) < part["training"]["seconds"]


def test_ratios_in_the_report_are_those_of_the_raw_seconds(measured):
    part = json.loads((measured / "causal.json").read_text(encoding="utf-8"))
    ours, lora = part["seconds"]["fishdip, autocast"], part["seconds"]["lora, autocast"]
    expected = median([a / b for a, b in zip(ours, lora, strict=True)])
    found = next(x for x in findings({"causal": part}) if "autocast" in x.target)
    assert median(found.values) == expected
    report = (measured / "report.md").read_text(encoding="utf-8")
    row = next(line for line in report.splitlines() if line.split()[1:5] == ["Fish-Dip", "|", "autocast", "|"])
    assert row.rstrip("| ").split()[-1] == f"{expected:.3g}"
