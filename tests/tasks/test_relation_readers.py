"""TACRED, SemEval-2010 task 8 and OpenNRE."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import RelationExample, RelationTask, Span, read_opennre, read_semeval2010, read_tacred

from .files import refused

TACRED = """[{"id": "e1", "docid": "d", "relation": "per:employee_of",
"token": ["Mia", "Lee", "runs", "Acme", "."], "subj_start": 0, "subj_end": 1, "obj_start": 3, "obj_end": 3,
"subj_type": "PERSON", "obj_type": "ORGANIZATION", "stanford_pos": ["NNP", "NNP", "VBZ", "NNP", "."]}]"""
MIA = RelationExample(
    ("Mia", "Lee", "runs", "Acme", "."), Span(0, 2, "PERSON"), Span(3, 4, "ORGANIZATION"), "per:employee_of"
)


def test_tacred(write):
    (example,) = read_tacred(write(TACRED))
    assert (example, example.id) == (MIA, "e1")
    exclusive = TACRED.replace('"subj_end": 1', '"subj_end": 2').replace('"obj_end": 3', '"obj_end": 4')
    assert read_tacred(write(exclusive), inclusive=False) == [MIA]
    assert RelationTask(["per:employee_of"]).encode(example).target.endswith("= per:employee_of")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('"obj_end": 3', '"obj_end": 5', ["item 0", "obj_end < 5", "(3, 5)"]),
        ('"subj_end": 1', '"subj_end": -1', ["item 0", "subj_start <= subj_end", "(0, -1)"]),
        ('"subj_end": 1', '"subj_end": true', ["item 0", "whole number"]),
        ('"relation": "per:employee_of",', "", ["item 0", "'relation'"]),
        ('"token": ["Mia"', '"token": [5', ["item 0", "list of texts"]),
    ],
)
def test_wrong_tacred_is_named(write, old, new, parts):
    assert old in TACRED
    refused(read_tacred, write(TACRED.replace(old, new)), *parts)


SEMEVAL = """\
1\t"The <e1>fire</e1> was caused by a faulty <e2>heater</e2>."
Cause-Effect(e2,e1)
Comment:

8001\t"<e1>Mia Lee</e1>'s "old" <e2> shop </e2> closed."
Other
Comment: none, really.
"""


def test_semeval(write):
    fire, shop = read_semeval2010(write(SEMEVAL))
    tokens = ("The", "fire", "was", "caused", "by", "a", "faulty", "heater", ".")
    assert (fire, fire.id) == (RelationExample(tokens, Span(1, 2), Span(7, 8), "Cause-Effect(e2,e1)"), "1")
    tokens = ("Mia", "Lee", "'s", '"', "old", '"', "shop", "closed", ".")
    assert (shop, shop.id) == (RelationExample(tokens, Span(0, 2), Span(6, 7), "Other"), "8001")


def test_semeval_without_labels(write):
    lines = [line for line in SEMEVAL.splitlines() if "<e1>" in line]
    with pytest.warns(UserWarning, match="no relation"):
        assert [example.label for example in read_semeval2010(write("\n".join(lines)))] == [None, None]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("</e2>.", ".", ["line 1", "words between <e2> and </e2>"]),
        ("<e2>heater", "<e1>heater", ["line 1", "<e1> once"]),
        ("<e1>fire</e1>", "<e1> </e1>", ["line 1", "<e1>"]),
        ("Cause-Effect(e2,e1)", "Cause Effect", ["line 2", "Cause-Effect(e1,e2)", "'Cause Effect'"]),
        ("1\t", "", ["line 1", "a number"]),
    ],
)
def test_wrong_semeval_is_named(write, old, new, parts):
    refused(read_semeval2010, write(SEMEVAL.replace(old, new, 1)), *parts)


OPENNRE = """\
{"token": ["Mia", "Lee", "runs", "Acme"], "h": {"name": "mia lee", "id": "Q1", "pos": [0, 2]}, \
"t": {"name": "acme", "id": "Q2", "pos": [3, 4]}, "relation": "employer"}
{"text": "Acme's Mia-Lee.", "h": {"pos": [7, 10]}, "t": {"pos": [0, 4]}, "relation": "employer"}
"""


def test_opennre(write):
    assert read_opennre(write(OPENNRE)) == [
        RelationExample(("Mia", "Lee", "runs", "Acme"), Span(0, 2), Span(3, 4), "employer"),
        RelationExample(("Acme", "'s", "Mia", "-Lee", "."), Span(2, 3), Span(0, 1), "employer"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("[3, 4]", "[3, 5]", ["line 1", "<= 4 as 'pos' of 't'", "[3, 5]"]),
        ("[3, 4]", "[3]", ["line 1", "[start, end]", "[3]"]),
        ("[7, 10]", "[6, 7]", ["line 2", "words at the position", "(6, 7)"]),
        ('"text"', '"body"', ["line 2", "'text'"]),
    ],
)
def test_wrong_opennre_is_named(write, old, new, parts):
    refused(read_opennre, write(OPENNRE.replace(old, new, 1)), *parts)
