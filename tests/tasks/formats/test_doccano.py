"""doccano's exports, with and without relations."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import JointExample, NerExample, Relation, Span, read_doccano, to_examples

from ..files import refused

TRIPLES = """\
{"id": 7, "text": "Mia Lee left Oslo.", "label": [[0, 7, "PER"], [13, 17, "LOC"]], "Comments": []}
{"id": 8, "text": "Nobody left.", "label": []}
"""
OBJECTS = """\
{"id": 7, "text": "Mia Lee left Oslo.", "relations": [{"id": 3, "from_id": 41, "to_id": 40, "type": "left"}],
 "entities": [{"id": 40, "label": "LOC", "start_offset": 13, "end_offset": 17},
              {"id": 41, "label": "PER", "start_offset": 0, "end_offset": 7}], "Comments": []}
"""
MIA, OSLO = Span(0, 7, "PER"), Span(13, 17, "LOC")


@pytest.mark.parametrize("column", ["label", "labels", "entities"])
def test_lists_of_spans(write, column):
    documents = read_doccano(write(TRIPLES.replace('"label":', f'"{column}":')))
    assert [(d.id, d.text, d.spans) for d in documents] == [
        ("7", "Mia Lee left Oslo.", (MIA, OSLO)),
        ("8", "Nobody left.", ()),
    ]
    assert to_examples(documents) == [
        NerExample(("Mia", "Lee", "left", "Oslo", "."), (Span(0, 2, "PER"), Span(3, 4, "LOC"))),
        NerExample(("Nobody", "left", ".")),
    ]


def test_old_exports_have_the_text_under_data(write):
    path = write('[{"id": 1, "data": "Mia Lee left", "label": [[0, 7, "PER"]]}]')
    assert read_doccano(path)[0].spans == (MIA,)


def test_objects_with_relations(write):
    (document,) = read_doccano(write(OBJECTS))
    assert document.spans == (MIA, OSLO)
    assert document.relations == (Relation(MIA, OSLO, "left"),)
    (example,) = to_examples([document])
    assert isinstance(example, JointExample)
    assert example.relations == (Relation(Span(0, 2, "PER"), Span(3, 4, "LOC"), "left"),)


def test_lines_may_hold_any_character_that_json_allows(write):
    path = write('{"text": "Mia\u2028Lee \x85left", "label": [[0, 7, "PER"]]}')
    assert read_doccano(path)[0].text == "Mia\u2028Lee \x85left"


def test_what_offsets_count(write):
    # as doccano shows a span on "Oslo": in JavaScript the emoji have four units, and three graphemes
    text = "👍🏽 in Oslo"
    for offsets, start in (("utf-16", 8), ("characters", 6), ("graphemes", 5)):
        path = write(f'{{"text": "{text}", "label": [[{start}, {start + 4}, "LOC"]]}}')
        assert read_doccano(path, unit=offsets)[0].spans == (Span(6, 10, "LOC"),), offsets
    path = write(f'{{"text": "{text}", "label": [[8, 12, "LOC"]]}}')
    with pytest.warns(UserWarning, match="1 texts have emoji .* read as UTF-16 units"):
        assert read_doccano(path)[0].spans == (Span(6, 10, "LOC"),)
    path = write(f'{{"text": "{text}", "label": [[0, 1, "X"]]}}')
    refused(read_doccano, path, "line 1", "none of them inside a character", "found 1", unit="utf-16")
    with pytest.raises(ValueError, match="unit='bytes': choose one of"):
        read_doccano(path, unit="bytes")


def test_white_space_is_trimmed_with_a_note(write):
    (document,) = read_doccano(write('{"text": "in Oslo .", "label": [[2, 8, "LOC"]]}'))
    assert document.spans == (Span(3, 7, "LOC"),)
    assert [problem.kind for problem in document.problems] == ["trimmed_span"]
    assert "line 1: LOC at 2 to 8 now covers 'Oslo'" in document.problems[0].message


def test_a_span_of_white_space_is_left_out_with_its_relations(write):
    path = write(OBJECTS.replace('"start_offset": 13, "end_offset": 17', '"start_offset": 12, "end_offset": 13'))
    with pytest.warns(UserWarning, match="left out: 1 x blank_span, 1 x relation_of_lost_span"):
        (document,) = read_doccano(path)
    assert (document.spans, document.relations) == ((MIA,), ())


def test_a_file_without_spans_warns(write):
    with pytest.warns(UserWarning, match="1 examples and no entity"):
        read_doccano(write('{"text": "Hi", "label": []}'))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"text": "Mia", "label": [[0, 4, "PER"]]}', ["line 1", "0 to 3", "4"]),
        ('{"text": "Mia", "label": [[2, 2, "PER"]]}', ["line 1", "0 <= start < end <= 3", "(2, 2, 'PER')"]),
        ('{"text": "Mia", "label": [[-1, 2, "PER"]]}', ["line 1", "-1"]),
        ('{"text": "Mia", "label": [[0, true, "PER"]]}', ["line 1", "a whole number", "True"]),
        ('{"text": "Mia", "label": [[0, 2.0, "PER"]]}', ["line 1", "int", "2.0"]),
        ('{"text": "Mia", "label": [[0, 2, 5]]}', ["line 1", "str", "5"]),
        ('{"text": "Mia", "label": [[0, 2, " "]]}', ["line 1", "a label that is not empty"]),
        ('{"text": "Mia", "label": ["PER"]}', ["line 1", "[start, end, label]", "'PER'"]),
        ('{"text": "Mia", "label": "PER"}', ["line 1", "list", "'PER'"]),
        ('{"text": "Mia"}', ["line 1", "'label'"]),
        ('{"text": 5, "label": []}', ["line 1", "str", "5"]),
        ('{"text": "\\ud83d", "label": []}', ["line 1", "single surrogates"]),
        ("5", ["line 1", "an object"]),
        ('{"text": "Mia", "label": []}\n{"text": "Mia", "lab', ["line 2", "JSON"]),
        ('{"id": 1, "text": "a", "label": []}\n{"id": 1, "text": "b", "label": []}', ["an id that no other", "'1'"]),
        ('{"id": [1], "text": "a", "label": []}', ["line 1", "as id", "[1]"]),
        (OBJECTS.replace('"to_id": 40', '"to_id": 42'), ["line 1", "the id '42'", "'left'"]),
        (OBJECTS.replace('"id": 40', '"id": 41'), ["line 1", "an id that no other entity", "'41'"]),
        (OBJECTS.replace('"type": "left"', '"type": null'), ["line 1", "'type'"]),
        ("[" * 100_000, ["JSON that is not nested too deeply"]),
    ],
)
def test_what_is_wrong_is_named(write, text, parts):
    refused(read_doccano, write(text), *parts)
