"""Forgetting in the tables of a report."""

from statistics import mean, stdev

import pytest

from benchmarks.report import write_report
from benchmarks.settings import SettingsError

from .made import forgetful, make_result, markdown_tables


def report(results, folder):
    return write_report(results, folder)[0].read_text(encoding="utf-8")


def columns(text):
    """The cells of each column of this name, by method: of the overview, then of each data set."""
    tables = [table for table in markdown_tables(text) if "forgetting" in table[0]]
    return [{line[0]: line[table[0].index("forgetting")] for line in table[1:]} for table in tables]


def test_one_column_for_all_methods_and_its_mean_over_data_sets(tmp_path):
    values = {("a/a", "wnut17"): (0.5, 0.25), ("a/a", "woz2"): (1.0, 2.0), ("b/b", "wnut17"): (-0.125, 0.0)}
    results = [
        forgetful(make_result(method, dataset, seed), value)
        for (method, dataset), of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    overview, wnut, woz = columns(text := report(results, tmp_path))
    assert overview == {"a/a": f"{mean((0.375, 1.5)):+.3f}", "b/b": f"-0.062 ± {stdev((-0.125, 0.0)):.3f}"}
    assert wnut == {"a/a": f"+0.375 ± {stdev((0.5, 0.25)):.3f}", "b/b": f"-0.062 ± {stdev((-0.125, 0.0)):.3f}"}
    assert woz == {"a/a": f"+1.500 ± {stdev((1.0, 2.0)):.3f}"}
    assert text.count("Before it was 2.500, over 1,234 tokens of 64 texts of wiki.txt.\n") == 1


def test_what_was_not_measured_is_said_with_its_reason(tmp_path):
    results = [
        forgetful(make_result("a/a", "wnut17"), 0.5, num_cut=3, num_short=1),
        forgetful(make_result("b/b", "wnut17"), 0.0, reason="there is no <head>"),
        make_result("c/old", "wnut17"),
        forgetful(make_result("d/d", "wnut17"), float("inf")),
        forgetful(make_result("e/e", "wnut17", 0), 1.0),
        forgetful(make_result("e/e", "wnut17", 1), None),
    ]
    overview, table = columns(text := report(results, tmp_path))
    assert overview == table
    assert overview == {
        "a/a": "+0.500",
        "b/b": "not measured",
        "c/old": "–",
        "d/d": "not finite",
        "e/e": "+1.000 (1 of 2 runs)",
    }
    assert "of wiki.txt, 3 cut, 1 left out, as they are too short.\n" in text
    assert "- Forgetting was not measured of b/b: there is no &lt;head&gt;.\n" in text
    assert "- Results of c/old were made without measuring forgetting.\n" in text


def test_results_that_never_measured_it_have_no_such_column(tmp_path):
    assert "orgetting" not in report([make_result(), make_result("full/adamw")], tmp_path)


def test_other_texts_do_not_compare(tmp_path):
    results = [forgetful(make_result("a/a"), 0.5), forgetful(make_result("b/b"), 0.5, digest="0b", origin="news.txt")]
    with pytest.raises(SettingsError, match=r"2 different selections of texts \(wiki.txt, news.txt\)"):
        write_report(results, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_results_are_refused(tmp_path):
    result = forgetful(make_result("a/a"), 0.5)
    del result["train_info"]["plain_text"]["digest"]
    with pytest.raises(SettingsError, match=r"a/a has no plain_text.digest"):
        write_report([result], tmp_path)
