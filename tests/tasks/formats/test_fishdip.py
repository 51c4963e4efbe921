"""The JSON lines that predictions are written in: what is written is read back, with scores and problems."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    Decoded,
    Document,
    DstExample,
    DstTask,
    JointTask,
    NerExample,
    NerTask,
    Problem,
    Relation,
    RelationTask,
    Span,
    SrlTask,
    read,
    read_fishdip,
    read_prodigy,
    to_dict,
    to_document,
    write_json_lines,
)
from peft_fishdip.tasks import write as write_documents

from ..files import refused
from .test_write import documents

TEXT = "😀 Mia of Acme"
MIA, ACME = Span(2, 5, "P"), Span(9, 13, "O")
WORKS = Relation(MIA, ACME, "works for")
JOINT = JointTask(["P", "O"], ["works for"])
DECODED = replace(JOINT.decode(TEXT, "😀 [ Mia | P | works for = Acme ] of [ Acme | O ] it"), scores=(0.5, 0.25, 1.0))
ITEM = {
    "text": TEXT,
    "spans": [
        {"start": 9, "end": 13, "text": "Acme", "label": "O", "score": 0.25},
        {"start": 2, "end": 5, "text": "Mia", "label": "P"},
    ],
    "relations": [{"head": 1, "tail": 0, "label": "works for", "score": 1}],
    "id": "d1",
    "generated_text": "x",
    "problems": [{"kind": "output_cut", "message": "too long"}],
}


def changed(**values):
    return json.dumps(ITEM | values)


def spans(**values):
    return changed(spans=[ITEM["spans"][0] | values, ITEM["spans"][1]])


def test_predictions_come_back(tmp_path):
    path = tmp_path / "found.jsonl"
    nothing = NerTask(["P"]).decode("Nobody left.", "Nobody left.")
    write_json_lines(path, [DECODED, nothing])
    loaded = read(path)
    assert loaded.format == "fishdip"
    first, second = loaded.documents
    assert (first.text, first.spans, first.relations) == (TEXT, (MIA, ACME), (WORKS,))
    assert first.scores == {MIA: 0.5, ACME: 0.25, WORKS: 1.0}
    assert first.generated_text == DECODED.text
    assert first.problems == DECODED.problems
    assert [problem.kind for problem in first.problems] == ["wrong_reconstruction"]
    assert (first.id, second.id) == ("found.jsonl:0", "found.jsonl:1")
    assert (second.text, second.spans, second.problems) == ("Nobody left.", (), ())
    assert loaded.examples[0].text == TEXT


def test_a_prediction_is_the_same_by_both_ways(tmp_path):
    expected = to_dict(DECODED)
    assert to_dict(to_document(DECODED)) == expected
    write_documents(tmp_path / "a.jsonl", [DECODED], format="fishdip")
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == expected


def test_the_file_by_hand(write):
    (document,) = read_fishdip(write(json.dumps(ITEM)))
    assert document == Document(TEXT, (MIA, ACME), (WORKS,))
    assert document.scores == {ACME: 0.25, WORKS: 1.0}
    assert (document.id, document.generated_text) == ("d1", "x")
    assert document.problems == (Problem("output_cut", "too long"),)


def test_records_of_other_lengths_have_no_scores():
    assert to_document(Decoded(NerExample(["a"], [Span(0, 1, "P")]), (), "", (0.5, 0.5))).scores == {}


@st.composite
def predictions(draw):
    document = draw(documents())
    answers = [*document.spans, *document.relations]
    scores = {x: draw(st.floats(0, 1)) for x in answers if draw(st.booleans())}
    problem = st.builds(Problem, st.sampled_from(["output_cut", "trimmed_span"]), st.text("a\u2028'<😀", max_size=3))
    problems = tuple(draw(st.lists(problem, max_size=2)))
    metadata = draw(st.dictionaries(st.sampled_from(["file", "é"]), st.sampled_from(["a", 0.5, None, [1], {"b": 2}])))
    generated = draw(st.sampled_from(["", "[ a"]))
    return replace(document, scores=scores, problems=problems, generated_text=generated, metadata=metadata)


@pytest.mark.filterwarnings("ignore:.*no entity in any:UserWarning")
@pytest.mark.parametrize("unit", ["characters", "utf-16", "utf-8", "graphemes"])
@settings(max_examples=30, deadline=None)
@given(given_documents=st.lists(predictions(), min_size=1, max_size=3))
def test_everything_comes_back(tmp_path_factory, unit, given_documents):
    path = tmp_path_factory.mktemp("out") / "a.jsonl"
    if unit == "graphemes":  # where a span may end inside one
        given_documents = [d for d in given_documents if not {"\u0301", "🏽"} & {*d.text}]
    write_documents(path, given_documents, format="fishdip", unit=unit)
    found = read_fishdip(path, unit=unit)
    assert found == given_documents
    for name in ("scores", "problems", "generated_text", "metadata"):
        assert [getattr(x, name) for x in found] == [getattr(x, name) for x in given_documents], name


def test_units_are_told_by_the_words(write):
    in_utf16 = [{"start": 3, "end": 6, "text": "Mia", "label": "P"}]
    (document,) = read_fishdip(write(changed(spans=in_utf16, relations=[])))
    assert document.spans == (MIA,)
    assert [problem.kind for problem in document.problems] == ["output_cut", "offsets_converted"]
    (document,) = read_fishdip(write(changed(spans=in_utf16, relations=[])), unit="utf-16")
    assert document.spans == (MIA,)
    silent = [{"start": 3, "end": 6, "label": "P"}]
    assert read_fishdip(write(changed(spans=silent, relations=[])), unit="utf-16")[0].spans == (MIA,)
    refused(read_fishdip, write(changed(spans=in_utf16, relations=[])), "line 1", "characters", unit="characters")
    with pytest.raises(ValueError, match="unit='bytes': choose one of"):
        read_fishdip(write(json.dumps(ITEM)), unit="bytes")


def test_what_others_write_is_still_theirs(write):
    prodigy = {"text": "Mia", "spans": [{"start": 0, "end": 3, "label": "P"}]}
    for more in ({}, {"_task_hash": 1, "id": 5}, {"answer": "accept", "id": 5}, {"meta": {"id": 5}, "id": 5}):
        assert read(write(json.dumps(prodigy | more))).format == "prodigy"
    assert read(write(json.dumps(prodigy | {"id": "5"}))).format == "fishdip"
    assert read_prodigy(write(json.dumps(prodigy)))[0].spans == (Span(0, 3, "P"),)


def test_texts_of_several_files_may_have_ids_in_common(write):
    rows = [ITEM | {"file": name, "id": id, "confidence": 0.5} for name, id in (("a", "1"), ("b", "1"), ("b", "2"))]
    found = read_fishdip(write("\n".join(map(json.dumps, rows))))
    assert [document.id for document in found] == ["a:1", "b:1", "b:2"]
    assert found[0].metadata == {"file": "a", "confidence": 0.5}
    assert [document.id for document in read_fishdip(write("\n".join(map(json.dumps, rows[1:]))))] == ["1", "2"]
    same = write("\n".join(map(json.dumps, [rows[1], rows[1]])))
    refused(read_fishdip, same, "an id that no other record of the file has", "'b:1'")


def test_trimmed_spans_keep_their_scores(write):
    both = [{"start": 2, "end": 6, "label": "P", "score": 0.5}, {"start": 2, "end": 5, "label": "P", "score": 0.75}]
    (document,) = read_fishdip(write(changed(spans=both, relations=[])))
    assert document.scores == {MIA: 0.75}
    assert [problem.kind for problem in document.problems] == ["output_cut", "trimmed_span"]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (changed(spans=5), ["line 1", "list", "5"]),
        (changed(text=None), ["line 1", "str", "None"]),
        (spans(start=True), ["line 1", "a whole number", "True"]),
        (spans(end=99), ["line 1", "0 <= start < end <= 13", "99"]),
        (spans(text="Acma"), ["line 1", "the words 'Acme' that stand at 9 to 13", "'Acma'"]),
        (spans(text=1), ["line 1", "str", "1"]),
        (spans(label=" "), ["line 1", "a label that is not empty"]),
        (spans(score=1.5), ["line 1", "a number from 0 to 1", "1.5"]),
        (spans(score=True), ["line 1", "a number from 0 to 1", "True"]),
        (spans(score="1"), ["line 1", "a number from 0 to 1", "'1'"]),
        (spans(score=float("nan")), ["line 1", "a number from 0 to 1", "nan"]),
        (changed(spans=[ITEM["spans"][1]] * 2), ["line 1", "each span once"]),
        (changed(relations=ITEM["relations"] * 2), ["line 1", "each relation once"]),
        (changed(relations=[{"head": 2, "tail": 0, "label": "r"}]), ["line 1", "head and tail from 0 to 1"]),
        (changed(relations=[{"head": -1, "tail": 0, "label": "r"}]), ["line 1", "head and tail from 0 to 1"]),
        (changed(relations=[{"head": 1, "tail": 0, "label": ""}]), ["line 1", "a label of a relation"]),
        (changed(relations=[5]), ["line 1", "an object with the key 'head'", "5"]),
        (changed(problems=["cut"]), ["line 1", "an object with the key 'kind'", "'cut'"]),
        (changed(problems=[{"kind": "cut"}]), ["line 1", "str", "'message'"]),
        (changed(generated_text=None), ["line 1", "str", "None"]),
        (changed(id=[1]), ["line 1", "as id", "[1]"]),
        ("5", ["line 1", "an object", "5"]),
        (json.dumps(ITEM) + "\n" + json.dumps(ITEM), ["an id that no other", "'d1'"]),
        (json.dumps(ITEM) + "\n{", ["line 2", "JSON"]),
    ],
)
def test_what_is_wrong_is_named(write, line, parts):
    refused(read_fishdip, write(line), *parts)


@pytest.mark.parametrize(
    ("prediction", "what"),
    [
        (SrlTask(["A0"]).decode("Ann [ sold ] it", "[ Ann | A0 ] sold it"), "semantic roles"),
        (
            RelationTask(["author"]).decode("[ Dusk ] by [ Ann Lee ]", "= author"),
            "the relation of one pair of entities",
        ),
        (DstTask({"d": ["s"]}).decode(DstExample(()), "[belief] d s v [belief]"), "dialogue states"),
    ],
)
def test_predictions_of_other_tasks_are_refused_by_name(tmp_path, prediction, what):
    write_json_lines(tmp_path / "a.jsonl", [prediction])
    refused(read, tmp_path / "a.jsonl", "line 1", f"spans of entities; predictions of {what}")


@pytest.mark.parametrize(
    ("scores", "message"),
    [({ACME: 0.5}, "neither among the spans"), ({MIA: 1.5}, "has 1.5; a score is"), ({MIA: float("nan")}, "has nan")],
)
def test_scores_are_checked(scores, message):
    with pytest.raises(ValueError, match=message):
        Document(TEXT, (MIA,), scores=scores)
