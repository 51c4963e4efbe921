"""Records are sets in nature, and refuse what cannot be."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import (
    DstExample,
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    Relation,
    RelationExample,
    RelationTask,
    SlotValue,
    Span,
    SrlExample,
    SrlTask,
    Turn,
)


def test_order_duplicates_and_ids_do_not_count():
    a, b = Span(0, 2, "X"), Span(0, 1, "Y")
    assert NerExample(["u", "v"], [b, a, b], "1") == NerExample(("u", "v"), (a, b), "2")
    assert NerExample(("u", "v"), (b, a)).spans == (a, b)
    relations = (Relation(a, b, "r"), Relation(b, a, "r"))
    assert JointExample(("u", "v"), (a, b), relations) == JointExample(("u", "v"), (b, a), relations[::-1])
    assert Span(1, 3).text(("u", "v", "w")) == "v w"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Span(2, 2), r"Span\(start=2, end=2\): needs 0 <= start < end"),
        (lambda: Span(-1, 2), "needs 0 <= start"),
        (lambda: NerExample(("a",), (Span(0, 2),)), "ends after the last of the 1 tokens"),
        (lambda: SrlExample(("a",), Span(1, 2)), "predicate .* ends after"),
        (
            lambda: JointExample(("a",), (), (Relation(Span(0, 1), Span(0, 1), "r"),)),
            "not among the entities",
        ),
        (lambda: Turn("system", "hi"), "speaker='system'"),
        (
            lambda: DstExample((), (SlotValue("d", "s", "1"), SlotValue("d", "s", "2"))),
            "two values, '1' and '2'",
        ),
    ],
)
def test_impossible_records_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: NerExample(("a",), ((0, 1, "A"),)),
            r"spans: \(0, 1, 'A'\) is a tuple; write Span\(0, 1, 'A'\); .*tokens",
        ),
        (lambda: NerExample(("a",), [{"start": 0, "end": 1}]), r"is a dict; write Span\(start=0, end=1\)"),
        (lambda: NerExample(("a",), None), "spans=None: give a sequence of Span"),
        (lambda: NerExample(("a",), Span(0, 1)), r"spans=Span\(.*\): give a sequence of Span"),
        (lambda: JointExample(("a",), [(0, 1)]), r"spans: \(0, 1\) is a tuple"),
        (
            lambda: JointExample(("a",), (), [("a", "b", "r")]),
            r"relations: \('a', 'b', 'r'\) is a tuple; write Relation",
        ),
        (lambda: Relation((0, 1), Span(1, 2), "r"), r"head and tail: \(0, 1\) is a tuple; write Span\(0, 1\)"),
        (lambda: RelationExample(("a", "b"), (0, 1), Span(1, 2)), r"head and tail: \(0, 1\) is a tuple"),
        (lambda: SrlExample(("a",), (0, 1)), r"predicate: \(0, 1\) is a tuple; write Span\(0, 1\)"),
        (lambda: SrlExample(("a",), Span(0, 1), [(0, 1, "A0")]), r"arguments: \(0, 1, 'A0'\) is a tuple"),
        (lambda: DstExample([("user", "hi")]), r"turns: \('user', 'hi'\) is a tuple; write Turn\('user', 'hi'\)"),
        (lambda: DstExample((), [("a", "b", "c")]), r"state: .* write SlotValue\('a', 'b', 'c'\)"),
        (lambda: Span("a", "b"), r"Span\('a', 'b', ''\): give two token positions and a text"),
        (lambda: Span(0, 1, 5), r"Span\(0, 1, 5\): give two token positions and a text"),
    ],
)
def test_parts_of_another_type_are_refused_with_what_to_write(make, match):
    with pytest.raises(TypeError, match=match):
        make()


def test_tokens_may_come_one_by_one():
    assert NerExample(word for word in ("a", "b")).tokens == ("a", "b")


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: NerTask({}), ValueError, r"entity types=\{\}: there is none, so that nothing could be found"),
        (lambda: NerTask([]), ValueError, r"entity types=\[\]: there is none"),
        (lambda: JointTask([], ["r"]), ValueError, r"entity types=\[\]: there is none"),
        (lambda: JointTask(["A"], {}), ValueError, r"relations=\{\}: there is none"),
        (lambda: SrlTask(()), ValueError, r"roles=\(\): there is none"),
        (lambda: RelationTask([]), ValueError, r"relations=\[\]: there is none"),
        (lambda: DstTask({}), ValueError, r"ontology=\{\}: pass a mapping from each domain to its slots"),
        (lambda: DstTask({"hotel": []}), ValueError, "at least one slot"),
        (lambda: DstTask(["hotel"]), ValueError, "pass a mapping from each domain"),
        (lambda: NerTask(None), TypeError, "entity types: got None; pass a list or a mapping"),
    ],
)
def test_a_task_needs_labels(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("tokens", ["Ann left", ["Ann", 1], 5, None])
def test_tokens_are_texts(tokens):
    with pytest.raises(TypeError, match="give a sequence of texts"):
        NerExample(tokens)
