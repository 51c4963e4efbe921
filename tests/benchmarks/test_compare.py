"""The whole way from the command line to the results, at a tiny size."""

import json
import random
import re

import pytest

from benchmarks import run_spec
from benchmarks.__main__ import main
from benchmarks.experiment import folders
from benchmarks.problems import METRICS
from benchmarks.results import read_results

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type:UserWarning", "ignore:Sparse invariant checks:UserWarning"
)
SIZE = ["--steps", "4", "--meta-steps", "3", "--batch-size", "2", "--max-length", "48", "--max-test", "2"]
FEW = ["--fractions", "0.5", "--max-train", "5", "--ways", "3", "--episodes", "1"]
METHODS = ["--methods", "fishdip/density-5", "lora", "full/adamw"]


@pytest.fixture(scope="module")
def arguments(base_model):
    return ["--model", base_model, *SIZE, *FEW]


@pytest.fixture(scope="module")
def output(tmp_path_factory, arguments):
    """Three methods on generated sentences, at the best of two learning rates, with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    more = [*METHODS, "--rates", "0.001", "0.01", "--seeds", "0", "1", "--output", str(folder)]
    assert main(["compare", *arguments, *more]) == 0
    return folder


def contents(folder, pattern="results/**/*.json"):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_each_run_leaves_one_result_in_the_schema_of_method_comparison(output):
    files = sorted(output.glob("results/generated/fraction-0.5/*.json"))
    names = ["fishdip--density-5", "full--adamw", "lora--rank-8"]
    assert [path.stem for path in files] == [f"{name}--seed{seed}" for name in names for seed in (0, 1)]
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert set(result) == {"run_info", "train_info", "meta_info"}
        assert result["train_info"]["status"] == "success"
        assert result["run_info"]["error_msg"] == ""
        row = result["train_info"]["metrics"][-1]
        assert (row["step"], result["train_info"]["stopped_at"]) == (4, 4)
        assert 0 <= row["test accuracy"] == row["test f1"] <= 1
        assert row["test loss"] > 0
        assert (result["run_info"]["peft_config"] is None) == path.stem.startswith("full")
        config = result["run_info"]["train_config"]
        assert (config["task"], config["dataset"], config["fraction"]) == ("ner", "generated", 0.5)
        assert (config["num_train_examples"], config["num_test_examples"]) == (5, 2)
        predictions = result["train_info"]["predictions"]
        assert [one.keys() for one in predictions] == [{"source", "gold", "predicted"}] * 2
        assert all(re.sub(r"\[ | \| [a-z]+ \]", "", one["gold"]) == one["source"] for one in predictions)


def test_the_learning_rate_is_the_best_on_training_examples_of_the_first_seed(output):
    for result in read_results(output):
        rows = result["run_info"]["rate_choice"]
        assert [row["learning_rate"] for row in rows] == [0.001, 0.01]
        assert [row["held_out"] for row in rows] == [1, 1]
        best = min(rows, key=lambda row: row["loss"])
        assert result["run_info"]["train_config"]["learning_rate"] == best["learning_rate"]
    trials = list(output.glob("rates/generated/fraction-0.5/*.json"))
    assert len(trials) == 3 * 2
    for path in trials:
        config = json.loads(path.read_text(encoding="utf-8"))["run_info"]["train_config"]
        assert (config["seed"], config["num_train_examples"], config["num_test_examples"]) == (0, 4, 1)


def test_fish_dip_trains_its_share_and_reports_its_mask_updates(output):
    path = output / "results" / "generated" / "fraction-0.5" / "fishdip--density-5--seed0.json"
    info = json.loads(path.read_text(encoding="utf-8"))["train_info"]
    assert info["num_trainable_params"] == int(0.05 * info["num_base_params"])
    assert info["num_base_params"] == info["num_total_params"] - info["num_trainable_params"]
    assert info["mask_updates"][-1]["mask_support"] >= info["num_trainable_params"]
    assert info["fit_begins"] == [0]
    assert 0 < info["memory_after_fit"] <= info["accelerator_memory_max"]
    assert [update["step"] for update in info["mask_updates"]] == [0]
    assert sum(info["mask_updates"][0]["shares"].values()) == pytest.approx(1)
    assert 0 < info["file_size"] < 9 * info["num_trainable_params"] + 20_000  # an index, a value, names


def test_a_comparison_that_was_cut_short_goes_on_to_the_same_scores(output, arguments, tmp_path, monkeypatch):
    real, left = run_spec.run, random.Random(0).randrange(2, 9)

    def run(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*args)

    command = [
        "compare",
        *arguments,
        *METHODS,
        "--rates",
        "0.001",
        "0.01",
        "--seeds",
        "0",
        "1",
        "--output",
        str(tmp_path),
    ]
    monkeypatch.setattr(run_spec, "run", run)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    before = contents(tmp_path)
    assert len(contents(tmp_path, "r*/**/*.json")) < 12
    monkeypatch.setattr(run_spec, "run", real)
    assert main(command) == 0
    after = contents(tmp_path)
    assert before.items() <= after.items()

    def rows(folder):
        return {
            (r["run_info"]["experiment_name"], r["run_info"]["train_config"]["seed"]): r["train_info"]["metrics"][-1]
            for r in read_results(folder)
        }

    assert rows(tmp_path) == rows(output)


def test_finished_runs_are_not_repeated_and_the_report_is_the_same(output, arguments):
    before, report = contents(output, "r*/**/*.json"), contents(output, "report.*")
    more = [*METHODS, "--rates", "0.001", "0.01", "--seeds", "0", "1", "--output", str(output)]
    assert main(["compare", *arguments, *more]) == 0
    assert contents(output, "r*/**/*.json") == before
    assert contents(output, "report.*") == report
    assert set(report) == {path.relative_to(output) for path in (output / "report.md", output / "report.html")}


@pytest.mark.parametrize(
    ("methods", "tasks"),
    [("all", ["relation"]), ("all", ["joint"]), ("fishdip/density-5", ["ner", "srl", "dst"])],
    ids=["relation", "joint", "others"],
)
def test_every_method_and_every_task_runs(data_folder, arguments, tmp_path, methods, tasks):
    more = ["--data", str(data_folder), "--tasks", *tasks, "--rates", "own", "--output", str(tmp_path)]
    assert main(["compare", *arguments, *more, "--methods", methods, "--steps", "2", "--meta-steps", "2"]) == 0
    results = read_results(tmp_path)
    told = {r["run_info"]["experiment_name"]: r["run_info"]["error_msg"] for r in results if r["run_info"]["error_msg"]}
    unlabelled = {title for title in folders() if title.startswith("self_training/")} if methods == "all" else set()
    assert told.keys() == unlabelled
    assert all("there are none without --unlabelled-fraction" in reason for reason in told.values())
    found = {(r["run_info"]["experiment_name"], r["run_info"]["train_config"]["task"]) for r in results}
    assert found == {(title, task) for title in (folders() if methods == "all" else [methods]) for task in tasks}
    for result in results:
        if result["run_info"]["experiment_name"] in told:
            continue
        row, task = result["train_info"]["metrics"][-1], result["run_info"]["train_config"]["task"]
        assert all(0 <= row[f"test {metric}"] <= 1 for metric in METRICS[task])
        trained = result["train_info"]["num_trainable_params"]
        assert (trained == 0) == result["run_info"]["experiment_name"].startswith("in_context")
        assert result["train_info"]["stopped_at"] == (0 if trained == 0 else 4 if task == "relation" else 2)


def test_one_data_set_chooses_the_rates_of_all_and_of_another_comparison(data_folder, arguments, tmp_path, capsys):
    """By its validation part."""
    first, second = tmp_path / "first", tmp_path / "second"
    common = [
        *arguments,
        "--data",
        str(data_folder),
        "--methods",
        "lora",
        "--max-plain",
        "0",
        "--rates",
        "0.001",
        "1.0",
    ]
    by = ["--rates-by", "validation", "--rate-task", "conll04-ner"]
    assert main(["compare", *common, *by, "--tasks", "wnut17", "conll04-ner", "--output", str(first)]) == 0
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in first.glob("rates/**/*.json")]
    configs = [trial["run_info"]["train_config"] for trial in trials]
    assert sorted((x["dataset"], x["learning_rate"]) for x in configs) == [("conll04-ner", 0.001), ("conll04-ner", 1.0)]
    assert {(x["num_train_examples"], x["num_test_examples"]) for x in configs} == {(5, 2)}
    chosen = {r["run_info"]["train_config"]["learning_rate"] for r in read_results(first)}
    assert len(read_results(first)) == 2
    assert len(chosen) == 1

    more = [*by, "--rates-from", str(first), "--max-train", "3", "--tasks", "conll04-ner"]
    assert main(["compare", *common, *more, "--part", "validation", "--output", str(second)]) == 0
    assert not list(second.glob("rates/**/*.json"))
    (result,) = read_results(second)
    config = result["run_info"]["train_config"]
    assert {config["learning_rate"]} == chosen
    assert config["num_train_examples"] == 3
    assert "validation" in config["protocol"]
    capsys.readouterr()
    other = ["--methods", "full/adamw", "--output", str(tmp_path / "third")]
    assert main(["compare", *common, *more, *other]) == 2
    assert f"--rates-from {first} has no" in capsys.readouterr().err


def test_a_run_that_fails_is_recorded_and_the_others_go_on(arguments, tmp_path, monkeypatch):
    real = run_spec.run

    def run(experiment, *args):
        if experiment.method == "lora":
            raise RuntimeError("out of\nmemory")
        return real(experiment, *args)

    monkeypatch.setattr(run_spec, "run", run)
    more = ["--methods", "lora", "full/adamw", "--rates", "own", "--output", str(tmp_path)]
    assert main(["compare", *arguments, *more]) == 1
    failed, done = (
        next(iter(tmp_path.glob(f"results/**/{name}*.json"))).read_text(encoding="utf-8") for name in ("lora", "full")
    )
    assert json.loads(done)["train_info"]["status"] == "success"
    assert json.loads(failed)["train_info"]["status"] == "failed"
    assert json.loads(failed)["run_info"]["error_msg"] == "RuntimeError: out of memory"
    assert "RuntimeError: out of memory" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_list_names_methods_tasks_and_data_sets(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("houlsby/reduction-16", "dst: woz2", "multiwoz21 (dst)"))
