"""Scores by label against seqeval, and by hand where seqeval has none."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report

from peft_fishdip.tasks import (
    Decoded,
    DstExample,
    JointExample,
    NerExample,
    NerTask,
    Relation,
    RelationExample,
    SlotValue,
    Span,
    SrlExample,
    from_offsets,
    score_report,
    spans_to_tags,
    tags_to_spans,
)

TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y", "B-Z"]), min_size=6, max_size=6)


def found(example):
    return Decoded(example, (), "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=4))
def test_figures_are_those_of_seqeval(pairs):
    words = ("w",) * 6
    sides = [[NerExample(words, tuple(tags_to_spans(tags))) for tags in side] for side in zip(*pairs, strict=True)]
    gold, predicted = sides
    report = score_report(gold, [*map(found, predicted)])
    if not report.labels:
        return
    tags = [[spans_to_tags(example.spans, 6) for example in side] for side in sides]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = classification_report(*tags, output_dict=True, zero_division=0)
    averages = {"micro avg": report.micro, "macro avg": report.macro, "weighted avg": report.weighted}
    assert {*oracle} == {*report.labels, *averages}
    for name, score in (report.labels | averages).items():
        assert score.precision == pytest.approx(oracle[name]["precision"])
        assert score.recall == pytest.approx(oracle[name]["recall"])
        assert score.f1 == pytest.approx(oracle[name]["f1-score"])
    assert all(score.num_gold == oracle[label]["support"] for label, score in report.labels.items())


def test_the_table():
    words = ("w",) * 9
    gold = NerExample(words, (Span(0, 2, "LOC"), Span(3, 4, "LOC"), Span(5, 6, "PER"), Span(7, 9, "PER")))
    predicted = NerExample(words, (Span(0, 1, "LOC"), Span(3, 4, "LOC"), Span(5, 6, "LOC"), Span(7, 8, "LOC")))
    report = score_report([gold], [found(predicted)])
    assert report.labels["LOC"].num_partial == 1
    assert report.labels["PER"].num_mislabelled == 1  # the other has neither its label nor its boundaries
    table = """
                precision       recall     f1-score      support      partial  mislabelled
         LOC         0.25         0.50         0.33            2            1            0
         PER         0.00         0.00         0.00            2            0            1

   micro avg         0.25         0.25         0.25            4            1            1
   macro avg         0.12         0.25         0.17            4            1            1
weighted avg         0.12         0.25         0.17            4            1            1"""
    assert str(report) == table.removeprefix("\n")


def test_a_span_that_is_found_is_not_partial_too():
    words = ("w",) * 4
    gold = NerExample(words, (Span(0, 3, "X"), Span(0, 1, "X")))
    report = score_report([gold], [NerExample(words, (Span(0, 3, "X"),))])
    assert (report.micro.num_correct, report.micro.num_partial) == (1, 0)
    report = score_report([gold], [NerExample(words, (Span(0, 3, "X"), Span(0, 2, "X")))])
    assert (report.micro.num_correct, report.micro.num_partial) == (1, 1)


def test_relations_without_no_relation():
    def example(label):
        return RelationExample(("a", "b"), Span(0, 1), Span(1, 2), label)

    gold = [*map(example, ["r", "r", "no_relation", "no_relation", "s"])]
    predicted = [*map(found, map(example, ["r", "no_relation", "no_relation", "s", None]))]
    report = score_report(gold, predicted)
    assert (report.micro.num_correct, report.micro.num_predicted, report.micro.num_gold) == (2, 4, 5)
    without = report.micro_without
    assert (without.num_correct, without.num_predicted, without.num_gold) == (1, 2, 3)
    assert "micro avg without no_relation" in str(report)
    assert report.labels["r"].num_mislabelled == 1
    assert score_report(gold, predicted, without=()).micro_without is None
    assert score_report(gold[:2], predicted[:1] * 2).micro_without is None
    other = score_report(gold, predicted, without=["s", "unheard"])
    assert (other.without, other.micro_without.num_gold) == (("s",), 4)


def test_relations_of_joint_examples():
    words = ("w",) * 6
    head, tail, longer = Span(0, 1, "P"), Span(3, 4, "L"), Span(3, 5, "L")
    gold = JointExample(words, (head, tail), (Relation(head, tail, "in"),))
    predicted = JointExample(words, (head, longer), (Relation(head, longer, "in"),))
    report = score_report([gold], [found(predicted)], of="relations")
    assert (report.micro.num_correct, report.micro.num_gold, report.micro.num_partial) == (0, 1, 1)
    assert score_report([gold], [found(gold)], of="relations").micro.f1 == 1.0
    assert score_report([gold], [found(predicted)]).labels["P"].f1 == 1.0
    back = JointExample(words, (head, tail), (Relation(tail, head, "in"),))
    assert score_report([gold], [back], of="relations").micro.num_partial == 0  # the direction matters
    with pytest.raises(TypeError, match="of='relations' is for JointExamples, got NerExample"):
        score_report([NerExample(words)], [NerExample(words)], of="relations")
    with pytest.raises(ValueError, match="of='entities': choose"):
        score_report([gold], [gold], of="entities")


def test_roles_and_slots():
    words, verb = ("w",) * 8, Span(6, 7, "V")
    gold = SrlExample(words, verb, (Span(0, 2, "A1"), Span(4, 6, "C-A1"), Span(7, 8, "A0")))
    report = score_report([gold], [found(SrlExample(words, verb, (Span(0, 2, "A1"), Span(7, 8, "A0"))))])
    assert [*report.labels] == ["A0", "A1"]
    assert (report.labels["A1"].num_correct, report.labels["A1"].num_gold, report.labels["A1"].num_partial) == (0, 1, 1)
    north, south = SlotValue("hotel", "area", "north"), SlotValue("hotel", "area", "south")
    report = score_report([DstExample((), (north,))] * 2, [DstExample((), (north,)), DstExample((), (south,))])
    assert report.labels["hotel area"].precision == 0.5
    assert (report.micro.num_partial, report.micro.num_mislabelled) == (0, 0)


def test_predictions_of_texts_are_compared_by_characters():
    text = "non-EU firms of Oslo"
    gold = from_offsets(text, [(4, 6, "X"), (16, 20, "Y")])
    predicted = NerTask(["X", "Y"]).decode(text, "[ non-EU | X ] firms of [ Oslo | Y ]")
    report = score_report([gold], [predicted])
    assert (report.labels["X"].num_partial, report.labels["X"].num_correct, report.labels["Y"].num_correct) == (1, 0, 1)


def test_misuse():
    example = NerExample(("a",))
    assert score_report([], []).micro.f1 == 0.0
    assert "micro avg" in str(score_report([example], [example]))
    with pytest.raises(ValueError, match="1 gold examples but 2 predictions"):
        score_report([example], [example, example])
    with pytest.raises(TypeError, match="pass examples first, then predictions"):
        score_report([found(example)], [example])
    with pytest.raises(ValueError, match="another sentence"):
        score_report([example], [NerExample(("b",))])
    with pytest.raises(TypeError, match="records of the five tasks expected, got str"):
        score_report(["a"], ["a"])
