"""From characters of a raw text to records and back: `text[start:end]` is the span, always."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    RelationExample,
    Span,
    TextSpan,
    TokenClassificationTask,
    evaluate,
    from_dataset,
    from_offsets,
    load_model,
    predict,
    to_dataset,
    to_features,
    to_offsets,
    token_spans,
)

from .test_families import bert, perfect, saved
from .test_lengths import Marker
from .tiny import bpe_tokenizer, tiny_tokenizer

TASK = NerTask({"A": "person", "B": "place"})
PIECES = [
    "Ann's", "U.S.-led", "$5.50", "20kg", "non-EU", "l'Aquila", "didn't", '"Dusk"', "王芳住在上海。", "ソニーのTV",
    "cafe\u0301", "नई दिल्ली", "👩\u200d🚀", "👍🏽", "🇳🇴", "[x|y]=", "&lsqb;", "ﬁrm", "m²", "한국",
    " ", "  ", "\n", "\r\n", "\u00a0", "\u3000", ".", ",", "-", "\u200b", "\u2028",
]  # fmt: skip
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join), st.text(min_size=1))


@st.composite
def labelled(draw):
    """A text and nested spans of it that neither begin nor end with white space."""
    text = draw(TEXTS)
    solid = [place for place, character in enumerate(text) if not character.isspace()]
    spans: set[tuple[int, int, str]] = set()
    for _ in range(draw(st.integers(0, 4)) if solid else 0):
        start = draw(st.sampled_from(solid))
        end = draw(st.sampled_from([place for place in solid if place >= start])) + 1
        label = draw(st.sampled_from("AB"))
        crossing = any(s < start < e < end or start < s < end < e for s, e, _ in spans)
        if not crossing and not any((s, e) == (start, end) for s, e, _ in spans):
            spans.add((start, end, label))
    return text, sorted(spans, key=lambda span: (span[0], -span[1], span[2]))


def plain(spans):
    return [(span.start, span.end, span.label) for span in spans]


@settings(deadline=None)
@given(labelled())
def test_records_give_back_each_character_span(case):
    text, spans = case
    example = from_offsets(text, spans)
    assert plain(to_offsets(example)) == spans
    assert "".join(example.tokens) == "".join(text.split())
    for span, (start, end, _) in zip(example.spans, spans, strict=True):
        assert "".join(text[start:end].split()) == "".join(example.tokens[span.start : span.end])


@settings(max_examples=300, deadline=None)
@given(labelled())
def test_a_model_that_writes_the_target_of_a_text_finds_each_span_or_it_is_named(case):
    text, spans = case
    example = from_offsets(text, spans)
    source, target, problems = TASK.encode(example)
    assert source == TASK.source(TASK.from_text(text))  # shows nothing of the spans
    found = TASK.decode(text, target)
    missing = {*spans} - {*plain(found.text_spans)}
    assert {*plain(found.text_spans)} == {*spans} - missing
    assert len(missing) == len(problems) == sum(problem.kind == "lost_span" for problem in problems)
    if unicodedata.is_normalized("NFKC", text):
        assert not missing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's car", ["Ann"]),
        ("the U.S.-led  force\nof non-EU states", ["U.S.", "EU"]),
        ("It cost $5.50, or 20kg of salt", ["$", "5.50", "20", "kg"]),
        ("王芳住在上海。", ["王芳", "上海"]),
        ("ソニーのテレビ", ["ソニー", "レビ"]),
        ("in Cafe\u0301s of Tiê\u0301ng", ["Cafe\u0301", "ng"]),
        ("👩\u200d🚀Ann 👍🏽Bo", ["👩\u200d🚀", "Ann", "👍🏽", "Bo"]),
        ('"Dusk," said O\'Brien', ["Dusk", "Brien"]),
        ("[Oslo|Bern]=x", ["[", "Oslo", "]=x"]),
        ("Oslos gater", ["Oslo"]),
        ("dell’Emilia", ["Emilia", "ia"]),
    ],
)
def test_boundaries_inside_words(text, words):
    spans = [(text.rindex(word), text.rindex(word) + len(word), "AB"[i % 2]) for i, word in enumerate(words)]
    encoded = TASK.encode(from_offsets(text, spans))
    assert encoded.problems == ()
    found = TASK.decode(text, encoded.target)
    assert [text[span.start : span.end] for span in found.text_spans] == words
    assert plain(found.text_spans) == spans


def test_a_boundary_inside_a_composed_character_is_named():
    example = from_offsets("cafe\u0301", [(0, 4, "A")])
    assert to_offsets(example) == [TextSpan(0, 4, "A")]
    assert [problem.kind for problem in TASK.encode(example).problems] == ["lost_span"]


@pytest.mark.parametrize("unit", ["characters", "utf-16", "utf-8"])
@settings(deadline=None)
@given(labelled())
def test_units_of_other_programs(unit, case):
    text, spans = case

    def count(part):
        if unit == "characters":
            return len(part)
        return len(part.encode(unit + "-le" * (unit == "utf-16"), "surrogatepass")) // (1 + (unit == "utf-16"))

    counted = [(count(text[:start]), count(text[:end]), label) for start, end, label in spans]
    example = from_offsets(text, counted, unit=unit)
    assert plain(to_offsets(example)) == spans
    assert plain(to_offsets(example, unit=unit)) == counted


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(3, 3, "A")], r"span 0, \(3, 3, 'A'\): needs 0 <= start < end"),
        ([(0, 3, "A"), (-1, 3, "A")], r"span 1, \(-1, 3, 'A'\): needs"),
        ([(0, 99, "A")], "ends after the 9 characters .* pass unit='utf-16' or unit='utf-8'"),
        ([(0, 4, "A")], r"'Ann ' begins or ends with white space; without it the span is \(0, 3\), which trim=True"),
        ([(3, 5, "A")], "'  ' is nothing but white space; leave the span out"),
        ([(0, 3, "A"), TextSpan(0, 3, "A")], "spans 0 and 1 are the same"),
        ([(0, 3)], "has no label"),
        ([(0.0, 3, "A")], r"give \(start, end, label\), two whole numbers"),
        ([(False, 3, "A")], r"give \(start, end, label\)"),
        ([(0, 3, None)], r"give \(start, end, label\)"),
        ([(0,)], r"give \(start, end, label\)"),
    ],
)
def test_wrong_offsets_are_refused_with_the_remedy(spans, message):
    with pytest.raises(ValueError, match=message):
        from_offsets("Ann  👍🏽 B", spans)


def test_offsets_in_other_units_are_checked():
    text = "👍 Bo"
    assert to_offsets(from_offsets(text, [(3, 5, "A")], unit="utf-16")) == [TextSpan(2, 4, "A")]
    with pytest.raises(ValueError, match="inside a character as utf-16 writes it"):
        from_offsets(text, [(1, 5, "A")], unit="utf-16")
    with pytest.raises(ValueError, match="unit='bytes': choose one of characters, utf-16, utf-8"):
        from_offsets(text, [(0, 1, "A")], unit="bytes")
    assert from_offsets(" Bo ", [(0, 4, "A")], trim=True) == NerExample(("Bo",), (Span(0, 1, "A"),))
    with pytest.raises(ValueError, match="'  ' is nothing but white space"):
        from_offsets(" Bo   x", [(3, 5, "A")], trim=True)


def test_relations_and_other_records():
    text = "Ann's firm, Acme"
    example = from_offsets(text, [(12, 16, "A"), (0, 3, "B")], [(1, 0, "owns")], id="7")
    ann, acme = Span(0, 1, "B"), Span(4, 5, "A")
    assert example == JointExample(("Ann", "'s", "firm", ",", "Acme"), (ann, acme), example.relations)
    assert [(r.head, r.tail, r.label) for r in example.relations] == [(ann, acme, "owns")]
    assert example.id == "7"
    task = JointTask(["A", "B"], ["owns"])
    assert task.decode(text, task.encode(example).target).prediction == example
    with pytest.raises(ValueError, match=r"relation \(0, 2, 'owns'\): there is no span 2"):
        from_offsets(text, [(12, 16, "A"), (0, 3, "B")], [(0, 2, "owns")])
    tokens, (head, tail) = token_spans("Oslo-based Acme", [(0, 4), (11, 15)])
    assert RelationExample(tokens, head, tail) == RelationExample(("Oslo", "-based", "Acme"), Span(0, 1), Span(2, 3))


def test_tokens_must_be_those_of_the_text():
    example = NerExample(("New York", "is", "far"), (Span(0, 1, "A"),))
    assert to_offsets(example, "  New York is\nfar ") == [TextSpan(2, 10, "A")]
    for text, message in [
        ("New  York is far", "token 0, 'New York', does not stand at character 0 of the text, which reads 'New  York "),
        ("New York was far", "token 1, 'is', .* which reads 'was far'"),
        ("New York is far away", "goes on with ' away' after the last token"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_offsets(example, text)
    with pytest.raises(ValueError, match="does not know its raw text; pass text="):
        to_offsets(example)
    with pytest.raises(ValueError, match="text='New York' does not consist of the tokens"):
        NerExample(("New",), text="New York")


def test_the_text_takes_no_part_in_equality_and_survives_a_data_set():
    example = from_offsets("Ann  left.", [(0, 3, "A")])
    assert example == NerExample(("Ann", "left", "."), (Span(0, 1, "A"),))
    dataset = to_dataset([example, NerExample(("x",))])
    assert dataset["text"] == ["Ann  left.", ""]
    again = from_dataset(dataset, NerExample)
    assert again == [example, NerExample(("x",))]
    assert to_offsets(again[0]) == [TextSpan(0, 3, "A")]
    assert from_dataset(dataset.remove_columns("text"), NerExample)[0].text == ""


def test_predictions_of_raw_texts_have_character_spans():
    text = "  Bern,\n\nnot Turin's  rain"
    tokenizer = tiny_tokenizer(["[ ] | place person , not rain Bern Turin 's"])
    model = Marker(tokenizer, {"Bern": "place", "Turin": "place"})
    gold = from_offsets(text, [(2, 6, "B"), (13, 18, "B")])
    for given_ in (text, gold):
        (result,) = predict(model, tokenizer, TASK, [given_])
        assert [text[span.start : span.end] for span in result.text_spans] == ["Bern", "Turin"]
    assert evaluate(model, tokenizer, TASK, [gold])["f1"] == 1.0


def test_gold_boundaries_are_not_shown_to_the_model():
    """The same source for any spans; predictions are compared by their characters, whatever tokens they split."""
    text = "non-EU firms of Oslo"
    tokenizer = tiny_tokenizer(["[ ] | place person non-EU non- EU firms of Oslo"])
    model = Marker(tokenizer, {"Oslo": "place"})
    gold = from_offsets(text, [(4, 6, "A"), (16, 20, "B")])
    scores = evaluate(model, tokenizer, TASK, [gold])
    assert model.read == ["non-EU firms of Oslo"]
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)
    (feature,) = to_features(TASK, tokenizer, [gold])
    assert tokenizer.decode(feature["input_ids"], skip_special_tokens=True) == "non-EU firms of Oslo"
    written = "non- [ EU | person ] firms of [ Oslo | place ]"
    assert tokenizer.decode(feature["labels"], skip_special_tokens=True) == written
    model = Marker(tokenizer, text=written)
    assert evaluate(model, tokenizer, TASK, [gold])["f1"] == 1.0
    other = TASK.decode("another text", "")
    with pytest.raises(ValueError, match="another sentence; pass predictions in the order of their examples"):
        TASK.score([gold], [other])


def test_what_is_too_long_keeps_its_text():
    text = "a  b c-d e f"
    example = from_offsets(text, [(3, 4, "A"), (7, 8, "B"), (11, 12, "A")])
    read = TASK.shorten(example, lambda source: len(source.split()) <= 3)
    assert read.text == "a  b c-d"
    assert plain(to_offsets(read)) == [(3, 4, "A"), (7, 8, "B")]
    found = TASK.restore(example, TASK.decode(read, "a [ b | person ] c- [ d | place ]").prediction)
    assert plain(to_offsets(found)) == [(3, 4, "A"), (7, 8, "B")]
    assert found.text == text


def test_spans_of_tokens_only_have_no_characters():
    with pytest.raises(ValueError, match="predict raw texts"):
        _ = TASK.decode(["Ann"], "[ Ann | person ]").text_spans
    with pytest.raises(TypeError, match="DstExample has no spans"):
        _ = DstTask({"d": ["s"]}).decode("hi", "[belief] [belief]").text_spans


def test_bytes_of_a_tokenizer_do_not_change_spans():
    text = "Ann's 👍🏽 in Oslo"
    tokenizer = bpe_tokenizer([text])
    example = from_offsets(text, [(0, 3, "A"), (6, 8, "B"), (12, 16, "B")])
    target = TASK.encode(example).target
    written = tokenizer.decode(tokenizer(target, add_special_tokens=False)["input_ids"])
    assert plain(TASK.decode(text, written).text_spans) == plain(to_offsets(example))


def test_an_encoder_labels_whole_words(tmp_path):
    text = "non-EU firms of Oslo"
    example = from_offsets(text, [(4, 6, "A"), (7, 12, "A"), (16, 20, "B")])
    tokenizer = bpe_tokenizer([text])
    classes = TokenClassificationTask(TASK)
    decoded, problems = perfect(classes, tokenizer, example)
    assert [problem.kind for problem in problems] == ["partial_word"]
    assert plain(decoded.text_spans) == [(7, 12, "A"), (16, 20, "B")]
    assert classes.read(tokenizer, example, 99) == classes.read(tokenizer, TASK.from_text(text), 99)
    model, tokenizer = load_model(saved(tmp_path, bert(tokenizer), tokenizer), TASK)
    with pytest.warns(UserWarning, match="partial_word 1 .*labels whole words"):
        to_features(TASK, tokenizer, [example], model=model)
    (result,) = predict(model, tokenizer, TASK, [text])
    assert result.prediction.tokens == ("non-EU", "firms", "of", "Oslo")
