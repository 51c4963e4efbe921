"""Tag sequences against seqeval, and strictness by example."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from peft_fishdip.tasks import Span, TagError, spans_to_tags, tags_to_spans

TAGS = ["O"] + [f"{prefix}-{label}" for prefix in "BIES" for label in ("X", "Y")]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_any_mixture_reads_as_seqeval_reads_it(tags):
    expected = [Span(start, end + 1, label) for label, start, end in get_entities(tags)]
    assert tags_to_spans(tags) == expected
    bilou = [tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]
    assert tags_to_spans(bilou) == expected


@st.composite
def flat_spans(draw):
    spans, at = [], 0
    for _ in range(draw(st.integers(0, 4))):
        start = at + draw(st.integers(0, 2))
        at = start + draw(st.integers(1, 3))
        spans.append(Span(start, at, draw(st.sampled_from("XY"))))
    return spans, at + draw(st.integers(0, 2))


@given(flat_spans())
def test_every_scheme_reads_its_own_tags(case):
    spans, length = case
    bio = spans_to_tags(spans, length)
    iob1, iobes = list(bio), list(bio)
    for number, span in enumerate(spans):
        last = spans[number - 1] if number else None
        if last is None or last.end < span.start or last.label != span.label:
            iob1[span.start] = f"I-{span.label}"
        if span.end - span.start == 1:
            iobes[span.start] = f"S-{span.label}"
        else:
            iobes[span.end - 1] = f"E-{span.label}"
    bilou = [tag.replace("E-", "L-").replace("S-", "U-") for tag in iobes]
    bmes = [tag.replace("I-", "M-") for tag in iobes]
    for scheme, tags in {"bio": bio, "iob1": iob1, "iobes": iobes, "bilou": bilou, "bmes": bmes}.items():
        assert tags_to_spans(tags, scheme) == spans
        assert tags_to_spans(tags) == spans
        typeless = [tag[0] for tag in tags]
        if scheme != "iob1":  # there, whether adjacent spans are told apart depends on their labels
            assert tags_to_spans(typeless, scheme) == [Span(s.start, s.end, "entity") for s in spans]


def test_labels_alone_are_tags_of_the_scheme_io():
    """As in Few-NERD; what conll takes for an unknown prefix is a label there."""
    tags = ["art-film", "art-film", "O", "person-artist/author", "I-LOC", "LOC", "X"]
    assert tags_to_spans(tags, "io") == [
        Span(0, 2, "art-film"),
        Span(3, 4, "person-artist/author"),
        Span(4, 6, "LOC"),
        Span(6, 7, "X"),
    ]
    with pytest.raises(TagError, match="scheme='io'"):
        tags_to_spans(tags)


@pytest.mark.parametrize(
    ("scheme", "tags", "position"),
    [
        ("bio", "O I-X", 1),
        ("bio", "B-X I-Y", 1),
        ("bio", "S-X", 0),
        ("iob1", "B-X", 0),
        ("iob1", "I-Y B-X", 1),
        ("iobes", "B-X O", 1),
        ("iobes", "B-X", 1),
        ("iobes", "E-X", 0),
        ("iobes", "B-X S-X", 1),
        ("iobes", "S-X I-X", 1),
        ("bilou", "B-X E-X", 1),
        ("conll", "O B- O", 1),
        ("conll", "B-X|B-Y", 0),
        ("conll", "B-X|Y", 0),
        ("bio", "B-X/I-Y", 0),
        ("conll", "B-X,O", 0),
        ("conll", "O|B-X", 0),
        ("bmes", "B-X M-X O", 2),
        ("bmes", "M-X", 0),
        ("bmes", "B-X I-X", 1),
        ("io", "X|Y", 0),
        ("io", "X ", 1),
        ("conll", "X-Y", 0),
        ("conll", "", 0),
    ],
)
def test_what_a_scheme_does_not_allow(scheme, tags, position):
    with pytest.raises(TagError) as error:
        tags_to_spans(tags.split(" "), scheme)
    assert error.value.position == position


def test_unknown_scheme():
    with pytest.raises(ValueError, match="scheme='BIO': choose one of conll, iob1, bio, iobes, bilou, bmes, io"):
        tags_to_spans([], "BIO")


def test_tags_are_texts():
    with pytest.raises(TagError, match=r"tag 1: expected O or one of .*, found 2"):
        tags_to_spans(["O", 2])


def test_spans_lie_inside():
    with pytest.raises(ValueError, match="ends after the last of the 4 tokens"):
        spans_to_tags([Span(3, 5, "X")], 4)


def test_nested_spans_have_no_tags():
    with pytest.raises(ValueError, match="overlaps another span"):
        spans_to_tags([Span(0, 2, "X"), Span(1, 2, "Y")], 2)
