"""Escaping is invertible and leaves ordinary text alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_fishdip.tasks.text import SPECIAL, escape, sentence, tokenize, unescape

PIECES = st.sampled_from(["[", "]", "|", "=", ",", "&", "amp;", "lsqb", "vert", "comma", ";", "&lsqb;", "a", " "])
NASTY = st.one_of(st.text(), st.lists(PIECES).map("".join))


@pytest.mark.parametrize("special", [SPECIAL, SPECIAL + ","])
@given(text=NASTY)
def test_unescape_inverts_escape(special, text):
    escaped = escape(text, special)
    assert unescape(escaped) == text
    assert not set(escaped) & set(special)


@given(NASTY.filter(lambda text: not re.search(r"[][|=]|&(amp;)*(lsqb|rsqb|vert|equals|comma);", text)))
def test_ordinary_text_is_untouched(text):
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("AT&T", "AT&T"),
        ("&amp;", "&amp;"),
        ("a, b", "a, b"),
        ("[", "&lsqb;"),
        ("x=[1]|", "x&equals;&lsqb;1&rsqb;&vert;"),
        ("&lsqb;", "&amp;lsqb;"),
        ("&amp;lsqb;", "&amp;amp;lsqb;"),
    ],
)
def test_escape_by_example(text, escaped):
    assert escape(text) == escaped


def test_sentence_has_single_spaces():
    assert sentence(["a", "\xa0", "b\nc", "", "[d"]) == "a b c &lsqb;d"


def test_tokenize():
    text = 'Dr. Müller-Lüdenscheidt didn\'t pay $1,234.50 at 10:30 ("no..."), did she?'
    expected = 'Dr . Müller-Lüdenscheidt didn\'t pay $ 1,234.50 at 10:30 ( " no ... " ) , did she ?'
    assert " ".join(tokenize(text)) == expected


@given(st.text())
def test_tokenize_loses_nothing_but_white_space(text):
    assert "".join(tokenize(text)) == "".join(text.split())
