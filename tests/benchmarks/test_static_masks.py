"""Masks that are chosen once, beside one that moves: by what they are chosen, and by how many entries."""

import json
import math

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from benchmarks import run_spec, training
from benchmarks.__main__ import main
from benchmarks.experiment import EXPERIMENTS, load_experiments
from benchmarks.problems import Protocol, problem
from benchmarks.results import read_result, read_results
from benchmarks.settings import SettingsError

STATIC = ("fish", "gallop", "gradient_mask", "lift", "magnitude_mask", "random_mask")
TINY = {"steps": 2, "meta_steps": 2, "batch_size": 2, "max_length": 48}
SIZE = ["--steps", "4", "--batch-size", "2", "--max-length", "48", "--max-test", "2"]
FEW = ["--fractions", "0.5", "--max-train", "5", "--update-interval", "1"]


def settings_of(title):
    (experiment,) = load_experiments([title], {})
    return experiment.adapter_settings, experiment.params.as_dict()


@pytest.mark.parametrize("method", STATIC)
def test_static_masks_differ_from_the_moving_one_by_how_the_mask_is_chosen_alone(method):
    moving_adapter, moving_params = settings_of("fishdip/density-1")
    adapter, params = settings_of(f"{method}/density-1")
    choice = {"update_interval", "importance", "sample_selection", "num_samples", "auto_update"}
    assert {
        key for key in adapter.keys() | moving_adapter.keys() if adapter.get(key) != moving_adapter.get(key)
    } <= choice
    assert adapter["update_interval"] is None
    rate = {"mask", "learning_rate"} if method == "random_mask" else set()
    assert {key for key in params if params[key] != moving_params[key]} == rate


def run_of(monkeypatch, title, base_model, seed=0):
    """What a run came to, the examples, the features it trained on, and its mask in the end."""
    made, real = [], training.get_peft_model

    def get_peft_model(*args):
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(training, "get_peft_model", get_peft_model)
    (experiment,) = load_experiments([title], TINY)
    part = problem("generated", None, Protocol(max_train=6, max_test=2), seed)
    outcome = training.run(experiment, part, base_model, seed, torch.device("cpu"))
    return outcome, part, made[0].base_model.mask()


@pytest.mark.parametrize(
    ("title", "examples"), [("gradient_mask", 6), ("gallop", 6), ("magnitude_mask", 0), ("lift", 0)]
)
def test_a_static_mask_is_chosen_once_by_all_training_examples_or_by_none(base_model, monkeypatch, title, examples):
    outcome, _, mask = run_of(monkeypatch, f"{title}/density-1", base_model)
    (update,) = outcome.trace.updates
    assert (update["step"], update["mask_examples"]) == (0, examples)
    assert update["mask_support"] == update["mask_active"] == outcome.num_trainable_params
    assert outcome.num_trainable_params == math.floor(0.01 * outcome.num_base_params)
    assert sum(map(len, mask.values())) == outcome.num_trainable_params


def test_the_largest_weights_are_those_of_the_base_model(base_model, monkeypatch):
    _, _, mask = run_of(monkeypatch, "magnitude_mask/density-1", base_model)
    base = AutoModelForSeq2SeqLM.from_pretrained(base_model)
    weights = {name: parameter.detach().abs().flatten() for name, parameter in base.named_parameters()}
    chosen = torch.cat([weights[name][places] for name, places in mask.items()])
    expected = torch.cat([*weights.values()]).topk(chosen.numel()).values
    torch.testing.assert_close(chosen.sort(descending=True).values, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def arguments(base_model):
    return ["compare", "--model", base_model, *SIZE, *FEW]


def result_of(output, title, seed):
    return read_result(next(output.glob(f"results/*/*/{title.replace('/', '--')}--seed{seed}.json")))


def test_a_matched_mask_has_as_many_entries_as_the_moving_one_had_changed_with_each_seed(arguments, tmp_path):
    more = [
        "--methods",
        "fish/density-matched",
        "--rates",
        "0.01",
        "0.1",
        "--seeds",
        "0",
        "1",
        "--output",
        str(tmp_path),
    ]
    assert main([*arguments, *more]) == 0
    assert {r["run_info"]["experiment_name"] for r in read_results(tmp_path)} == {
        "fish/density-matched",
        "fishdip/density-1",
    }
    supports = []
    for seed in (0, 1):
        moving, matched = (result_of(tmp_path, title, seed) for title in ("fishdip/density-1", "fish/density-matched"))
        last = moving["train_info"]["mask_updates"][-1]
        (only,) = matched["train_info"]["mask_updates"]
        assert last["mask_support"] > 1.2 * last["mask_active"]
        few = last["mask_support"] / last["mask_active"] + 1
        assert 0 <= only["mask_active"] - last["mask_support"] <= few
        assert only["mask_support"] == only["mask_active"] == matched["train_info"]["num_trainable_params"]
        assert matched["train_info"]["notes"] == [
            "it has as many entries as fishdip/density-1 with the same seed had changed in the end"
        ]
        supports.append(only["mask_active"])
    assert supports[0] != supports[1]
    trials = [read_result(path) for path in tmp_path.glob("rates/*/*/fish--density-matched--*.json")]
    assert [trial["train_info"]["num_trainable_params"] for trial in trials] == [supports[0]] * 2


def test_a_matched_mask_fails_with_the_moving_one_and_is_retried_with_it(arguments, tmp_path, monkeypatch):
    real = run_spec.run

    def run(experiment, *args):
        if experiment.method == "fishdip":
            raise RuntimeError("out of memory")
        return real(experiment, *args)

    monkeypatch.setattr(run_spec, "run", run)
    more = ["--methods", "fish/density-matched", "--rates", "own", "--output", str(tmp_path)]
    assert main([*arguments, *more]) == 1
    failed = result_of(tmp_path, "fish/density-matched", 0)
    assert failed["train_info"]["status"] == "failed"
    assert failed["run_info"]["error_msg"] == (
        "ValueError: fishdip/density-1, whose entries are counted: RuntimeError: out of memory"
    )
    monkeypatch.setattr(run_spec, "run", real)
    assert main([*arguments, *more, "--retry-failed"]) == 0
    assert result_of(tmp_path, "fish/density-matched", 0)["train_info"]["status"] == "success"


def test_a_matched_mask_is_of_the_moving_experiment_s_settings(arguments, tmp_path, capsys):
    more = ["--methods", "fish/density-matched", "--rates", "own", "--output", str(tmp_path)]
    assert main([*arguments, *more]) == 0
    for path in tmp_path.glob("results/*/*/fishdip--*.json"):
        path.unlink()
    assert main([*arguments[:-1], "2", *more]) == 2
    assert "fish--density-matched--seed0.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("fishdip/density-9", "density_of='fishdip/density-9' must name another experiment, one of type FISHDIP"),
        ("fish/density-1", "density_of='fish/density-1' must name another experiment, .* with a mask that moves"),
        ("lora/rank-8", "density_of='lora/rank-8' must name another experiment"),
        ("mine/matched", "density_of='mine/matched' must name another experiment"),
    ],
)
def test_only_the_density_of_a_moving_mask_can_be_taken(tmp_path, other, message):
    folder = tmp_path / "mine" / "matched"
    folder.mkdir(parents=True)
    adapter = {"peft_type": "FISHDIP", "update_interval": 50}
    (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (folder / "training_params.json").write_text(json.dumps({"density_of": other}), encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_experiments(["mine"], {}, [EXPERIMENTS, tmp_path])


def test_a_density_of_is_for_fish_dip_alone(tmp_path):
    folder = tmp_path / "mine" / "matched"
    folder.mkdir(parents=True)
    (folder / "training_params.json").write_text(json.dumps({"density_of": "fishdip/density-1"}), encoding="utf-8")
    with pytest.raises(SettingsError, match="density_of='fishdip/density-1' is for adapters of type FISHDIP alone"):
        load_experiments(["mine"], {}, [EXPERIMENTS, tmp_path])


def test_results_that_are_older_than_density_of_keep_their_settings():
    assert "density_of" not in settings_of("fishdip/density-1")[1]
    (matched, _) = load_experiments(["fish/density-matched"], {})
    assert matched.params.as_dict()["density_of"] == "fishdip/density-1"
