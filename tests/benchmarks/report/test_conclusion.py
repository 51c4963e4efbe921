"""The sentence that a report begins with: no claim that its intervals do not carry."""

import json

from benchmarks.__main__ import main
from benchmarks.report import write_and_tell
from benchmarks.report.ranks import mean_ranks, ordered_methods
from benchmarks.report.rows import make_rows

from .made import counted, make_result, table_with

RIGHT, WRONG = (1, 1, 1), (0, 1, 1)
DATASETS = ("wnut17", "generated", "everyday")


def made(right, seeds=(0, 1), **options):
    """Of each method and data set, so many right answers of 20."""
    return [
        counted(method, seed, dataset=dataset, examples=[RIGHT] * number + [WRONG] * (20 - number), **options)
        for dataset, by_method in right.items()
        for method, number in by_method.items()
        for seed in seeds
    ]


def first_lines(results, folder):
    """What stands after the title, in both reports and in a terminal."""
    written = write_and_tell(results, folder)
    text = written.paths[0].read_text(encoding="utf-8").replace("\\", "").split("\n\n")[1]
    assert f'<p class="lead">{text}</p>' in written.paths[1].read_text(encoding="utf-8")
    assert written.brief.startswith(f"{text}\n")
    return text


def test_the_best_is_named_with_what_is_not_told_apart_from_it(tmp_path):
    right = {"wnut17": {"a/a": 18, "b/b": 17, "c/c": 2}}
    assert first_lines(made(right), tmp_path) == (
        "a/a has the highest mean F1 on WNUT 2017, 10 % of the training examples, not told apart there from b/b."
    )
    right["wnut17"]["b/b"] = 3
    assert first_lines(made(right), tmp_path).endswith("training examples, told apart from all others.")


def test_data_sets_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.benchmarks.report.made.TASKS", dict.fromkeys(DATASETS, "ner"))
    right = {
        "wnut17": {"a/a": 18, "b/b": 17, "c/c": 2},
        "generated": {"a/a": 18, "b/b": 2, "c/c": 2},
        "everyday": {"a/a": 3, "b/b": 2, "c/c": 19},
    }
    assert first_lines(made(right), tmp_path) == (
        "a/a has the highest mean F1 on 2 of 3 data sets, not told apart there from b/b (on 1); c/c has it on 1, told "
        "apart from all others."
    )


def test_of_many_that_are_not_told_apart_a_few_are_named(tmp_path):
    text = first_lines(made({"wnut17": {f"m/{i}": 18 - i % 2 for i in range(6)}}), tmp_path)
    assert text.endswith("not told apart there from m/1, m/2, m/3 and 2 others.")


def test_one_seed_is_said_and_without_intervals_nothing_is_claimed(tmp_path):
    right = {"wnut17": {"a/a": 18, "b/b": 2}}
    assert first_lines(made(right, seeds=(3,)), tmp_path).endswith(
        "told apart from all others (with one seed, the intervals are over test examples alone)."
    )
    old = [make_result(method, "wnut17", scores={"f1": score}) for method, score in (("a/a", 0.5), ("b/b", 0.498))]
    assert first_lines(old, tmp_path) == (
        "On WNUT 2017, 10 % of the training examples there are no intervals of two methods, so nothing is told apart."
    )
    zero = [make_result(method, "wnut17", seed, scores={"f1": 0.0}) for method in ("a/a", "b/b") for seed in (0, 1)]
    assert first_lines(zero, tmp_path) == "No method scores above 0 on WNUT 2017, 10 % of the training examples."


def test_one_seed_without_an_interval_gives_no_rank_and_nothing_bold(tmp_path):
    old = [make_result(method, "wnut17", scores={"f1": score}) for method, score in (("b/b", 0.5), ("a/a", 0.498))]
    for result in old:
        result["train_info"]["metrics"][-1]["test loss"] = result["train_info"]["metrics"][-1]["test f1"]
    assert mean_ranks(make_rows(old)) == {}
    assert ordered_methods(make_rows(old)) == ["a/a", "b/b"]
    text = write_and_tell(old, tmp_path).paths[0].read_text(encoding="utf-8")
    assert [line[:2] for line in table_with(text, "mean rank")[1:]] == [["a/a", "–"], ["b/b", "–"]]
    assert "- One seed and no interval, which tells no methods apart, so that there are no ranks: WNUT 2017" in text
    assert not any(cell.startswith("**") for line in table_with(text, "mean rank") for cell in line)


def test_the_same_examples_of_two_fractions_are_said_to_be_the_same(tmp_path):
    results = []
    for fraction in (0.1, 0.5, 0.01):
        options = {"protocol": f"{100 * fraction:g} % of the training examples, at most 64", "fraction": fraction}
        results += made({"wnut17": {"a/a": 18, "b/b": 2}}, **options)
    for result in results:
        config = result["run_info"]["train_config"]
        config["num_train_examples"] = min(64, config["num_train_examples"])
    text = write_and_tell(results, tmp_path).paths[0].read_text(encoding="utf-8")
    told = (
        "WNUT 2017: 10 % and 50 % of the training examples are the same runs: --max-train leaves the same 64 examples"
    )
    assert text.count(told) == 2  # below the overview, and by the picture of scores by fraction
    assert "a/a has the highest mean F1 on 2 of 2 settings" in text  # the same runs count once
    for result in results:
        config = result["run_info"]["train_config"]
        config["num_train_examples"] += config["fraction"] == 0.5
    assert "the same runs" not in write_and_tell(results, tmp_path).paths[0].read_text(encoding="utf-8")


def test_the_terminal_shows_the_overview_alone_and_where_the_rest_is(tmp_path, capsys):
    for i, result in enumerate(made({"wnut17": {"a/a_b": 18, "b/b": 17}})):
        path = tmp_path / "results" / "wnut17" / "fraction-0.1" / f"{i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
    assert main(["report", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| method") == 1
    assert "mean rank" in printed
    assert "| a/a_b " in printed  # nothing is escaped
    assert "peak memory" not in printed
    assert str(tmp_path / "report.md") in printed
    assert str(tmp_path / "report.html") in printed
    assert "peak memory" in (tmp_path / "report.md").read_text(encoding="utf-8")
