"""Which scores have an interval in a report, and what is said to be told apart."""

import json
import re

import pytest

from benchmarks.__main__ import main
from benchmarks.report import write_report
from benchmarks.report.intervals import difference, reference_of, tied, with_intervals
from benchmarks.report.ranks import mean_ranks, ranks
from benchmarks.report.rows import make_rows
from benchmarks.settings import SettingsError

from .made import counted, make_result, markdown_tables, of_relation, table_with

RIGHT, WRONG = (1, 1, 1), (0, 1, 1)


def answers(number, count=20):
    """So many right ones of a test set."""
    return [RIGHT] * number + [WRONG] * (count - number)


def overlapping():
    """good and better are not told apart from each other, and both are from poor; two seeds each."""
    results = []
    for seed in (0, 1):
        results.append(counted("lora/poor", seed, examples=answers(4)))
        results.append(counted("a/good", seed, examples=answers(15 + seed)))
        results.append(counted("b/better", seed, examples=[*answers(14, 18), *([RIGHT] * 2)]))
    return results


def report(results, folder, *options):
    return write_report(results, folder, *options)[0].read_text(encoding="utf-8").replace("\\", "")


def column_of(text, *titles):
    """Cells of the last of these columns, by method."""
    table = next(t for t in markdown_tables(text) if all(any(title in name for name in t[0]) for title in titles))
    number = next(i for i, name in enumerate(table[0]) if titles[-1] in name)
    return {line[0]: line[number] for line in table[1:]}


def test_scores_have_intervals_and_what_is_not_told_apart_from_the_best_is_bold(tmp_path):
    text = report(overlapping(), tmp_path)
    cells = column_of(text, "mean rank", "WNUT 2017 F1")
    assert {name: re.sub(r"\[.*\]", "[]", cell) for name, cell in cells.items()} == {
        "b/better": "**80.0 []**",
        "a/good": "**77.5 []**",
        "lora/poor": "20.0 []",
    }
    for cell in cells.values():
        value, low, high = map(float, re.findall(r"[\d.]+", cell))
        assert low < value < high
        assert 10 < high - low < 40  # of 20 yes-or-no answers, the standard error is about 10 points
    assert "Mean [95 % interval], in percent" in text
    assert "The bar is the 95 % interval." in text


def test_differences_to_the_reference_are_paired_and_told(tmp_path):
    text = report(overlapping(), tmp_path, "b/better")
    cells = column_of(text, "F1 minus that of b/better")
    assert cells["b/better"] == "reference"
    assert re.fullmatch(r"-2\.5 \[-\d+\.\d, \+\d+\.\d\], not told apart", cells["a/good"])
    assert re.fullmatch(r"-60\.0 \[-\d+\.\d, -\d+\.\d\]", cells["lora/poor"])
    assert "F1 minus that of lora/poor" in report(overlapping(), tmp_path / "default")


def test_a_small_advantage_on_every_example_is_told_apart_though_the_scores_overlap():
    """Without pairing, the intervals would overlap: the examples differ much more than the methods."""
    hard = [(0, 8, 8)] * 10 + [(7, 8, 8)] * 10
    easier = [(1, 8, 8)] * 10 + [(8, 8, 8)] * 10
    rows = with_intervals(make_rows([counted("a/a", examples=hard), counted("b/b", examples=easier)]))
    found = difference(rows[1], rows[0], "f1")
    assert found == pytest.approx((12.5, 12.5, 12.5))
    assert tied(*rows, "f1") is False
    assert mean_ranks(rows) == {"a/a": (2.0, 1), "b/b": (1.0, 1)}


def test_ranks_tie_what_is_not_told_apart(tmp_path):
    rows = with_intervals(make_rows(overlapping()))
    assert mean_ranks(rows) == {"a/good": (1.5, 1), "b/better": (1.5, 1), "lora/poor": (3.0, 1)}
    assert mean_ranks(make_rows(overlapping())) == {"a/good": (2.0, 1), "b/better": (1.0, 1), "lora/poor": (3.0, 1)}
    chain = {("x", "y"): True, ("y", "z"): True, ("x", "z"): False}  # not transitive
    assert ranks({"x": 3.0, "y": 2.0, "z": 1.0}, lambda *pair: chain[pair]) == {"x": 1.5, "y": 2.0, "z": 2.5}


def test_seeds_that_both_have_are_compared():
    results = [*overlapping(), counted("c/c", 1, examples=answers(10))]
    results.append(make_result("c/c", "wnut17", 0, error="RuntimeError: none"))
    rows = {row.method: row for row in with_intervals(make_rows(results))}
    found = difference(rows["a/good"], rows["c/c"], "f1")
    assert found.value == pytest.approx(80 - 50)
    only = with_intervals(make_rows([r for r in results if r["run_info"]["train_config"]["seed"] == 1]))
    alone = {row.method: row for row in only}
    assert found == difference(alone["a/good"], alone["c/c"], "f1")


def test_accuracies_of_episodes_have_intervals(tmp_path):
    results = []
    for method, right in (("lora/a", 6), ("full/b", 3)):
        for seed in (0, 1):
            result = of_relation(method)
            result["run_info"]["train_config"]["seed"] = seed
            result["train_info"]["metrics"][-1]["test accuracy"] = right / 10
            parts = [" ".join(["1"] * (right + change) + ["0"] * (10 - right - change)) for change in (1, -1)]
            result["train_info"]["test_counts"] = {"accuracy": [{"correct": part} for part in parts]}
            results.append(result)
    cells = column_of(report(results, tmp_path), "mean rank", "accuracy")
    assert re.fullmatch(r"\*\*60\.0 \[\d+\.\d, \d+\.\d\]\*\*", cells["lora/a"])
    assert re.fullmatch(r"30\.0 \[\d+\.\d, \d+\.\d\]", cells["full/b"])


def test_results_without_counts_are_shown_as_before_beside_those_with_intervals(tmp_path):
    old = [make_result("d/old", "wnut17", seed, scores={"f1": 0.95 + seed / 50}) for seed in (0, 1)]
    results = [*overlapping(), *old]
    text = report(results, tmp_path)
    cells = column_of(text, "mean rank", "WNUT 2017 F1")
    assert cells["d/old"] == "**96.0 ± 1.4**"
    assert not cells["b/better"].startswith("**")
    assert "- Mean ± standard deviation and no interval: d/old, of whose results some have no counts" in text
    assert column_of(text, "mean rank", "mean rank")["d/old"] == "1.0"
    assert column_of(text, "minus that of lora/poor")["d/old"] == "–"


def test_one_seed_is_said_to_be_one(tmp_path):
    results = [counted(method, examples=answers(number)) for method, number in (("a/a", 15), ("b/b", 5))]
    text = report(results, tmp_path)
    told = "- One seed, so that the intervals are over test examples alone: WNUT 2017, 10 % of the training examples.\n"
    assert told in text
    assert told not in report(overlapping(), tmp_path / "two")


def test_few_test_examples_give_no_interval(tmp_path):
    text = report([counted("a/a", examples=answers(9, 9)), counted("b/b", examples=answers(1, 9))], tmp_path)
    assert column_of(text, "mean rank", "WNUT 2017 F1") == {"a/a": "100.0", "b/b": "11.1"}  # one seed
    assert "[95 % interval]" not in text


def test_bars_of_pictures_end_where_the_interval_does(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("benchmarks.report.pictures.bar_ends", lambda row, metric: drawn.append((row.method, metric)))
    write_report(overlapping(), tmp_path)
    assert {("a/good", "f1"), ("b/better", "f1"), ("lora/poor", "f1")} == set(drawn)
    monkeypatch.undo()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("pictures/score*.svg")}
    write_report(overlapping(), tmp_path)
    assert {path.name for path in tmp_path.glob("pictures/score*.svg") if path.read_bytes() != before[path.name]} == {
        *before
    }


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"correct": "1 0", "predicted": "1", "gold": "1 1"}, "different lengths"),
        ({"correct": "1 x"}, "invalid literal"),
        ({"gold": "1 1"}, "columns gold"),
        ("1 0", "damaged"),
        ({"correct": "1 " * 20, "predicted": "1 " * 20, "gold": "1 " * 20}, "f1 is 0.75, but 1.0 by its test_counts"),
    ],
)
def test_damaged_counts_are_refused(tmp_path, counts, message):
    result = counted("a/a", 3, examples=answers(15))
    result["train_info"]["test_counts"] = {"f1": [counts]}
    with pytest.raises(SettingsError, match=f"result of a/a, seed 3: .*{message}"):
        write_report([result], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("others", [answers(10, 21), [*answers(10, 19), (0, 1, 2)]])
def test_different_test_examples_are_not_paired(others):
    results = [counted("a/a", examples=answers(10)), counted("b/b", examples=others)]
    with pytest.raises(SettingsError, match=r"b/b and a/a on WNUT 2017, .* were tested on different examples"):
        with_intervals(make_rows(results))


def test_the_reference_is_lora_where_nothing_is_asked_for():
    assert reference_of(["full/adamw", "lora/rank-8", "a/a"], None) == "lora/rank-8"
    assert reference_of(["full/adamw", "a/a"], None) == "full/adamw"
    assert reference_of(["b/b", "a/a"], None) == "a/a"
    assert reference_of(["full/adamw", "lora/rank-8"], "full") == "full/adamw"
    with pytest.raises(SettingsError, match="--reference x is none of the methods; give one of a/a, b/b"):
        reference_of(["b/b", "a/a"], "x")
    with pytest.raises(SettingsError, match="--reference a stands for several; give one of a/a, a/b"):
        reference_of(["b/b", "a/a", "a/b"], "a")


def test_the_command_line_names_the_reference(tmp_path, capsys):
    folder = tmp_path / "results" / "wnut17" / "fraction-0.1"
    folder.mkdir(parents=True)
    for i, result in enumerate(overlapping()):
        (folder / f"{i}.json").write_text(json.dumps(result), encoding="utf-8")
    assert main(["report", "--output", str(tmp_path), "--reference", "a/good"]) == 0
    assert table_with((tmp_path / "report.md").read_text(encoding="utf-8"), "F1 minus that of a/good")
    capsys.readouterr()
    assert main(["report", "--output", str(tmp_path), "--reference", "none"]) == 2
    assert "--reference none is none of the methods" in capsys.readouterr().err
    assert main(["compare", "--output", str(tmp_path), "--reference", "none", "--methods", "full", "--steps", "1"]) == 2
    assert "give one of a/good, b/better, full/adafactor, full/adamw, lora/poor" in capsys.readouterr().err
