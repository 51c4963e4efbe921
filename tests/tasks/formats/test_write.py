"""What is written is read back equal, whatever the texts and spans are, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    Document,
    JointExample,
    NerExample,
    NerTask,
    Relation,
    Span,
    read,
    read_conll,
    read_doccano,
    to_document,
    to_examples,
)
from peft_fishdip.tasks import write as write_documents
from peft_fishdip.tasks.formats.write import FORMATS

MIA, ACME = Span(0, 3, "PER"), Span(13, 17, "ORG")
DOCUMENT = Document("Mia works at Acme.", (MIA, ACME), (Relation(MIA, ACME, "works_for"),), "d1")
TOKENS = ("conll", "gliner")


def available(name):
    return name != "spacy" or pytest.importorskip("spacy")


@st.composite
def documents(draw, alphabet="aB1 .\n\t'é\u0301😀中|=#\"\\\u2028\x85\xa0\u200b👍🏽"):
    text = draw(st.text(alphabet=alphabet, max_size=20))
    words = [place for place, character in enumerate(text) if not character.isspace()]
    spans = []
    for _ in range(draw(st.integers(0, 3)) if words else 0):
        start, last = sorted(draw(st.tuples(st.sampled_from(words), st.sampled_from(words))))
        spans.append(Span(start, last + 1, draw(st.sampled_from(["PER", "geo-pol", "ü_1"]))))
    ends = st.sampled_from(spans)
    relations = (
        draw(st.lists(st.builds(Relation, ends, ends, st.sampled_from(["r", "of"])), max_size=3)) if spans else []
    )
    return Document(text, tuple(spans), tuple(relations))


def read_back(path, name):
    options = {"unit": "utf-16"} if name == "doccano" else {}
    return read(path, format=name, **options)


@pytest.mark.filterwarnings("ignore:.*no entity in any:UserWarning")
@pytest.mark.parametrize("name", ["brat", "doccano", "label_studio", "prodigy"])
@settings(max_examples=40, deadline=None)
@given(given_documents=st.lists(documents(), min_size=1, max_size=3))
def test_everything_comes_back(tmp_path_factory, name, given_documents):
    path = tmp_path_factory.mktemp("out") / "data"
    write_documents(path, given_documents, format=name)
    assert list(read_back(path, name).documents) == given_documents


@pytest.mark.filterwarnings("ignore:.*no entity in any:UserWarning")
@pytest.mark.parametrize("name", ["gliner", "spacy"])
@settings(max_examples=40, deadline=None)
@given(given_documents=st.lists(documents(), min_size=1, max_size=3))
def test_spans_come_back(tmp_path_factory, name, given_documents):
    available(name)
    given_documents = [dataclasses.replace(document, relations=()) for document in given_documents]
    path = tmp_path_factory.mktemp("out") / "data"
    write_documents(path, given_documents, format=name)
    loaded = read_back(path, name)
    assert loaded.examples == to_examples(given_documents)
    assert name in TOKENS or list(loaded.documents) == given_documents


@pytest.mark.filterwarnings("ignore:.*no entity in any:UserWarning")
@pytest.mark.parametrize("name", ["conll", "pubtator"])
@settings(max_examples=40, deadline=None)
@given(given_documents=st.lists(documents(alphabet="aB1. 'é😀中|=#\"\u2028\xa0"), min_size=1, max_size=3))
def test_flat_spans_of_one_line_come_back(tmp_path_factory, name, given_documents):
    flat = []
    for document in given_documents:
        spans = []
        for span in document.spans:
            spans += [span] if not spans or spans[-1].end <= span.start else []
        flat.append(Document(f"x{document.text}x", tuple(Span(s.start + 1, s.end + 1, s.label) for s in spans)))
    path = tmp_path_factory.mktemp("out") / "data"
    write_documents(path, flat, format=name)
    assert read_back(path, name).examples == to_examples(flat)


@pytest.mark.parametrize("name", FORMATS)
def test_files_are_recognised_and_keep_ids(tmp_path, name):
    available(name)
    document = DOCUMENT if FORMATS[name].relations else dataclasses.replace(DOCUMENT, relations=())
    write_documents(tmp_path / "data", [document], format=name)
    loaded = read(tmp_path / "data")
    assert loaded.format == name
    assert loaded.examples == to_examples([document])
    assert name in TOKENS or loaded.examples[0].id == "d1"
    assert os.listdir(tmp_path) == ["data"]


def test_labels_of_several_words_are_recognised(tmp_path):
    for name in sorted({*FORMATS} - {"brat", "spacy"}):
        write_documents(tmp_path / name, [Document("12 left.", (Span(0, 2, "full name"),))], format=name)
        loaded = read(tmp_path / name)
        assert (loaded.format, [span.label for span in loaded.examples[0].spans]) == (name, ["full name"])


def test_offsets_may_be_numbers_of_numpy(tmp_path):
    document = Document("Mia left", (Span(np.int64(0), np.int32(3), "PER"),))
    assert type(document.spans[0].start) is int
    for name in sorted({*FORMATS} - {"spacy"}):
        write_documents(tmp_path / name, [document], format=name)
        assert read_back(tmp_path / name, name).examples == to_examples([document])


def test_nothing_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no document, and the format 'brat' has no file without one"):
        write_documents(tmp_path / "new", [], format="brat")
    assert not os.listdir(tmp_path)


def test_a_span_on_a_blank_token_is_named(tmp_path):
    for record, name in (
        (NerExample(("", "b"), (Span(0, 1, "X"),), "train:7"), "the record 'train:7'"),
        (NerExample(("a", " "), (Span(0, 2, "X"),)), "NerExample"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*: a span begins or ends at token ., ' ?', which is blank"):
            write_documents(tmp_path / "data", [record], format="doccano")


def test_records_of_tokens_can_be_written(tmp_path):
    example = JointExample(("Mia", "'s", "Acme"), (Span(0, 1, "P"), Span(2, 3, "O")), ())
    write_documents(tmp_path / "a.jsonl", [example, NerExample(("Hi",))], format="doccano")
    assert [d.text for d in read_doccano(tmp_path / "a.jsonl")] == ["Mia 's Acme", "Hi"]
    write_documents(tmp_path / "a.conll", [example], format="conll")
    assert (tmp_path / "a.conll").read_text() == "Mia\tB-P\n's\tO\nAcme\tB-O\n\n"
    assert read_conll(tmp_path / "a.conll", scheme="bio") == [NerExample(example.tokens, example.spans)]
    assert to_document(example).to_example() == example
    decoded = NerTask(["P", "O"]).decode("Mia met Bo.", "[ Mia | P ] met [ Bo | P ] .")
    write_documents(tmp_path / "b.jsonl", [decoded], format="prodigy")
    assert read(tmp_path / "b.jsonl").documents == (Document("Mia met Bo.", (Span(0, 3, "P"), Span(8, 10, "P"))),)
    with pytest.raises(TypeError, match="Document, NerExample or JointExample expected, got str"):
        write_documents(tmp_path / "b", ["Mia"], format="doccano")


def test_label_studio_reads_predictions_as_such(tmp_path):
    options = {"predictions": True, "model_version": "t5", "from_name": "ner", "to_name": "body", "text": "body"}
    write_documents(tmp_path / "tasks.json", [DOCUMENT], format="label_studio", **options)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"body": "Mia works at Acme.", "ref_id": "d1"}
    assert "annotations" not in task
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "t5"
    value = {"start": 0, "end": 3, "text": "Mia", "labels": ["PER"]}
    assert prediction["result"][0] == {
        "id": "s0",
        "from_name": "ner",
        "to_name": "body",
        "type": "labels",
        "value": value,
    }
    assert read(tmp_path / "tasks.json", predictions=True).documents == (DOCUMENT,)


def test_prodigy_has_tokens(tmp_path):
    write_documents(tmp_path / "a.jsonl", [DOCUMENT], format="prodigy")
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert [(t["text"], t["start"], t["ws"]) for t in row["tokens"]] == [
        ("Mia", 0, True),
        ("works", 4, True),
        ("at", 10, True),
        ("Acme", 13, False),
        (".", 17, False),
    ]
    assert row["spans"][1] == {"start": 13, "end": 17, "token_start": 3, "token_end": 3, "label": "ORG"}
    assert (row["relations"][0]["head"], row["relations"][0]["child"]) == (0, 3)


def test_offsets_that_doccano_shows(tmp_path):
    document = Document("😀 Oslo", (Span(2, 6, "LOC"),))
    for unit, expected in (("utf-16", [3, 7, "LOC"]), ("characters", [2, 6, "LOC"])):
        write_documents(tmp_path / "a.jsonl", [document], format="doccano", unit=unit)
        assert json.loads((tmp_path / "a.jsonl").read_text())["label"] == [expected]


def test_brat_cannot_leave_its_folder(tmp_path):
    document = dataclasses.replace(DOCUMENT, id="../../a b/ü")
    write_documents(tmp_path / "out", [document], format="brat")
    assert sorted(os.listdir(tmp_path / "out")) == ["..%2F..%2Fa b%2F%C3%BC.ann", "..%2F..%2Fa b%2F%C3%BC.txt"]
    assert read(tmp_path / "out").examples[0].id == document.id
    with pytest.raises(FileExistsError, match="is no empty folder"):
        write_documents(tmp_path / "out", [document], format="brat")


NESTED = Document("Bank of Oslo", (Span(0, 12, "ORG"), Span(8, 12, "LOC")), (), "n")


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("gliner", DOCUMENT, "document 'd1' has relations, which the format 'gliner' cannot hold"),
        ("conll", DOCUMENT, "document 'd1' has relations"),
        ("pubtator", DOCUMENT, "document 'd1' has relations"),
        ("conll", NESTED, "document 'n': .* overlap, which the format 'conll' cannot hold"),
        ("conll", Document("  "), "document 0 has no token"),
        ("conll", Document("-DOCSTART-x", (), (), "", ((0, 11),)), "document 0 cannot be written"),
        ("conll", Document("a b", (), (), "", ((0, 3),)), "the token 'a b' .* cannot stand in a column"),
        ("conll", Document("a", (Span(0, 1, "x|y"),)), r"the tag 'B-x\|y' cannot stand"),
        ("pubtator", Document("a\nb\nc"), "has 2 line breaks, and PubTator holds one"),
        ("pubtator", Document("a\nb", (Span(0, 3, "X"),)), "begins in the title and ends in the abstract"),
        ("pubtator", Document("a", (), (), "x|y"), r"the id 'x\|y'"),
        ("pubtator", Document("a", (Span(0, 1, "x\ty"),)), "the label"),
        ("brat", Document("a", (Span(0, 1, "x y"),)), "the label 'x y' holds white space"),
        ("brat", Document("a\0b"), "zero bytes"),
        ("doccano", Document("a\ud800"), "single surrogates|surrogates not allowed"),
        ("word", DOCUMENT, "format='word': choose one of brat, conll"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, document, message):
    path = tmp_path / "data"
    if name != "brat":
        path.write_text("the file of before", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        write_documents(path, [document], format=name)
    assert os.listdir(tmp_path) == ([] if name == "brat" else ["data"])
    assert name == "brat" or path.read_text(encoding="utf-8") == "the file of before"


def test_ids_of_files_differ(tmp_path):
    with pytest.raises(ValueError, match="two documents have the id 'd1'"):
        write_documents(tmp_path / "data", [DOCUMENT, DOCUMENT], format="doccano")
    with pytest.raises(ValueError, match="cannot name a file"):
        write_documents(tmp_path / "data", [dataclasses.replace(DOCUMENT, id="x" * 201)], format="brat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Mia", (Span(0, 4, "P"),)), "ends after the last of the 3 characters"),
        (("Mia ", (Span(0, 4, "P"),)), "begins or ends with white space"),
        (("Mia", (), (Relation(Span(0, 1), Span(1, 2), "r"),)), "not among the spans"),
        (("Mia", (), (), "", ((0, 2),)), "no token holds 'a' at 2"),
        (("Mia", (), (), "", ((0, 2), (1, 3))), r"\(1, 3\) needs 2 <= start"),
        (("Mia", (), (), "", ((0, 4),)), "<= 3"),
    ],
)
def test_documents_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Document(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Document(None), "text=None: give the raw text"),
        (lambda: Document("Ann", [(0, 3, "PER")]), r"write Span\(0, 3, 'PER'\); positions are those of characters"),
        (lambda: Document("Ann", [{"start": 0, "end": 3}]), r"is a dict; write Span\(start=0, end=3\); positions are"),
        (lambda: Document("Ann", 5), "spans=5: give a sequence of Span"),
        (lambda: Document("Ann", (), [("a", "b")]), r"relations: \('a', 'b'\) is a tuple; write Relation\('a', 'b'\)"),
        (lambda: to_examples(DOCUMENT), r"documents=Document\(.*: give a list of Document"),
        (lambda: to_examples([NerExample(["a"])]), r"documents\[0\]=NerExample\(.*: must be a Document"),
        (lambda: write_documents("x", DOCUMENT, format="brat"), r"documents=Document\(.*: give a list of documents"),
    ],
)
def test_values_of_other_types_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_kinds_of_examples():
    plain = dataclasses.replace(DOCUMENT, relations=())
    assert [type(x) for x in to_examples([DOCUMENT, plain])] == [JointExample] * 2
    assert [type(x) for x in to_examples([plain])] == [NerExample]
    assert [type(x) for x in to_examples([plain], JointExample)] == [JointExample]
    assert [type(x) for x in to_examples([DOCUMENT], NerExample)] == [NerExample]
