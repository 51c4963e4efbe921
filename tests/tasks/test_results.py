"""Predictions as dicts, JSON lines and tables."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest

from peft_fishdip.tasks import (
    Decoded,
    DstExample,
    DstTask,
    JointTask,
    NerExample,
    NerTask,
    Problem,
    RelationTask,
    SlotValue,
    Span,
    SrlTask,
    Turn,
    from_offsets,
    to_dict,
    to_pandas,
    write_json_lines,
)

NER = NerTask(["PER", "LOC"])
TEXT = "  Ann's home:\n“Oslo” "


@dataclass(frozen=True)
class Scored(Decoded):
    """A prediction with scores of its spans."""

    scores: tuple[float, ...] = ()


def test_a_prediction_as_a_dict():
    decoded = NER.decode(TEXT, "[ Ann | PER ] 's home : “ [ Oslo | LOC ]")
    assert to_dict(decoded) == {
        "text": TEXT,
        "spans": [
            {"start": 2, "end": 5, "text": "Ann", "label": "PER"},
            {"start": 15, "end": 19, "text": "Oslo", "label": "LOC"},
        ],
        "id": "",
        "generated_text": decoded.text,
        "problems": [{"kind": "wrong_reconstruction", "message": "the text does not repeat the sentence"}],
    }
    scored = Scored(decoded.prediction, (), "", (0.9, 0.25))
    assert [span["score"] for span in to_dict(scored)["spans"]] == [0.9, 0.25]
    assert [span.score for span in scored.text_spans] == [0.9, 0.25]


def test_tokens_without_a_text_are_joined():
    found = to_dict(NerExample(["New", "York", "is", "far"], [Span(0, 2, "LOC")], "7"))
    assert found == {
        "text": "New York is far",
        "spans": [{"start": 0, "end": 8, "text": "New York", "label": "LOC"}],
        "id": "7",
    }


def test_relations_name_positions_of_spans():
    task = JointTask(["P", "O"], ["works for"])
    text = "Acme employs Ann."
    found = to_dict(task.decode(text, "[ Acme | O ] employs [ Ann | P | works for = Acme ] ."))
    assert found["relations"] == [{"head": 1, "tail": 0, "label": "works for"}]
    assert [span["text"] for span in found["spans"]] == ["Acme", "Ann"]


def test_other_tasks():
    relation = to_dict(RelationTask(["author"]).decode("[ Dusk ] by [ Ann Lee ]", "= author"))
    assert relation["head"] == {"start": 2, "end": 6, "text": "Dusk", "label": ""}
    assert relation["tail"]["text"] == "Ann Lee"
    assert relation["label"] == "author"
    roles = to_dict(SrlTask(["A0"]).decode("Ann [ sold ] it", "[ Ann | A0 ] sold it"))
    assert roles["predicate"]["text"] == "sold"
    assert roles["arguments"] == [{"start": 0, "end": 3, "text": "Ann", "label": "A0"}]
    state = DstExample((Turn("user", "hi"),), (SlotValue("hotel", "area", "north"),), "1")
    assert to_dict(state) == {
        "turns": ({"speaker": "user", "text": "hi"},),
        "state": ({"domain": "hotel", "slot": "area", "value": "north"},),
        "id": "1",
    }
    with pytest.raises(TypeError, match="such as NerExample, got dict"):
        to_dict({})


def test_json_lines(tmp_path):
    odd = "Ann \ud800 \u2028\u0085 “👩\u200d🚀”"
    results = [NER.decode(TEXT, "[ Ann | PER ]"), from_offsets(odd, [(0, 3, "PER")], id="ü")]
    write_json_lines(tmp_path / "found.jsonl", results)
    content = (tmp_path / "found.jsonl").read_bytes()
    lines = content.decode("utf-8").split("\n")
    assert len(lines) == 3
    read = [json.loads(line) for line in lines[:2]]
    assert [line["text"] for line in read] == [TEXT, odd]
    assert "👩\u200d🚀".encode() in content
    for line in read:
        assert all(line["text"][span["start"] : span["end"]] == span["text"] for span in line["spans"])
    write_json_lines(tmp_path / "states.jsonl", [DstTask({"d": ["s"]}).decode("hi", "[belief] d s v [belief]")])
    assert json.loads((tmp_path / "states.jsonl").read_text())["state"] == [{"domain": "d", "slot": "s", "value": "v"}]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_lines(tmp_path / "found.jsonl", [Scored(results[1], (), "", (float("nan"),))])
    assert (tmp_path / "found.jsonl").read_bytes() == content  # nothing is half-written


def test_a_table(monkeypatch):
    pytest.importorskip("pandas")
    results = [NER.decode(TEXT, "[ Ann | PER ]"), NER.decode("none", "none"), from_offsets("at Bern", [(3, 7, "LOC")])]
    table = to_pandas(results)
    assert [*table.columns] == ["document", "id", "start", "end", "text", "label", "score"]
    assert table["document"].tolist() == [0, 2]
    assert table["text"].tolist() == ["Ann", "Bern"]
    assert table["start"].tolist() == [2, 3]
    assert table["score"].isna().all()
    assert [*to_pandas([]).columns] == [*table.columns]
    with pytest.raises(TypeError, match="result 0 has no entities, but turns, state, id; use to_dict"):
        to_pandas([DstExample(())])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        to_pandas(results)


def test_problems_are_kept():
    decoded = Decoded(NerExample(["a"]), (Problem("source_cut", "why"),), "")
    assert to_dict(decoded)["problems"] == [{"kind": "source_cut", "message": "why"}]
