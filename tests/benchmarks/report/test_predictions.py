"""Example predictions in a report."""

import html

from benchmarks.report import write_and_tell

from .made import EVIL, make_result, markdown_tables

SOURCES = ["Ann left Oslo .", "<b>It</b> rained | all week .", "Bo .", "Nobody ."]


def predicted(method, answers, seed=0):
    result = make_result(method, "wnut17", seed)
    result["train_info"]["predictions"] = [
        {"source": source, "gold": f"gold of {source}", "predicted": answer}
        for source, answer in zip(SOURCES, answers, strict=True)
    ]
    return result


def prediction_tables(text):
    return [table for table in markdown_tables(text) if "as gold" in table[0]]


def test_the_first_examples_of_the_first_seed_are_shown_with_gold(tmp_path):
    right = [f"gold of {source}" for source in SOURCES]
    results = [
        predicted("b/b", ["[ Ann | place ] left Oslo .", *right[1:]]),
        predicted("b/b", right, seed=1),
        predicted("a/a", right),
        make_result("c/old", "wnut17"),
        make_result("d/failed", "wnut17", error="RuntimeError: none"),
    ]
    written = write_and_tell(results, tmp_path)
    text = written.paths[0].read_text(encoding="utf-8")
    first, *others = prediction_tables(text)
    assert len(others) == 2  # a handful
    assert first[1:] == [
        ["gold", "gold of Ann left Oslo .", "–"],
        ["a/a", "gold of Ann left Oslo .", "yes"],
        ["b/b", "\\[ Ann \\| place \\] left Oslo .", "no"],
    ]
    assert text.count("**WNUT 2017, 10 % of the training examples: Ann left Oslo .**") == 1
    assert text.count("Results of c/old were made without keeping predictions.") == 1
    assert "[ Ann | place ] left Oslo ." in written.brief
    assert written.brief.count("as gold") == 2


def test_texts_are_escaped(tmp_path):
    written = write_and_tell([predicted("a/a", [EVIL] * 4)], tmp_path)
    text, page = (path.read_text(encoding="utf-8") for path in written.paths[:2])
    assert "<script>alert" not in text + page
    assert "<b>It" not in text + page
    assert html.escape(EVIL, quote=False) in page
    assert html.escape(SOURCES[1]) in page
    assert all(len(line) == 3 for table in prediction_tables(text) for line in table)  # no cell is split


def test_results_without_predictions_have_no_such_section(tmp_path):
    written = write_and_tell([make_result(), make_result("full/adamw")], tmp_path)
    assert "predictions" not in written.paths[0].read_text(encoding="utf-8")
    assert "as gold" not in written.brief
