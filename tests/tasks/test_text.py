"""Escaping is invertible and leaves ordinary text alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_fishdip.tasks import NerTask
from peft_fishdip.tasks.text import SPECIAL, escape, find_normalized, normalize, sentence, tokenize, unescape

PIECES = st.sampled_from(
    [
        "[",
        "]",
        "|",
        "=",
        ",",
        "&",
        "amp;",
        "lsqb",
        "vert",
        "comma",
        ";",
        "&lsqb;",
        "a",
        " ",
        "＝",
        "，",
        "#65309",
        "&#65309;",
    ]
)
NASTY = st.one_of(st.text(), st.lists(PIECES).map("".join))


@pytest.mark.parametrize("special", [SPECIAL, SPECIAL + ","])
@given(text=NASTY)
def test_unescape_inverts_escape(special, text):
    escaped = escape(text, special)
    assert unescape(escaped) == text
    assert not set(escaped) & set(special)
    assert not set(normalize(escaped)) & set(special)  # nor does a tokenizer make any of them


@given(
    NASTY.filter(
        lambda text: (
            not re.search(r"[][|=]|&(amp;)*(lsqb|rsqb|vert|equals|comma|#\d+);", text)
            and not any(set(normalize(c)) & set(SPECIAL) for c in text)
        )
    )
)
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
    expected = 'Dr . Müller-Lüdenscheidt did n\'t pay $ 1,234.50 at 10:30 ( " no ... " ) , did she ?'
    assert " ".join(tokenize(text)) == expected


@given(st.text())
def test_tokenize_loses_nothing_but_white_space(text):
    assert "".join(tokenize(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mia's dog, O'Brien’s cat and the U.S.'s", "Mia 's dog , O'Brien ’s cat and the U.S . 's"),
        ("THEY'RE here; she'll see, can’t've", "THEY 'RE here ; she 'll see , ca n’t 've"),
        ("James' boat", "James ' boat"),
        ("l'Aquila, dell’Emilia, qu'Anne", "l' Aquila , dell’ Emilia , qu' Anne"),
        ("rock'n'roll at McDonald's", "rock'n'roll at McDonald 's"),
        ("नई दिल्ली में", "नई दिल्ली में"),
        ("বাংলা ভাষা", "বাংলা ভাষা"),
        ("בְּרֵאשִׁית צה״ל תל־אביב", "בְּרֵאשִׁית צה״ל תל־אביב"),
        ("مُحَمَّد می\u200cرود", "مُحَمَّد می\u200cرود"),
        ("Ange\u0301lique Tie\u0302\u0301ng", "Ange\u0301lique Tie\u0302\u0301ng"),
        ("王芳住在上海。", "王 芳 住 在 上 海 。"),
        ("ソニーのTV", "ソニー の TV"),
        ("20kg, 15°C", "20 kg , 15 ° C"),
        ("👩\u200d🚀 ok 👍🏽🇳🇴🇸🇪 3\ufe0f\u20e3", "👩\u200d🚀 ok 👍🏽 🇳🇴 🇸🇪 3\ufe0f\u20e3"),
    ],
)
def test_tokens_of_many_languages(text, expected):
    assert tokenize(text) == tuple(expected.split(" "))


def test_the_part_of_a_text_that_a_tokenizer_has_normalised():
    text = "Ich wohne im  Cafe\u0301 ½, Gasse ３."
    assert find_normalized(normalize("Cafe\u0301 ½"), text) == "Cafe\u0301 ½"
    assert find_normalized("Gasse 3", text) == "Gasse ３"
    assert find_normalized("Gasse", text) == "Gasse"
    assert find_normalized("Café 1", text) is None
    assert find_normalized("", text) is None


def test_full_width_marks_are_no_structure():
    example = NerTask(["x"]).as_example(["a＝b", "［c］", "|｜"])
    task = NerTask(["x"])
    source = task.source(example)
    assert source == "a&#65309;b &#65339;c&#65341; &vert;&#65372;"
    assert (
        task.decode(example, f"[ {normalize(source)} | x ]").prediction.spans[0].text(example.tokens)
        == "a＝b ［c］ |｜"
    )
