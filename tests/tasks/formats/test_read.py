"""`read` tells formats by their content."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import logging
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import DataFormatError, NerExample, Span, read, read_conll, to_examples
from peft_fishdip.tasks.formats.read import recognise

from .. import test_relation_readers as relations
from . import test_doccano as doccano
from . import test_gliner as gliner
from . import test_label_studio as label_studio
from . import test_prodigy as prodigy
from . import test_standoff as standoff

TURNS = [{"speaker": "USER", "utterance": "hi", "frames": [{"service": "taxi", "state": {"slot_values": {}}}]}]
STATE = {"taxi": {"semi": {"leaveat": "9:00"}, "book": {}}}
MULTIWOZ = {"1.json": {"log": [{"text": "a taxi at 9:00"}, {"text": "sure", "metadata": STATE}]}}
WOZ = [{"dialogue": [{"system_transcript": "", "transcript": "thai food", "belief_state": []}], "dialogue_idx": 0}]
FEWREL = {"P1": [{"tokens": ["Mia", "left", "Oslo"], "h": ["mia", "Q1", [[0]]], "t": ["oslo", "Q2", [[2]]]}]}
SPERT = [{"tokens": ["Mia"], "entities": [{"type": "P", "start": 0, "end": 1}], "relations": [], "orig_id": 5}]
SCIERC = {"doc_key": "a", "sentences": [["Mia", "left"]], "ner": [[[0, 0, "P"]]], "relations": [[]]}
COLUMNS = "Mia NNP - - (A0*)\nsold VBD sell sell.01 (V*)\nit PRP - - (A1*)\n"


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (doccano.TRIPLES, "doccano"),
        (doccano.OBJECTS, "doccano"),
        ([label_studio.task(*label_studio.REGIONS)], "label_studio"),
        ([{"text": "Mia", "id": 1, "label": [{"start": 0, "end": 3, "labels": ["PER"]}]}], "label_studio"),
        (prodigy.LINE, "prodigy"),
        ('{"text": "Hi"}\n{"text": "Mia", "spans": [{"start": 0, "end": 3, "label": "PER"}]}', "prodigy"),
        (gliner.LIST, "gliner"),
        (standoff.PUBTATOR, "pubtator"),
        (relations.TACRED, "tacred"),
        (relations.SEMEVAL, "semeval2010"),
        (relations.OPENNRE, "opennre"),
        (json.dumps(SCIERC), "ace05"),
        (SPERT, "spert"),
        ([{"tokens": ["Mia", "left"], "ner_tags": ["B-PER", "O"]}], "tagged_json"),
        (FEWREL, "fewrel"),
        (MULTIWOZ, "multiwoz"),
        ("Mia B-PER\n\nleft O\n", "conll"),
        ("# id 1\n[ B-X\n{ O\n", "conll"),
        ("-DOCSTART- -X- O\n\nMia NNP U-PER\n", "conll"),
        (COLUMNS, "srl_columns"),
        ("1 Mia sold it ||| B-A0 B-V B-A1 |||\n", "srl_lines"),
    ],
)
def test_formats_are_recognised(write, content, format, caplog):
    path = write(content, "data")
    caplog.set_level(logging.INFO)
    loaded = read(path)
    assert loaded.format == format
    assert loaded.examples
    assert f"{path}: read {len(loaded.examples)} examples in the format {format}" in caplog.messages
    assert read(path, format=format).examples == loaded.examples
    if loaded.documents:
        assert to_examples(loaded.documents) == loaded.examples


@pytest.mark.parametrize(("content", "format"), [([{"dialogue_id": "1", "turns": TURNS}], "multiwoz"), (WOZ, "woz")])
def test_dialogues_are_recognised(write, content, format):
    with pytest.warns(UserWarning, match="no slot value"):
        assert read(write(content)).format == format


SAMPLES = [
    json.loads(doccano.OBJECTS),
    label_studio.task(*label_studio.REGIONS, label_studio.relation("a", "b", "r")),
    {"text": "Mia", "id": 1, "annotation_id": 2, "label": [{"start": 0, "end": 3, "labels": ["PER"]}]},
    prodigy.ITEM,
    *json.loads(gliner.LIST),
    *json.loads(relations.TACRED),
    *map(json.loads, relations.OPENNRE.splitlines()),
]


def places(value, before=()):
    """Paths of all values inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield (*before, key)
        yield from places(part, (*before, key))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_wrong_values_are_refused_by_name_or_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "wrong.json"
    sample = data.draw(st.sampled_from(SAMPLES))
    format = recognise_record(path, sample)
    changed = copy.deepcopy(sample)
    *before, last = data.draw(st.sampled_from([*places(sample)]))
    inner = functools.reduce(lambda value, key: value[key], before, changed)
    inner[last] = data.draw(st.sampled_from([None, True, -1, 10**20, 1.5, "", "x", "\ud800", [], {}, [[1]], {"id": 1}]))
    path.write_text(json.dumps([changed]), encoding="utf-8")
    outcome = ""
    try:
        outcome = f"{path}: {len(read(path, format=format).examples)}"
    except ValueError as error:
        outcome = str(error)
    assert outcome.startswith(str(path))


def recognise_record(path, sample):
    path.write_text(json.dumps([sample]), encoding="utf-8")
    return recognise(path)


def test_folders_and_archives(write, tmp_path):
    write(standoff.TEXT, "doc.txt")
    path = write(standoff.ANN, "doc.ann")
    for place in (path, path.with_suffix(".txt"), tmp_path):
        assert read(place).format == "brat"
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data.json", json.dumps(MULTIWOZ))
    assert read(tmp_path / "data.zip").format == "multiwoz"
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(doccano.TRIPLES.encode()))
    assert read(tmp_path / "data.jsonl.gz").format == "doccano"


def test_options_go_to_the_reader(write, tmp_path):
    path = write("1 Mia B-PER\n2 left O\n")
    with pytest.raises(ValueError, match=r"the first column has numbers only; .* token=1"):
        read(path)
    assert read(path, token=1).examples == [NerExample(("Mia", "left"), (Span(0, 1, "PER"),))]
    path = write("# sent_id = 1\n1\tMia\tB-PER\t-\tann\n2\tleft\tO\t-\tann\n")
    assert read(path, token=1, tag=2).examples == [NerExample(("Mia", "left"), (Span(0, 1, "PER"),))]
    with pytest.raises(ValueError, match=r"found 'ann'") as told:
        read(path, token=1)
    assert "`tag` chooses another column" in str(told.value)
    assert read(write("Mia PER\nleft O\n"), scheme="io").examples[0].spans == (Span(0, 1, "PER"),)
    (tmp_path / "latin").write_bytes("Köln B-LOC\n".encode("latin-1"))
    assert read(tmp_path / "latin", encoding="latin-1").examples == [NerExample(("Köln",), (Span(0, 1, "LOC"),))]


def test_what_is_not_recognised_is_not_guessed(write):
    for content in (
        "Some text.\n",
        "{}",
        '{"text": "no spans"}',
        "Mia person\nleft nothing\n",
        '{"a": 1}\n{"b": 2}',
    ):
        with pytest.raises(ValueError, match=r"no known format fits .* one of ace05, brat, conll, doccano"):
            read(write(content))
    with pytest.raises(ValueError, match=r"read_ontonotes\(path\), or read_srl_columns"):
        read(write("#begin document (a); part 000\na 0 0 Mia NNP * - - - - * -\n"))
    with pytest.raises(ValueError, match="format='word': choose one of"):
        read(write("x"), format="word")
    with pytest.raises(DataFormatError, match="line 2: expected JSON"):
        read(write('{"foo": 1}\n{"text": "Mia", "label": [[0'))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Ann\tB-PER\nleft\tO\n\nBo\tB-PER\nstays\tB_LOC\n", "line 5: expected O or one of B-, .*found 'B_LOC'"),
        ("Ann B-PER\nleft o\n", "line 2: expected O or one of B-, .*found 'o'"),
        ("token ner\nAnn B-PER\nleft O\n", "line 1: expected O or one of B-, .*found 'ner'"),
        ("Ann B-PER\nleft\nOslo B-LOC\n", "line 2: expected 2 columns as in the lines before, found 'left'"),
        ("Mia PER\nis O\nhere O\n", r"line 1: expected O or .*\(labels without prefix: scheme='io'\), found 'PER'"),
    ],
)
def test_a_bad_line_of_columns_is_named(write, content, told):
    path = write(content)
    with pytest.raises(DataFormatError, match=f"^{path}, {told}"):
        read(path)


def test_columns_are_those_of_the_reader(write):
    path = write("Ann Lee\tB-full name\n12\tI-full name\nleft\tO\n")
    assert read(path).format == "conll"
    assert (
        read(path).examples == read_conll(path) == [NerExample(("Ann Lee", "12", "left"), (Span(0, 2, "full name"),))]
    )


def test_a_format_that_was_named_is_not_guessed(write):
    path = write("Mia person\nLee person\nleft O\n")
    assert read(path, format="conll", scheme="io").examples == read_conll(path, scheme="io")


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff\r\n"])
def test_an_empty_file_is_called_so(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.jsonl: the file is empty"):
        read(path)
