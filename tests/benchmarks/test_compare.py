"""The whole way from the command line to the results, at a tiny size."""

import json
import random

import pytest

from benchmarks import comparison
from benchmarks.__main__ import main
from benchmarks.base_model import denoising_batch, train_tokenizer
from benchmarks.problems import METRICS
from benchmarks.results import read_results, score
from benchmarks.settings import titles

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


def test_the_learning_rate_is_the_best_on_training_examples_of_the_first_seed(output):
    for result in read_results(output):
        rows = result["run_info"]["rate_choice"]
        assert [row["learning_rate"] for row in rows] == [0.001, 0.01]
        best = max(rows, key=lambda row: (row["scores"]["f1"], -row["loss"]))
        assert result["run_info"]["train_config"]["learning_rate"] == best["learning_rate"]
    trials = list(output.glob("rates/generated/fraction-0.5/*.json"))
    assert len(trials) == 3 * 2
    for path in trials:
        config = json.loads(path.read_text(encoding="utf-8"))["run_info"]["train_config"]
        assert (config["seed"], config["num_train_examples"], config["num_test_examples"]) == (0, 4, 1)


def test_fish_dip_trains_its_share_and_reports_its_mask_updates(output):
    path = output / "results" / "generated" / "fraction-0.5" / "fishdip--density-5--seed0.json"
    info = json.loads(path.read_text(encoding="utf-8"))["train_info"]
    base = info["num_total_params"] - info["num_trainable_params"]
    assert info["num_trainable_params"] == int(0.05 * base)
    assert [update["step"] for update in info["mask_updates"]] == [0]
    assert sum(info["mask_updates"][0]["shares"].values()) == pytest.approx(1)
    assert 0 < info["file_size"] < 9 * info["num_trainable_params"] + 20_000  # an index, a value, names


def test_a_comparison_that_was_cut_short_goes_on_to_the_same_scores(output, arguments, tmp_path, monkeypatch):
    real, left = comparison.run, random.Random(0).randrange(2, 9)

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
    monkeypatch.setattr(comparison, "run", run)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    before = contents(tmp_path)
    assert len(contents(tmp_path, "r*/**/*.json")) < 12
    monkeypatch.setattr(comparison, "run", real)
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
    assert main(["compare", *arguments, *more, "--methods", methods, "--steps", "1", "--meta-steps", "1"]) == 0
    results = read_results(tmp_path)
    assert {r["run_info"]["error_msg"] for r in results} == {""}
    found = {(r["run_info"]["experiment_name"], r["run_info"]["train_config"]["task"]) for r in results}
    assert found == {(title, task) for title in (titles() if methods == "all" else [methods]) for task in tasks}
    for result in results:
        row, task = result["train_info"]["metrics"][-1], result["run_info"]["train_config"]["task"]
        assert all(0 <= row[f"test {metric}"] <= 1 for metric in METRICS[task])
        trained = result["train_info"]["num_trainable_params"]
        assert (trained == 0) == result["run_info"]["experiment_name"].startswith("in_context")
        assert result["train_info"]["stopped_at"] == (0 if trained == 0 else 2 if task == "relation" else 1)


def test_a_run_that_fails_is_recorded_and_the_others_go_on(arguments, tmp_path, monkeypatch):
    real = comparison.run

    def run(experiment, *args):
        if experiment.method == "lora":
            raise RuntimeError("out of\nmemory")
        return real(experiment, *args)

    monkeypatch.setattr(comparison, "run", run)
    more = ["--methods", "lora", "full/adamw", "--rates", "own", "--output", str(tmp_path)]
    assert main(["compare", *arguments, *more]) == 0
    failed, done = (
        next(iter(tmp_path.glob(f"results/**/{name}*.json"))).read_text(encoding="utf-8") for name in ("lora", "full")
    )
    assert json.loads(done)["train_info"]["status"] == "success"
    assert json.loads(failed)["train_info"]["status"] == "failed"
    assert json.loads(failed)["run_info"]["error_msg"] == "RuntimeError: out of memory"
    assert "RuntimeError: out of memory" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_runs_are_compared_by_their_metrics_then_their_loss():
    def result(f1, loss, status="success"):
        row = {"test f1": f1, "test loss": loss}
        return {
            "run_info": {"train_config": {"task": "ner"}},
            "train_info": {"status": status, "metrics": [row]},
        }

    worst = [
        result(None, None, "failed"),
        result(0.9, float("nan")),
        result(0.0, 3.0),
        result(0.0, 2.0),
        result(0.1, 9),
    ]
    assert sorted(worst, key=score) == worst
    assert score(worst[0]) == score(worst[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--methods", "nonesuch"], "'nonesuch' is unknown; there are compacter/"),
        (["compare", "--tasks", "parsing"], "task 'parsing' is unknown; there are the tasks ner, relation"),
        (["compare", "--steps", "0"], "steps=0"),
        (["compare", "--data", "nowhere"], "nowhere is no folder"),
        (["compare", "--rates", "fast"], "--rates fast"),
        (["compare", "--rates", "0"], "greater than 0"),
        (["compare", "--fractions", "2"], "fraction=2.0"),
        (["compare", "--model", "no/such/model"], "--model no/such/model"),
        (["report"], "holds no results"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, base_model, arguments, message):
    model = ["--model", base_model] if arguments[0] == "compare" and "--model" not in arguments else []
    assert main([*arguments, *model, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_results_made_in_another_way_are_not_mixed_in(output, arguments, capsys):
    assert main(["compare", *arguments, "--steps", "5", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "has other results" in error
    assert "training parameters was" in error
    assert "choose another --output" in error


def test_the_list_names_methods_tasks_and_data_sets(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("houlsby/reduction-16", "dst: woz2", "multiwoz21 (dst)"))


def test_the_vocabulary_falls_back_on_bytes_and_keeps_the_marks_of_the_format():
    tokenizer = train_tokenizer(["the old bridge was closed again", "a letter came on Monday"] * 20, 320)
    text = "[ Zoë | person ] = the"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")


def test_denoising_keeps_whole_sentences_as_targets():
    rows = [[5, 6, 7, 8, 9, 10, 1], [11, 12, 1]]
    batch = denoising_batch(rows, random.Random(0))
    assert batch["labels"][0].tolist() == rows[0]
    assert batch["labels"][1].tolist() == [*rows[1], *[-100] * 4]
    for source, row in zip(batch["input_ids"].tolist(), rows, strict=True):
        kept = [token for token in source if token]
        assert [token for token in row if token in kept] == kept
        assert kept[-1] == 1
