"""What no prediction could be right for is refused before anything is predicted."""

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
    evaluate,
)

HEAD, TAIL = Span(0, 1, "PER"), Span(1, 2, "PER")
NER = NerTask(["PER"])
CASES = {
    "texts": (NER, ["Ann met Bo ."], TypeError, "example 0 is a str, 'Ann met Bo .': give NerExample records with"),
    "tokens": (NER, [["Ann", "left"]], TypeError, "example 0 is a list"),
    "one text": (NER, "Ann met Bo .", TypeError, "examples='Ann met Bo .': give a list of NerExample"),
    "another record": (NER, [SrlExample(("a",), Span(0, 1))], TypeError, "example 0 is a SrlExample"),
    "ner": (
        NER,
        [NerExample(("Ann",), (HEAD,)), NerExample(("Rome",), (Span(0, 1, "LOC"),), "x7")],
        ValueError,
        r"example 1 \('x7'\): unknown entity type 'LOC'; this task knows 'PER'\. No prediction could be right",
    ),
    "no entity type": (
        NER,
        [NerExample(("Ann",), (Span(0, 1),))],
        ValueError,
        "the entity type is missing: the label is",
    ),
    "joint": (
        JointTask(["PER"], ["knows"]),
        [JointExample(("a", "b"), (HEAD, TAIL), (Relation(HEAD, TAIL, "hates"),))],
        ValueError,
        "example 0: unknown relation 'hates'",
    ),
    "relation": (
        RelationTask(["knows"]),
        [RelationExample(("a", "b"), HEAD, TAIL, "hates")],
        ValueError,
        "unknown relation 'hates'",
    ),
    "no relation": (RelationTask(["knows"]), [RelationExample(("a", "b"), HEAD, TAIL)], ValueError, "has no label"),
    "srl": (
        SrlTask(["ARG0"]),
        [SrlExample(("a", "b"), Span(0, 1), (Span(1, 2, "ARG9"),))],
        ValueError,
        "unknown role 'ARG9'",
    ),
    "dst": (
        DstTask({"hotel": ["area"]}),
        [DstExample((), (SlotValue("hotel", "stars", "4"),))],
        ValueError,
        "unknown slot 'stars' of domain 'hotel'",
    ),
}


class NoModel:
    """Fails the test if anything is asked of it."""

    def __getattr__(self, name: str) -> None:
        pytest.fail(f"the model was asked for its {name}")


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_predicted_for_examples_that_cannot_be_scored(case):
    task, examples, error, match = CASES[case]
    with pytest.raises(error, match=match):
        evaluate(NoModel(), NoModel(), task, examples)


def test_a_span_without_a_label_has_no_tag():
    with pytest.raises(ValueError, match="the entity type is missing"):
        NER.encode(NerExample(("Ann",), (Span(0, 1),)))
