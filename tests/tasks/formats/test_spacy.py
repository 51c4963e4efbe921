"""DocBins, made by spaCy itself."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import Document, Span, read, read_spacy, write

from ..files import refused

spacy = pytest.importorskip("spacy")


def save(path, *docs):
    spacy.tokens.DocBin(docs=docs).to_disk(path)
    return path


def test_entities(tmp_path):
    doc = spacy.blank("en")("Mia doesn't like  😀 Oslo.")
    doc.ents = [doc.char_span(0, 3, label="PER"), doc.char_span(20, 24, label="LOC")]
    path = save(tmp_path / "train.spacy", doc)
    (document,) = read_spacy(path)
    assert document == Document(doc.text, (Span(0, 3, "PER"), Span(20, 24, "LOC")))
    assert document.to_example().tokens == ("Mia", "does", "n't", "like", "😀", "Oslo", ".")
    assert read(path).format == "spacy"


def test_groups_of_spans(tmp_path):
    doc = spacy.blank("en")("Bank of Oslo")
    doc.spans["sc"] = [doc[0:3], doc[2:3]]
    doc.spans["sc"] = [spacy.tokens.Span(doc, 0, 3, "ORG"), spacy.tokens.Span(doc, 2, 3, "LOC")]
    doc.spans["errors"] = [spacy.tokens.Span(doc, 1, 2, "X")]
    path = save(tmp_path / "train.spacy", doc)
    with pytest.warns(UserWarning, match="annotation_left_out .*'errors'"):
        (document,) = read_spacy(path)
    assert document.spans == (Span(0, 12, "ORG"), Span(8, 12, "LOC"))
    with pytest.warns(UserWarning, match="'sc'"):
        assert read_spacy(path, spans_key="errors")[0].spans == (Span(5, 7, "X"),)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.spacy"
    path.write_bytes(b"\x78\x9c nothing of the kind")
    refused(read_spacy, path, "a DocBin of spaCy")


def test_written_files_are_those_that_spacy_trains_from(tmp_path):
    document = Document("In  Oslo\n(north).", (Span(4, 8, "LOC"), Span(10, 15, "DIR")))
    write(tmp_path / "train.spacy", [document], format="spacy")
    (doc,) = spacy.tokens.DocBin().from_disk(tmp_path / "train.spacy").get_docs(spacy.blank("en").vocab)
    assert doc.text == document.text
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("Oslo", "LOC"), ("north", "DIR")]
