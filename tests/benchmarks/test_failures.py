"""Runs that fail: recorded, shown, done again when asked for."""

import json

import pytest
from filelock import Timeout

from benchmarks import comparison, run_spec
from benchmarks.__main__ import main
from benchmarks.jobs import lock
from benchmarks.outcome import Outcome

ARGUMENTS = ["--steps", "1", "--batch-size", "2", "--max-length", "32", "--max-train", "4", "--max-test", "1"]


@pytest.fixture
def events():
    return []


@pytest.fixture
def compare(base_model, tmp_path, monkeypatch, events):
    """The exit status of a comparison whose runs cost nothing; those of `broken` (method, rate) fail."""

    def compare(*more, broken=()):
        def run(experiment, *_):
            events.append("run")
            if (experiment.method, experiment.params.learning_rate) in broken:
                raise RuntimeError("out of\nmemory")
            return Outcome(
                {"f1": 0.5, "loss": experiment.params.learning_rate}, num_base_params=9, num_trainable_params=1
            )

        monkeypatch.setattr(run_spec, "run", run)
        monkeypatch.setattr(comparison, "warm_up", lambda *_: events.append("warm-up"))
        options = ["--model", base_model, *ARGUMENTS, "--methods", "lora", "full/adamw", "--output", str(tmp_path)]
        return main(["compare", *options, "--rates", "0.1", "0.2", *more])

    return compare


def result(folder, name):
    (path,) = folder.glob(f"r*/*/*/{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_rate_that_fails_is_shown_and_not_taken(compare, tmp_path):
    assert compare(broken=[("lora", 0.1)]) == 0
    run = result(tmp_path, "lora--rank-8--seed0")
    assert run["run_info"]["train_config"]["learning_rate"] == 0.2
    assert [row["error"] for row in run["run_info"]["rate_choice"]] == ["RuntimeError: out of memory", ""]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    line = next(line for line in report.splitlines() if line.startswith("| lora/rank-8 ") and "0.1, 0.2" in line)
    assert [cell.strip() for cell in line.split("|")[4:7]] == ["1", "0.1 (1 of 1)", "0.2 (1 of 1)"]


def test_where_no_rate_is_left_the_run_has_failed(compare, tmp_path):
    assert compare(broken=[("lora", 0.1), ("lora", 0.2)]) == 1
    run = result(tmp_path, "lora--rank-8--seed0")
    assert run["train_info"]["status"] == "failed"
    assert (
        "no learning rate led to a finite loss (0.1: RuntimeError: out of memory; 0.2:" in run["run_info"]["error_msg"]
    )
    assert result(tmp_path, "full--adamw--seed0")["train_info"]["status"] == "success"
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "0.1 (1 of 1), 0.2 (1 of 1)" in report
    assert main(["report", "--output", str(tmp_path)]) == 1


def test_failed_runs_are_done_again_when_asked_for(compare, tmp_path):
    assert compare(broken=[("lora", 0.1), ("full", 0.1), ("full", 0.2)]) == 1
    kept = (tmp_path / "rates/generated/fraction-0.1/lora--rank-8--rate0.2.json").stat().st_mtime_ns
    assert compare() == 1
    assert compare("--retry-failed") == 0
    assert (tmp_path / "rates/generated/fraction-0.1/lora--rank-8--rate0.2.json").stat().st_mtime_ns == kept
    for name in ("lora--rank-8--seed0", "full--adamw--seed0"):
        info = result(tmp_path, name)["run_info"]
        assert info["train_config"]["learning_rate"] == 0.1
        assert {row["error"] for row in info["rate_choice"]} == {""}


def test_a_process_warms_up_once_before_its_first_run_and_not_for_nothing(compare, events):
    assert compare("--rates", "own") == 0
    assert events == ["warm-up", "run", "run"]
    assert compare("--rates", "own") == 0
    assert events == ["warm-up", "run", "run"]


def test_one_process_at_a_time_looks_at_what_is_there(compare, monkeypatch, tmp_path):
    real = comparison.Comparison.begin

    def begin(self):
        with pytest.raises(Timeout):
            lock(tmp_path, "comparison", timeout=0).acquire()
        real(self)

    monkeypatch.setattr(comparison.Comparison, "begin", begin)
    assert compare("--rates", "own") == 0
    assert (tmp_path / "comparison.json").exists()


def test_a_result_that_cannot_be_written_ends_the_comparison_with_one_line(compare, tmp_path, capsys):
    (tmp_path / "results").touch()
    assert compare("--rates", "own") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"benchmarks: {tmp_path}/results/generated/fraction-0.1 cannot be a folder: ")
