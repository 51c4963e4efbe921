"""Records are sets in nature, and refuse what cannot be."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import (
    DstExample,
    JointExample,
    NerExample,
    Relation,
    SlotValue,
    Span,
    SrlExample,
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


@pytest.mark.parametrize("tokens", ["Ann left", ["Ann", 1]])
def test_tokens_are_texts(tokens):
    with pytest.raises(TypeError, match="give a sequence of texts"):
        NerExample(tokens)
