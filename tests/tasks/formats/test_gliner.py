"""GLiNER's training data."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import NerExample, Span, read_gliner, to_examples

from ..files import refused

LIST = """[{"tokenized_text": ["Mia", "Lee", "left", "Oslo", "."], "ner": [[0, 1, "person"], [3, 3, "city"]]},
{"tokenized_text": ["Hi"], "ner": []}]"""
EXPECTED = [
    NerExample(("Mia", "Lee", "left", "Oslo", "."), (Span(0, 2, "person"), Span(3, 4, "city"))),
    NerExample(("Hi",)),
]


def test_lists_and_lines_with_inclusive_ends(write):
    for text in (LIST, LIST[1:-1].replace(",\n", "\n")):
        documents = read_gliner(write(text))
        assert to_examples(documents) == EXPECTED
        assert documents[0].text == "Mia Lee left Oslo ."
        assert documents[0].spans == (Span(0, 7, "person"), Span(13, 17, "city"))


def test_tokens_are_kept_as_they_are(write):
    (example,) = to_examples(read_gliner(write('[{"tokenized_text": ["don\'t", "", "U.S.A"], "ner": [[2, 2, "x"]]}]')))
    assert example == NerExample(("don't", "", "U.S.A"), (Span(2, 3, "x"),))


@pytest.mark.parametrize(
    ("entry", "part"),
    [("[0, 5, 'x']", "5"), ("[1, 0, 'x']", "1, 0"), ("[0, 0]", "[0, 0]"), ("[0, true, 'x']", "True"), ("'x'", "'x'")],
)
def test_wrong_entries_are_named(write, entry, part):
    text = f'{{"tokenized_text": ["a", "b"], "ner": [{entry}]}}'.replace("'", '"')
    refused(read_gliner, write(text), "line 1", "tokens below 2", part)
