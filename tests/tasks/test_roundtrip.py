"""decode(encode(x)) == x for any tokens; what cannot be carried is reported, and nothing else is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    DstExample,
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    Relation,
    RelationExample,
    RelationTask,
    SlotValue,
    Span,
    SrlExample,
    SrlTask,
    Turn,
    to_offsets,
)
from peft_fishdip.tasks.roundtrip import as_text, main, round_trip

from .tiny import tiny_tokenizer

# Few words, so that they repeat, among them the format's own characters and their escapes.
WORD = st.sampled_from(["a", "b", "[", "]", "|", "=", "x=y", "[belief]", "&lsqb;", "&amp;", "not", "given", ","])
BLANK = st.sampled_from(["", " ", "\xa0", "\n"])
LABELS = {"A": "kind a", "B": "kind b"}


def crosses(one: Span, other: Span) -> bool:
    first, second = sorted((one, other), key=lambda s: (s.start, -s.end))
    return first.start < second.start < first.end < second.end


@st.composite
def sentences(draw, crossing: bool):
    tokens = draw(st.lists(WORD, min_size=1, max_size=10))
    spans: list[Span] = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(tokens) - 1))
        span = Span(start, draw(st.integers(start + 1, len(tokens))), draw(st.sampled_from("AB")))
        if crossing or not any(crosses(span, other) for other in spans):
            spans.append(span)
    return tuple(tokens), tuple(spans)


@settings(max_examples=400, deadline=None)
@given(sentences(crossing=False))
def test_nested_spans_come_back(sentence):
    example = NerExample(*sentence)
    task = NerTask(LABELS)
    encoded = task.encode(example)
    decoded = task.decode(example.tokens, encoded.target)
    assert encoded.problems == ()
    assert decoded.prediction == example
    assert decoded.problems == ()


@settings(max_examples=400, deadline=None)
@given(sentences(crossing=True))
def test_crossing_spans_are_reported_one_by_one(sentence):
    example = NerExample(*sentence)
    task = NerTask(LABELS)
    encoded = task.encode(example)
    kept = task.decode(example.tokens, encoded.target).prediction.spans
    lost = set(example.spans) - set(kept)
    assert set(kept) <= set(example.spans)
    assert [p.kind for p in encoded.problems] == ["crossing_span"] * len(lost)
    for span in lost:
        assert any(crosses(span, other) for other in kept)
        assert any(str(span) in problem.message for problem in encoded.problems)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WORD, BLANK, st.just("a b")), min_size=1, max_size=10), st.data())
def test_tokens_of_white_space(tokens, data):
    start = data.draw(st.integers(0, len(tokens) - 1))
    span = Span(start, data.draw(st.integers(start + 1, len(tokens))), "A")
    example = NerExample(tuple(tokens), (span,))
    task = NerTask(LABELS)
    encoded = task.encode(example)
    same = task.decode(example, encoded.target).prediction == example
    blank = not tokens[span.start].strip() or not tokens[span.end - 1].strip()
    assert same == (not blank)
    assert [p.kind for p in encoded.problems] == ["blank_boundary"] * blank


@settings(max_examples=400, deadline=None)
@given(sentences(crossing=True), st.data())
def test_relations_come_back_or_are_reported(sentence, data):
    tokens, spans = sentence
    relations = ()
    if spans:
        end = st.sampled_from(spans)
        relations = data.draw(st.lists(st.builds(Relation, end, end, st.sampled_from("RS")), max_size=4))
    example = JointExample(tokens, spans, tuple(relations))
    task = JointTask(LABELS, {"R": "rel r", "S": "rel s"})
    encoded = task.encode(example)
    decoded = task.decode(example, encoded.target)
    lost = [p for p in encoded.problems if p.kind in ("ambiguous_tail", "relation_of_lost_span")]
    assert len(lost) == len(set(example.relations) - set(decoded.prediction.relations))
    assert decoded.prediction == example or encoded.problems


@settings(max_examples=200, deadline=None)
@given(sentences(crossing=False), st.data())
def test_arguments_come_back(sentence, data):
    tokens, spans = sentence
    at = data.draw(st.integers(0, len(tokens) - 1))
    example = SrlExample(tokens, Span(at, at + 1, "V"), spans)
    result = round_trip(SrlTask(LABELS), [example])
    assert (result.num_equal, result.reasons, result.problems) == (1, {}, {})


@settings(max_examples=200, deadline=None)
@given(st.lists(WORD, min_size=2, max_size=6), st.sampled_from("AB"))
def test_relation_labels_come_back(tokens, label):
    example = RelationExample(tuple(tokens), Span(0, 1), Span(1, 2), label)
    assert round_trip(RelationTask(LABELS), [example]).num_equal == 1


VALUES = st.lists(st.one_of(WORD, st.sampled_from(["10:30", "alpha-milton", "a, b", "[belief]"])), min_size=1)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["area", "book day", "name"]), VALUES.map(" ".join)))
def test_states_come_back(values):
    state = tuple(SlotValue("hotel", slot, value) for slot, value in values.items() if value != "not given")
    task = DstTask({"hotel": ("area", "book day", "name", "stars")})
    result = round_trip(task, [DstExample((Turn("user", "hi"),), state)])
    assert (result.num_equal, result.problems) == (1, {})


def test_table_counts_and_names_reasons():
    crossing = NerExample(("a", "b", "c"), (Span(0, 2, "A"), Span(1, 3, "A")))
    result = round_trip(NerTask(LABELS), [crossing, NerExample(("a",))])
    assert (result.num_examples, result.num_equal, result.reasons) == (2, 1, {"crossing_span": 1})


def test_through_a_tokenizer():
    example = NerExample(("a", "unheard", "b"), (Span(1, 2, "A"),))
    target = NerTask(LABELS).encode(example).target
    knows, lacks = tiny_tokenizer([target]), tiny_tokenizer([target.replace("unheard", "")])
    assert lacks.unk_token_id in lacks(target)["input_ids"]
    for tokenizer in (knows, lacks):  # <unk> is aligned to the word it stands for
        assert round_trip(NerTask(LABELS), [example], tokenizer).num_equal == 1
    without_label = tiny_tokenizer([target.replace("kind", "")])
    result = round_trip(NerTask(LABELS), [example], without_label)
    assert result.reasons == {"unexplained": 1}


def test_table_command(tmp_path, capsys):
    folder = tmp_path / "wnut17"
    folder.mkdir()
    (folder / "tiny.conll").write_text("Ann\tB-person\nleft\tO\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "| WNUT-17 NER | wnut17/tiny.conll | 1 | 1 | - | - |" in shown
    assert "| WNUT-17 NER, raw text | wnut17/tiny.conll | 1 | 1 | - | - |" in shown
    assert main([]) == 2


def test_a_malformed_file_is_named_and_the_others_are_done(tmp_path, capsys):
    folder = tmp_path / "wnut17"
    folder.mkdir()
    (folder / "bad.conll").write_text("Ann\tB-person\nleft\n", encoding="utf-8")
    (folder / "empty.conll").touch()
    (folder / "tiny.conll").write_text("Ann\tB-person\nleft\tO\n", encoding="utf-8")
    (folder / "unknown.conll").write_text("Ann\tB-animal\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    shown, told = capsys.readouterr()
    assert "| WNUT-17 NER | wnut17/tiny.conll | 1 | 1 | - | - |" in shown
    assert "| WNUT-17 NER, raw text | wnut17/tiny.conll | 1 | 1 | - | - |" in shown
    assert shown.count("| not read | | | |") == 6
    assert "wnut17/bad.conll: DataFormatError:" in told
    assert "line 2: expected 2 columns" in told
    assert "wnut17/empty.conll: ValueError:" in told
    assert "unknown entity type 'animal'" in told
    assert f"6 of the files could not be read; correct them, or take them out of {tmp_path}" in told


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder; give the one that holds the data sets" in capsys.readouterr().err


def test_examples_of_tokens_as_raw_texts():
    eu, ann = Span(2, 3, "A"), Span(5, 6, "B")
    example = JointExample(("non", "-", "EU", "firms", "(", "Ann", ")"), (eu, ann), (Relation(ann, eu, "R"),), "7")
    raw = as_text(example)
    assert raw.text == "non-EU firms(Ann)"
    assert [raw.text[span.start : span.end] for span in to_offsets(raw)] == ["EU", "Ann"]
    assert [(raw.tokens[x.head.start], raw.tokens[x.tail.start]) for x in raw.relations] == [("Ann", "EU")]
    assert raw.id == "7"


PIECES = ["[", "]", "|", "=", "a", "b", "kind a", "kind b", "rel r", "[belief]", ",", "hotel area"]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join)))
def test_whatever_a_model_writes_can_be_decoded(text):
    tokens = ("a", "b", "a")
    decodings = [
        NerTask(LABELS).decode(tokens, text),
        JointTask(LABELS, {"R": "rel r"}).decode(tokens, text),
        SrlTask(LABELS).decode(SrlExample(tokens, Span(0, 1)), text),
        RelationTask(LABELS).decode(RelationExample(tokens, Span(0, 1), Span(1, 2)), text),
        DstTask({"hotel": ("area", "name")}).decode("hi", text),
    ]
    assert all(decoded.text == text for decoded in decodings)
    for decoded in decodings[:4]:
        assert decoded.prediction.tokens == tokens
