"""Characters of roles, and of the head and tail of a relation, in the raw text that was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    RelationExample,
    RelationTask,
    Span,
    SrlExample,
    SrlTask,
    from_dataset,
    load_model,
    predict,
    read,
    to_dataset,
    to_dict,
    to_offsets,
    token_spans,
    tokenize,
    write_json_lines,
)

from .test_families import bert, saved
from .test_lengths import Marker
from .test_offsets import PIECES
from .tiny import bpe_tokenizer, tiny_model, tiny_tokenizer

ROLES = SrlTask({"A0": "agent", "A1": "theme"})
LINKS = RelationTask(["author", "home"])
SOLD = "At  noon\nAnn  Lee[sold ]“Dusk” for $5.50."
BY = "“[Dusk ]”\tby  [ Ann  Lee ]’s  sister"


def words(text, spans):
    return [text[span.start : span.end] for span in spans]


def test_roles_stand_in_the_text_that_was_given():
    written = "At noon [ Ann Lee | agent ] sold [ “ Dusk ” | theme ] for $ 5.50 ."
    decoded = ROLES.decode(SOLD, written)
    assert decoded.problems == ()
    assert words(SOLD, decoded.text_spans) == ["Ann  Lee", "“Dusk”"]
    assert [span.label for span in decoded.text_spans] == ["A0", "A1"]
    found = to_dict(decoded)
    assert found["text"] == SOLD
    assert found["predicate"] == {"start": 18, "end": 22, "text": "sold", "label": ""}
    assert SOLD[18:22] == "sold"
    assert [SOLD[x["start"] : x["end"]] for x in found["arguments"]] == ["Ann  Lee", "“Dusk”"]


def test_head_and_tail_stand_in_the_text_that_was_given():
    decoded = LINKS.decode(BY, "relationship between [ Dusk ] and [ Ann Lee ] = author")
    assert decoded.problems == ()
    assert words(BY, decoded.text_spans) == ["Dusk", "Ann  Lee"]
    assert [span.score for span in decoded.text_spans] == [None, None]
    found = to_dict(decoded)
    assert found["label"] == "author"
    assert [BY[found[x]["start"] : found[x]["end"]] for x in ("head", "tail")] == ["Dusk", "Ann  Lee"]
    assert [found[x]["text"] for x in ("head", "tail")] == ["Dusk", "Ann  Lee"]


def test_a_tail_may_stand_before_its_head():
    tokens, (head, tail) = token_spans("Ann wrote Dusk", [(10, 14), (0, 3)])
    example = RelationExample(tokens, head, tail, "author", text="Ann wrote Dusk")
    assert words(example.text, to_offsets(example)) == ["Dusk", "Ann"]
    assert [(span.start, span.end) for span in to_offsets(example, unit="utf-8")] == [(10, 14), (0, 3)]


def test_brackets_of_the_text_are_its_own_where_the_tokens_have_them():
    text = "see  [3] by Ann"
    tokens, (head, tail) = token_spans(text, [(5, 8), (12, 15)])
    example = RelationExample(tokens, head, tail, text=text)
    decoded = LINKS.decode(example, "= author")
    assert words(text, decoded.text_spans) == ["[3]", "Ann"]
    with pytest.raises(ValueError, match="does not consist of the tokens"):
        RelationExample(("Ann", "left"), Span(0, 1), Span(1, 2), text="[ Ann ] went")
    with pytest.raises(ValueError, match="does not consist of the tokens"):
        SrlExample(("Ann", "left"), Span(1, 2), text="Ann left.")


def test_tokens_have_no_characters():
    with pytest.raises(ValueError, match="predict raw texts"):
        _ = ROLES.decode(SrlExample(("Ann", "left"), Span(1, 2)), "[ Ann | agent ] left").text_spans
    found = to_dict(ROLES.decode(SrlExample(("Ann", "left"), Span(1, 2)), "[ Ann | agent ] left"))
    assert found["arguments"][0] == {"start": 0, "end": 3, "text": "Ann", "label": "A0"}


SOLID = st.lists(st.sampled_from([piece for piece in PIECES if "[" not in piece]), max_size=5).map("".join)


@given(st.lists(SOLID, min_size=3, max_size=3), SOLID.filter(str.strip), SOLID.filter(str.strip))
def test_marked_spans_are_found_where_they_stand(between, head, tail):
    text = f"{between[0]}[{head}]{between[1]}[{tail}]{between[2]}"
    decoded = LINKS.decode(text, "= home")
    places = decoded.text_spans
    assert [*map(tokenize, words(text, places))] == [*map(tokenize, (head, tail))]
    start = len(between[0]) + 1
    assert start <= places[0].start < places[0].end <= start + len(head)
    assert text[start : places[0].start].isspace() or start == places[0].start
    roles = ROLES.decode(f"{between[0]}[{head}]{between[1]}", "")
    (predicate,) = [to_dict(roles)["predicate"]]
    assert predicate["start"] == places[0].start
    assert predicate["text"] == text[places[0].start : places[0].end]


def test_predictions_of_models_have_them(tmp_path):
    tokenizer = tiny_tokenizer(["[ ] | = agent theme x Ann sold it The relationship between and is author home"])
    (decoded,) = predict(Marker(tokenizer, text="[ Ann | agent ] sold it"), tokenizer, ROLES, ["Ann  [sold]it"])
    assert words("Ann  [sold]it", decoded.text_spans) == ["Ann"]
    (decoded,) = predict(tiny_model(len(tokenizer)), tokenizer, LINKS, ["[Ann]  sold [ it]"])
    assert words("[Ann]  sold [ it]", decoded.text_spans) == ["Ann", "it"]
    assert to_dict(decoded)["score"] == decoded.scores[0]
    tokenizer = bpe_tokenizer(["Ann sold it"])
    model, tokenizer = load_model(saved(tmp_path / "roles", bert(tokenizer), tokenizer), ROLES)
    (decoded,) = predict(model, tokenizer, ROLES, ["Ann  [sold]it"])
    assert decoded.prediction.text == "Ann  [sold]it"
    assert all(span.score is not None for span in decoded.text_spans)
    model, tokenizer = load_model(saved(tmp_path / "links", bert(tokenizer), tokenizer), LINKS)
    (decoded,) = predict(model, tokenizer, LINKS, ["[Ann]  sold [ it]"])
    assert words("[Ann]  sold [ it]", decoded.text_spans) == ["Ann", "it"]


@pytest.mark.filterwarnings("ignore:.*source_cut.*:UserWarning")
def test_what_is_too_long_keeps_its_text():
    text = "Ann  [sold]it" + " and then sold it" * 12
    tokenizer = tiny_tokenizer(["[ ] | agent theme x Ann sold it and then"])
    (decoded,) = predict(
        Marker(tokenizer, text="[ Ann | agent ] sold it"), tokenizer, ROLES, [text], max_source_length=12
    )
    assert "source_cut" in [problem.kind for problem in decoded.problems]
    assert words(text, decoded.text_spans) == ["Ann"]
    text = "x  " * 30 + "[Ann]  sold [ it]"
    tokenizer = tiny_tokenizer(["[ ] = Ann sold it x ... The relationship between and is author home"])
    (decoded,) = predict(tiny_model(len(tokenizer)), tokenizer, LINKS, [text], max_source_length=30)
    assert words(text, decoded.text_spans) == ["Ann", "it"]


def test_texts_survive_data_sets_and_files(tmp_path):
    roles = ROLES.decode(SOLD, "At noon [ Ann Lee | agent ] sold “ Dusk ” for $ 5.50 .")
    (again,) = from_dataset(to_dataset([roles.prediction]), SrlExample)
    assert (again, again.text) == (roles.prediction, SOLD)
    write_json_lines(tmp_path / "roles.jsonl", [roles])
    row = json.loads((tmp_path / "roles.jsonl").read_text(encoding="utf-8"))
    assert row["text"][row["arguments"][0]["start"] : row["arguments"][0]["end"]] == "Ann  Lee"


def test_readers_of_raw_texts_keep_them(tmp_path):
    opennre = tmp_path / "nre.jsonl"
    row = {"text": "Ann  wrote [Dusk].", "h": {"pos": [12, 16]}, "t": {"pos": [0, 3]}, "relation": "author"}
    opennre.write_text(json.dumps(row), encoding="utf-8")
    semeval = tmp_path / "semeval.txt"
    semeval.write_text('1\t"<e1>Ann</e1>  wrote <e2>Dusk</e2>."\nOther\nComment:\n', encoding="utf-8")
    for path, texts in [(opennre, ["Dusk", "Ann"]), (semeval, ["Ann", "Dusk"])]:
        (example,) = read(Path(path)).examples
        assert words(example.text, to_offsets(example)) == texts
