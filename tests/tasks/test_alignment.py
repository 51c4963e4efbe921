"""`align` against the plain dynamic programme and against alignments worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks.alignment import align, character_ranges

from .plain_alignment import plain_align

TOKENS = st.lists(st.sampled_from("abc"), max_size=14)


@settings(max_examples=1000, deadline=None)
@given(TOKENS, TOKENS)
def test_equals_plain_programme_on_unrelated_sequences(tokens, output):
    assert align(tokens, output) == plain_align(tokens, output)


@st.composite
def edited(draw):
    """A sequence over few words (many ties) and a copy with some edits, as generated sentences are."""
    tokens = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=60))
    output = list(tokens)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(output)))
        output[at : at + draw(st.integers(0, 2))] = draw(st.lists(st.sampled_from("abcx"), max_size=2))
    return tokens, output


@settings(max_examples=500, deadline=None)
@given(edited())
def test_equals_plain_programme_on_edited_copies(pair):
    assert align(*pair) == plain_align(*pair)


@pytest.mark.parametrize(
    ("tokens", "output", "expected"),
    [
        ("", "", []),
        ("ab", "", []),
        ("", "ab", [None, None]),
        ("abc", "abc", [0, 1, 2]),
        ("abc", "axc", [0, 1, 2]),  # a substitution aligns
        ("xx", "x", [1]),  # the trace starts at the end and takes the diagonal
        ("xxy", "xz", [1, 2]),  # a common prefix is no promise: x goes to the second x
        ("ab", "b", [1]),
        ("b", "ab", [None, 0]),
        ("abcd", "ad", [0, 3]),
        ("ad", "abcd", [0, None, None, 1]),
        ("ab", "ba", [0, 1]),  # two substitutions cost as much as two skips: the diagonal wins
    ],
)
def test_hand_worked_alignments(tokens, output, expected):
    assert align(tokens, output) == expected
    assert plain_align(tokens, output) == expected


def test_long_sequences():
    tokens = [f"w{i % 97}" for i in range(700)]
    output = [*tokens[:100], "new", *tokens[120:400], *tokens[380:]]
    assert align(tokens, output) == plain_align(tokens, output)


@settings(max_examples=500, deadline=None)
@given(st.text("abc", max_size=12), st.data())
def test_characters_match_characters_where_only_spaces_differ(text, data):
    def split():
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=5)))
        bounds = [0, *(cut for cut in cuts if cut < len(text)), len(text)]
        return [(start, end) for start, end in pairwise(bounds) if start < end]

    words, output = split(), split()
    assert character_ranges([text[a:b] for a, b in words], [text[a:b] for a, b in output]) == output


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=9),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=9),
)
def test_character_ranges_of_any_texts_increase(words, output):
    ranges = [place for place in character_ranges(words, output) if place]
    assert all(0 <= start < end <= sum(map(len, words)) for start, end in ranges)
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))
