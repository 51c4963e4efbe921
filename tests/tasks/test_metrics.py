"""Metrics against seqeval and against counts made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from peft_fishdip.tasks import (
    Decoded,
    DstExample,
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    Relation,
    SlotValue,
    Span,
    SrlExample,
    SrlTask,
    choose,
    joint_accuracy,
    likelihood_accuracy,
    mean_std,
    micro_f1,
    reference_joint_accuracy,
    spans_to_tags,
    srl_f1,
    tags_to_spans,
)

TAG = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])


def found(example):
    return Decoded(example, (), "")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(TAG, min_size=6, max_size=6), st.lists(TAG, min_size=6, max_size=6)), min_size=1))
def test_entity_f1_is_seqeval_s(pairs):
    tokens = ("w",) * 6
    gold, predicted, gold_tags, predicted_tags = [], [], [], []
    for g, p in pairs:
        gold.append(NerExample(tokens, tuple(tags_to_spans(g))))
        predicted.append(found(NerExample(tokens, tuple(tags_to_spans(p)))))
        gold_tags.append(spans_to_tags(gold[-1].spans, 6))
        predicted_tags.append(spans_to_tags(predicted[-1].prediction.spans, 6))
    score = NerTask(["X", "Y"]).score(gold, predicted)
    for name, oracle in {"f1": f1_score, "precision": precision_score, "recall": recall_score}.items():
        assert score[name] == pytest.approx(oracle(gold_tags, predicted_tags, zero_division=0))


def test_strict_relations():
    ann, bo, oslo = Span(0, 1, "P"), Span(1, 2, "P"), Span(2, 3, "L")
    longer, other_type = Span(2, 4, "L"), Span(2, 3, "O")
    tokens = ("w",) * 4
    gold = JointExample(tokens, (ann, bo, oslo), (Relation(ann, oslo, "in"), Relation(ann, bo, "knows")))
    task = JointTask(["P", "L", "O"], ["in", "knows"])

    def score(tail, *relations):
        return task.score([gold], [found(JointExample(tokens, (ann, bo, tail), relations))])

    right = score(oslo, Relation(ann, oslo, "in"))
    assert (right["relation_precision"], right["relation_recall"]) == (1.0, 0.5)
    assert right["relation_f1"] == pytest.approx(2 / 3)
    assert right["entity_f1"] == 1.0
    for tail in (longer, other_type):  # boundary and type count
        wrong = score(tail, Relation(ann, tail, "in"))
        assert wrong["relation_f1"] == 0.0
        assert wrong["entity_f1"] == pytest.approx(2 / 3)
    assert score(oslo, Relation(bo, ann, "knows"))["relation_f1"] == 0.0  # direction counts
    assert score(oslo, Relation(ann, oslo, "knows"))["relation_f1"] == 0.0  # label counts


def arguments(text: str) -> list[Span]:
    """ "A0:0-2 C-A0:4-5" as spans."""
    spans = []
    for item in text.split():
        label, _, place = item.partition(":")
        start, end = place.split("-")
        spans.append(Span(int(start), int(end), label))
    return spans


@pytest.mark.parametrize(
    ("gold", "predicted", "official", "reference"),
    [
        # (correct, predicted, gold), counted by hand after the CoNLL-2005 rules
        ("A0:0-2 A1:3-5", "A0:0-2 A1:3-5", (2, 2, 2), (2, 2, 2)),
        ("A0:0-2 A1:3-5", "A0:0-2 A1:3-6", (1, 2, 2), (1, 2, 2)),
        ("A0:0-2 A1:3-5", "A1:0-2", (0, 1, 2), (0, 1, 2)),
        # one argument in two pieces: right only with both
        ("A1:0-2 C-A1:4-6", "A1:0-2 C-A1:4-6", (1, 1, 1), (2, 2, 2)),
        ("A1:0-2 C-A1:4-6", "A1:0-2", (0, 1, 1), (1, 1, 2)),
        ("A1:0-2 C-A1:4-6", "A1:0-2 C-A1:4-5", (0, 1, 1), (1, 2, 2)),
        ("A1:0-2 C-A1:4-6", "A1:0-2 A1:4-6", (0, 2, 1), (1, 2, 2)),
        ("A1:0-2 C-A1:4-6 C-A1:7-8", "A1:0-2 C-A1:4-6 C-A1:7-8", (1, 1, 1), (3, 3, 3)),
        # a continuation without a beginning is a beginning
        ("A1:4-6", "C-A1:4-6", (1, 1, 1), (0, 1, 1)),
        ("A1:0-2 C-A1:4-6", "C-A1:0-2 C-A1:4-6", (1, 1, 1), (1, 2, 2)),
        # a continuation belongs to the last argument of its role
        ("A1:0-1 A1:2-3 C-A1:4-5", "A1:0-1 A1:2-3 C-A1:4-5", (2, 2, 2), (3, 3, 3)),
        ("A1:0-1 A1:2-3 C-A1:4-5", "A1:0-1 A1:2-3", (1, 2, 2), (2, 2, 3)),
        # the verb does not count, nor its continuation; references are roles of their own
        ("V:1-2 A0:0-1 C-V:3-4", "V:1-2 A0:0-1", (1, 1, 1), (2, 2, 3)),
        ("A0:0-1 R-A0:1-2", "A0:0-1 R-A0:1-2", (2, 2, 2), (2, 2, 2)),
        ("", "", (0, 0, 0), (0, 0, 0)),
    ],
)
def test_srl_counts_by_hand(gold, predicted, official, reference):
    for switch, counts in ((False, official), (True, reference)):
        score = srl_f1([arguments(gold)], [arguments(predicted)], reference=switch)
        assert (score.num_correct, score.num_predicted, score.num_gold) == counts


def test_srl_task_has_the_switch():
    words, verb = ("w",) * 8, Span(6, 7, "V")
    gold = SrlExample(words, verb, tuple(arguments("A1:0-2 C-A1:4-6")))
    predicted = SrlExample(words, verb, tuple(arguments("A1:0-2")))
    task = SrlTask(["A1", "C-A1"])
    assert task.score([gold], [found(predicted)])["f1"] == 0.0
    assert task.score([gold], [found(predicted)], reference=True)["f1"] == pytest.approx(2 / 3)


TASK = DstTask({"hotel": ("area", "name")})
NORTH = SlotValue("hotel", "area", "north")


def dst(*state):
    return DstExample((), state)


def decode(example):
    """The prediction of a model that writes exactly the target."""
    return TASK.decode(example, TASK.encode(example).target)


@pytest.mark.parametrize(
    ("example", "mended", "reference"),
    [
        (dst(NORTH), 1.0, 1.0),
        (dst(), 1.0, 0.0),
        (dst(SlotValue("hotel", "name", "alpha-milton")), 1.0, 1.0),
        (dst(SlotValue("hotel", "name", "a, b")), 1.0, 0.0),
    ],
)
def test_a_perfect_model_under_both_definitions(example, mended, reference):
    assert TASK.score([example], [decode(example)])["joint_accuracy"] == mended
    assert TASK.score([example], [decode(example)], reference=True)["joint_accuracy"] == reference


def test_reference_takes_hyphens_for_spaces():
    gold = dst(SlotValue("hotel", "name", "alpha-milton"))
    text = "[belief] hotel area not given , hotel name alpha milton [belief]"
    predicted = TASK.decode(gold, text)
    assert TASK.score([gold], [predicted])["joint_accuracy"] == 0.0
    assert TASK.score([gold], [predicted], reference=True)["joint_accuracy"] == 1.0


def test_reference_splits_values_at_commas():
    gold = dst(SlotValue("hotel", "name", "a, b"))
    text = "[belief] hotel area not given , hotel name a, b [belief]"
    assert reference_joint_accuracy([gold], [text]) == 0.0
    text = "[belief] hotel area north , hotel name not given [belief]"
    spaced = text.replace("[belief]", "[ belief ]")  # as some tokenizers write it
    for form in (text, spaced):
        assert reference_joint_accuracy([dst(NORTH)], [form]) == 1.0
    assert decode(gold).prediction == gold


def test_slot_f1_and_joint_accuracy():
    inn, pub = SlotValue("hotel", "name", "inn"), SlotValue("hotel", "name", "pub")
    gold = [dst(NORTH, inn), dst(NORTH), dst()]
    predicted = [found(dst(NORTH, pub)), found(dst(NORTH)), found(dst(inn))]
    score = TASK.score(gold, predicted)
    assert score["joint_accuracy"] == pytest.approx(1 / 3)
    assert score["slot_precision"] == pytest.approx(2 / 4)
    assert score["slot_recall"] == pytest.approx(2 / 3)
    assert joint_accuracy([], []) == 0.0


def test_candidate_likelihood():
    losses = [[1.0, 0.5, 2.0], [0.1, 0.1, 3.0], [5.0, 4.0, 3.0]]
    assert choose(losses, ["x", "y", "z"]) == ["y", "x", "z"]
    assert likelihood_accuracy(losses, ["x", "y", "z"], ["y", "y", "z"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="3 losses for 2 labels"):
        choose(losses, ["x", "y"])
    with pytest.raises(ValueError, match="not a number"):
        choose([[float("nan"), 1.0]], ["x", "y"])


def test_lists_must_belong_together():
    with pytest.raises(ValueError, match="2 gold examples but 1 predictions"):
        micro_f1([set(), set()], [set()])


def test_episodes_are_averaged_with_population_deviation():
    assert mean_std([1.0, 3.0]) == (2.0, 1.0)
