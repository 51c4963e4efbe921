"""Label Studio's JSON and JSON-MIN exports."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import Relation, Span, read_label_studio

from ..files import refused

MIA, ACME, OSLO = Span(0, 3, "PER"), Span(13, 17, "ORG"), Span(21, 25, "LOC")
TEXT = "Mia works at Acme in Oslo."


def region(key, start, end, *labels, text=None):
    value = {"start": start, "end": end, "labels": list(labels)} | ({"text": text} if text else {})
    return {"value": value, "id": key, "from_name": "label", "to_name": "text", "type": "labels", "origin": "manual"}


def relation(head, tail, *labels, direction="right"):
    return {"from_id": head, "to_id": tail, "type": "relation", "direction": direction, "labels": list(labels)}


def task(*result, number=1, text=TEXT, **other):
    annotation = {"id": 9, "completed_by": 1, "result": list(result), "was_cancelled": False, "ground_truth": False}
    return {"id": number, "annotations": [annotation], "predictions": [], "data": {"text": text}, "project": 1} | other


REGIONS = (region("a", 0, 3, "PER", text="Mia"), region("b", 13, 17, "ORG", text="Acme"), region("c", 21, 25, "LOC"))


def test_export(write):
    path = write([task(*REGIONS, relation("a", "b", "works_for"), relation("b", "c", "based_in"), number=5)])
    (document,) = read_label_studio(path)
    assert (document.id, document.text, document.spans) == ("5", TEXT, (MIA, ACME, OSLO))
    assert document.relations == (Relation(MIA, ACME, "works_for"), Relation(ACME, OSLO, "based_in"))


def test_directions_and_relations_without_a_label(write):
    links = [
        relation("a", "b", "x", direction="left"),
        relation("b", "c", "y", "z", direction="bi"),
        relation("a", "c"),
    ]
    (document,) = read_label_studio(write([task(*REGIONS, *links)]))
    assert {(r.head, r.tail, r.label) for r in document.relations} == {
        (ACME, MIA, "x"),
        (ACME, OSLO, "y"),
        (OSLO, ACME, "y"),
        (ACME, OSLO, "z"),
        (OSLO, ACME, "z"),
        (MIA, OSLO, "relation"),
    }


def test_minimal_export(write):
    path = write(
        """[{"text": "Mia works at Acme in Oslo.", "id": 3, "annotator": 1, "annotation_id": 4, "lead_time": 2.5,
        "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
        "name": [{"start": 0, "end": 3, "text": "Mia", "labels": ["PER"]}],
        "place": [{"start": 21, "end": 25, "text": "Oslo", "labels": ["LOC"]}]},
        {"text": "Nothing here.", "id": 4, "ref_id": "r4", "annotator": 1, "annotation_id": 5}]"""
    )
    documents = read_label_studio(path)
    assert [(d.id, d.spans) for d in documents] == [("3", (MIA, OSLO)), ("r4", ())]


def test_minimal_export_of_several_annotators(write):
    row = {"text": TEXT, "id": 3, "annotation_id": 4, "label": [{"start": 0, "end": 3, "labels": ["PER"]}]}
    path = write([row, row | {"annotation_id": 5, "label": []}])
    with pytest.warns(UserWarning, match="1 records left out, further annotations of the same tasks"):
        assert [d.spans for d in read_label_studio(path)] == [(MIA,)]


def test_offsets_of_old_versions_are_recognised(write):
    # version 1.0 counted UTF-16 units: the emoji has two
    text = "💩 in Oslo"
    for start in (5, 6):
        path = write([task(region("a", start, start + 4, "LOC", text="Oslo"), text=text)])
        (document,) = read_label_studio(path)
        assert document.spans == (Span(5, 9, "LOC"),)
        assert [problem.kind for problem in document.problems] == ["offsets_converted"] * (start == 6)
    path = write([task(region("a", 4, 8, "LOC", text="Oslo"), text=text)])
    refused(read_label_studio, path, "item 0", "that stand at 4 to 8", "'Oslo'")


@pytest.mark.parametrize(("text", "offset"), [("Hi\r\nOslo", 3), ("\ufeffin Oslo", 3), ("\ufeff💩\r\nOslo", 3)])
def test_line_ends_and_byte_order_marks_in_a_text(write, text, offset):
    (document,) = read_label_studio(write([task(region("a", offset, offset + 4, "LOC", text="Oslo"), text=text)]))
    assert document.spans == (Span(4, 8, "LOC"),)
    assert [problem.kind for problem in document.problems] == ["offsets_converted"]


def test_several_annotations_of_a_task(write):
    def annotation(label, day, **other):
        return {"result": [region("a", 0, 3, label)], "created_at": f"2024-01-0{day}T00:00:00Z"} | other

    def labels(*annotations):
        with pytest.warns(UserWarning, match="annotation_left_out"):
            (document,) = read_label_studio(write([task(annotations=list(annotations))]))
        return [span.label for span in document.spans]

    assert labels(annotation("X", 1), annotation("Y", 3), annotation("Z", 2)) == ["Y"]
    assert labels(annotation("X", 1, ground_truth=True), annotation("Y", 3)) == ["X"]
    assert labels(annotation("X", 1), annotation("Y", 2), annotation("Z", 3, was_cancelled=True)) == ["Y"]


def test_tasks_without_annotation_are_left_out(write):
    predicted = {"predictions": [{"model_version": "m", "result": [REGIONS[1]]}]}
    path = write([task(REGIONS[0]), task(number=2, annotations=[], **predicted)])
    with pytest.warns(UserWarning, match=r"1 records left out, tasks without an annotation; predictions=True"):
        assert [d.spans for d in read_label_studio(path)] == [(MIA,)]
    with pytest.warns(UserWarning, match="1 records left out, tasks without a prediction"):
        assert [d.spans for d in read_label_studio(path, predictions=True)] == [(ACME,)]


def test_regions_with_several_labels_and_without(write):
    path = write([task(region("a", 0, 3, "PER", "SUBJ"), region("b", 13, 17), relation("a", "b", "r"))])
    with pytest.warns(UserWarning, match="relation_on_first_label"):
        (document,) = read_label_studio(path)
    assert document.spans == (MIA, Span(0, 3, "SUBJ"), Span(13, 17, "entity"))
    assert document.relations == (Relation(MIA, Span(13, 17, "entity"), "r"),)


def test_other_results(write):
    choice = {"value": {"choices": ["good"]}, "id": "a", "from_name": "mood", "to_name": "text", "type": "choices"}
    with pytest.warns(UserWarning, match="1 x annotation_left_out .*'choices'"):
        assert read_label_studio(write([task(REGIONS[0], choice)]))[0].spans == (MIA,)
    html = REGIONS[0] | {"type": "hypertextlabels"}
    refused(read_label_studio, write([task(html)]), "item 0", "on plain text", "'hypertextlabels'")


def test_key_of_the_text(write):
    path = write([task(REGIONS[0], data={"body": TEXT, "ref_id": "r1", "page": 3})])
    assert [(d.id, d.text) for d in read_label_studio(path)] == [("r1", TEXT)]
    path = write([task(REGIONS[0], data={"body": TEXT, "source": "news"})])
    refused(read_label_studio, path, "`text` chooses", "['body', 'source']")
    assert read_label_studio(path, text="body")[0].text == TEXT


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([task(REGIONS[0], relation("a", "zz", "x"))], ["item 0", "the id 'zz'", "'x'"]),
        ([task(REGIONS[0], relation("a", "a", "x", direction="up"))], ["item 0", "'right', 'left' or 'bi'", "'up'"]),
        ([task(region("a", 0, 99, "PER"))], ["item 0", "0 <= start < end <= 26", "99"]),
        ([task(region("a", "0", 3, "PER"))], ["item 0", "int", "'0'"]),
        ([task(region("a", 0, 3, 5))], ["item 0", "list of texts", "5"]),
        ([task(region("a", 0, 3, "X"), region("a", 0, 2, "X"))], ["item 0", "no other region", "'a'"]),
        ([task(REGIONS[0]), task(REGIONS[0])], ["an id that no other record", "'1'"]),
        ([{"id": 1, "data": {"text": TEXT}, "annotations": [{"result": None}]}], ["item 0", "'result'"]),
        ([5], ["item 0", "a task"]),
    ],
)
def test_what_is_wrong_is_named(write, content, parts):
    refused(read_label_studio, write(content), *parts)
