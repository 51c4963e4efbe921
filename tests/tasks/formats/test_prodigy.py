"""Prodigy's JSON lines."""

from __future__ import annotations

import json

import pytest

from peft_fishdip.tasks import Relation, Span, read_prodigy

from ..files import refused

MIA, ACME = Span(0, 3, "PER"), Span(13, 21, "ORG")
LINE = """{"text": "Mia works at Acme Ltd.\\n", "_input_hash": 1, "_task_hash": 2, "_view_id": "relations",
"tokens": [{"text": "Mia", "start": 0, "end": 3, "id": 0, "ws": true},
 {"text": "works", "start": 4, "end": 9, "id": 1, "ws": true},
 {"text": "at", "start": 10, "end": 12, "id": 2, "ws": true},
 {"text": "Acme", "start": 13, "end": 17, "id": 3, "ws": true},
 {"text": "Ltd.", "start": 18, "end": 22, "id": 4, "ws": false},
 {"text": "\\n", "start": 22, "end": 23, "id": 5, "ws": false, "disabled": true}],
"spans": [{"start": 0, "end": 3, "token_start": 0, "token_end": 0, "label": "PER", "type": "span"},
 {"start": 13, "end": 21, "token_start": 3, "token_end": 4, "label": "ORG"}],
"relations": [{"head": 0, "child": 4, "label": "works_for", "color": "#ffd882",
 "head_span": {"start": 0, "end": 3, "token_start": 0, "token_end": 0, "label": "PER"},
 "child_span": {"start": 13, "end": 21, "token_start": 3, "token_end": 4, "label": "ORG"}}], "answer": "accept"}
"""
ITEM = json.loads(LINE)
RELATION = ITEM["relations"][0]


def changed(**values):
    return json.dumps(ITEM | values)


def test_spans_tokens_and_relations(write):
    (document,) = read_prodigy(write(LINE))
    assert (document.text, document.id) == ("Mia works at Acme Ltd.\n", "data.txt:0")
    assert document.spans == (MIA, ACME)
    assert document.relations == (Relation(MIA, ACME, "works_for"),)
    # the span ends inside the token "Ltd.", which is split there; the line break is no token
    assert document.to_example().tokens == ("Mia", "works", "at", "Acme", "Ltd", ".")


def test_relations_name_the_last_token_where_there_are_no_spans_with_them(write):
    bare = {"head": 4, "child": 0, "label": "employs"}
    path = write(changed(relations=[bare], spans=[*ITEM["spans"][:1], {"start": 13, "end": 22, "label": "ORG"}]))
    assert read_prodigy(path)[0].relations == (Relation(Span(13, 22, "ORG"), MIA, "employs"),)


def test_relations_of_tokens_that_are_no_spans_are_left_out(write):
    bare = {"head": 1, "child": 0, "label": "nsubj"}
    with pytest.warns(UserWarning, match="1 x relation_of_lost_span .*nsubj from token 1 to 0"):
        (document,) = read_prodigy(write(changed(relations=[bare])))
    assert (document.relations, document.spans) == ((), (MIA, ACME))


def test_a_text_with_spans_alone(write):
    path = write('{"text": "Mia left", "spans": [{"start": 0, "end": 3, "label": "PER"}], "meta": {"id": 12}}\n')
    assert [(d.id, d.spans, d.token_ranges) for d in read_prodigy(path)] == [("12", (MIA,), None)]


def test_sentences_of_one_text_share_its_id(write):
    ids = [7, "a", 7, "7:0", None, "", 7]
    rows = [{"text": "Mia", "spans": ITEM["spans"][:1], "meta": {"id": id}} for id in ids]
    found = [document.id for document in read_prodigy(write("\n".join(map(json.dumps, rows))))]
    assert found == ["7:1", "a", "7:2", "7:0", "data.txt:4", "data.txt:5", "7:3"]


def test_rejected_and_ignored_examples_are_left_out(write):
    path = write(LINE + changed(answer="reject") + "\n" + changed(answer="ignore"))
    with pytest.warns(UserWarning, match="2 records left out, whose answer is not 'accept'"):
        assert len(read_prodigy(path)) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (changed(spans=[{"start": 0, "end": 99, "label": "X"}], relations=[]), ["line 1", "<= 23", "99"]),
        (changed(spans=[{"start": 0, "end": 3}]), ["line 1", "'label'"]),
        (changed(text="Max works at Acme Ltd.\n"), ["line 1", "token 0 to be 'Max'"]),
        (changed(tokens=ITEM["tokens"][:3]), ["line 1", "tokens that hold the whole text", "Acme Ltd."]),
        (changed(relations=[{"head": 9, "child": 0, "label": "x"}]), ["line 1", "a token below 6", "9"]),
        (changed(relations=[RELATION | {"label": None}]), ["line 1", "'label'"]),
        (changed(relations=[RELATION | {"head_span": 3}]), ["line 1", "'head_span'"]),
        ('{"spans": []}', ["line 1", "'text'"]),
        ("[5]", ["item 0", "'text'"]),
    ],
)
def test_what_is_wrong_is_named(write, text, parts):
    refused(read_prodigy, write(text), *parts)
