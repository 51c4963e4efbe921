"""Constrained generation: everything that tasks write is allowed, and nothing that they cannot read."""

from __future__ import annotations

import warnings
from math import exp, log

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import processors

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
    evaluate,
    from_offsets,
    predict,
    tokenize,
)
from peft_fishdip.tasks.coders import OneRow, TwoTexts
from peft_fishdip.tasks.constraint import Constraint, Path
from peft_fishdip.tasks.pieces import TokenizerPieces

from .test_families import gpt2, llama, t5
from .tiny import bpe_tokenizer, fit, tiny_tokenizer

NER = NerTask({"PER": "person", "LOC": "location", "AREA": "location area"})
SRL = SrlTask(["ARG0", "ARG1"])
JOINT = JointTask({"P": "person", "O": "organization"}, {"W": "works for", "L": "lives in"})
RELATION = RelationTask({"P1": "lives in", "P2": "left", "P3": "lives"})
DST = DstTask({"hotel": ["area", "price range"], "train": ["day"], "taxi": []})

ANN, ACME = Span(0, 2, "P"), Span(3, 4, "O")
EXAMPLES = {
    NER: [
        NerExample(
            ["Ann", "{", "Lee", "}", "|", "left", "[", "Oslo", "]", "."],
            (Span(0, 3, "PER"), Span(2, 3, "PER"), Span(7, 8, "LOC")),
        ),
        NerExample(("Rain",), ()),
        NerExample(("of", "\u200b", " ", "m²", "½"), (Span(3, 5, "LOC"),)),
    ],
    SRL: [SrlExample(["Ann", "sold", "the", "old", "car"], Span(1, 2), (Span(0, 1, "ARG0"), Span(2, 5, "ARG1")))],
    JOINT: [
        JointExample(["Ann", "Lee", "of", "Acme"], (ANN, ACME), (Relation(ANN, ACME, "W"), Relation(ACME, ANN, "L"))),
        JointExample(["a", "b", "a", "b", "a"], (Span(0, 1, "P"), Span(2, 4, "O")), ()),
    ],
    RELATION: [RelationExample(["Ann", "lives", "in", "New", "Oslo"], Span(0, 1), Span(3, 5), "P1")],
    DST: [
        DstExample((Turn("user", "A hotel in the north, please."),), (SlotValue("hotel", "area", "north, or so"),)),
        DstExample((Turn("user", "Hello"),), ()),
        DstExample((Turn("user", "x"),), (SlotValue("hotel", "area", "[a]"), SlotValue("train", "day", "Monday"))),
    ],
}
NAMES = ["person", "location area", "ARG0", "ARG1", "organization", "works for", "lives in", "left", "price range"]
TEXTS = [text for task, some in EXAMPLES.items() for each in some for text in task.encode(each)[:2]]
TEXTS += [" ".join(NAMES), "[ x | x ] = 1 , [belief] hotel train area day not given"]
WORDS, BYTES = tiny_tokenizer(TEXTS), bpe_tokenizer(TEXTS)
CODERS = [TwoTexts(WORDS), OneRow(BYTES)]


def accepted(task, record, coder):
    """A target as the grammar reads its tokens."""
    target = task.encode(record).target
    pieces = TokenizerPieces(coder)
    reading = Path(task.grammar(record, pieces), pieces).read(coder.targets([target])[0])
    assert reading is not None, target
    return reading


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("task", EXAMPLES)
def test_targets_are_allowed_and_read_as_they_are(task, coder):
    for record in EXAMPLES[task]:
        target = task.encode(record).target
        if coder.tokenizer is WORDS and task is DST:
            continue  # of free text, what the tokenizer says is read
        assert accepted(task, record, coder).text == target
        assert accepted(task, record, coder).scores(task.decode(record, target).prediction) == (1.0,) * len(
            task.answers(task.decode(record, target).prediction)
        )


ODD = [
    "[",
    "]",
    "|",
    "=",
    "&lsqb;",
    "［",
    "²",
    "\u200b",
    "\u0301",
    "￼",
    "a",
    "a",
    "b",
    "b",
    "New York",
    " ",
    "’s",
    "中",
]
TOKENS = st.lists(st.sampled_from(ODD) | st.text(min_size=1, max_size=4), min_size=1, max_size=8)


@st.composite
def sentences(draw, labels):
    tokens = draw(TOKENS)
    places = st.tuples(st.integers(0, len(tokens)), st.integers(0, len(tokens)), st.sampled_from(labels))
    drawn = [Span(min(a, b), max(a, b), label) for a, b, label in draw(st.lists(places, max_size=4)) if a != b]
    return tokens, drawn


@given(sentences(["PER", "LOC"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_brackets_around_anything_are_allowed(drawn):
    record = NerExample(*drawn)
    target = NER.encode(record).target
    for coder in CODERS:
        text = accepted(NER, record, coder).text
        assert NER.decode(record, text).problems == ()
        if coder.tokenizer is BYTES:  # the words of the other one are all unknown, and brackets around them alike
            assert NER.decode(record, text).prediction == NER.decode(record, target).prediction


@given(sentences(["P", "O"]), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from("WL"))))
@example((["[", "]"], [Span(0, 1, "P"), Span(0, 1, "O"), Span(1, 2, "P"), Span(1, 2, "O")]), [(1, 2, "L"), (1, 3, "L")])
@example((list("abcab"), [Span(0, 1, "P"), Span(1, 3, "O"), Span(3, 5, "O")]), [(0, 1, "W"), (0, 2, "L")])
@example((list("xababcbc"), [Span(0, 1, "P"), Span(1, 3, "O"), Span(6, 8, "O")]), [(0, 1, "W"), (0, 2, "L")])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_relations_to_entities_are_allowed(drawn, pairs):
    spans = sorted(set(drawn[1]), key=lambda span: (span.start, -span.end))
    relations = [Relation(spans[h], spans[t], label) for h, t, label in pairs if h < len(spans) and t < len(spans)]
    record = JointExample(drawn[0], spans, relations)
    encoded = JOINT.encode(record)
    if encoded.problems:
        return
    reading = accepted(JOINT, record, CODERS[1])
    assert JOINT.decode(record, reading.text) == JOINT.decode(record, encoded.target)


def test_four_brackets_may_begin_at_one_word():
    pieces = TokenizerPieces(CODERS[1])
    path = Path(NER.grammar(NerExample(("a", "b")), pieces), pieces)
    for count, fine in [(4, True), (5, False)]:
        text = "a " + "[ " * count + "b" + " | person ]" * count
        assert (path.read(CODERS[1].targets([text])[0]) is not None) == fine


def test_a_tail_is_a_bracket():
    pieces = TokenizerPieces(CODERS[0])
    record = JointExample(["Ann", "Lee", "of", "Acme"])
    path = Path(JOINT.grammar(record, pieces), pieces)
    for text, fine in [
        ("[ Ann Lee | person | works for = Acme ] of [ Acme | organization ]", True),
        ("[ Ann Lee | person | works for = Acme ] of Acme", False),  # the bracket that was promised is missing
        ("[ Ann Lee | person | works for = Ann Lee ] of Acme", True),
        ("[ Ann Lee | person | works for = Lee ] of Acme", False),
        ("[ Ann Lee | person | works for = of Acme ] of [ Acme | organization ]", False),
        ("[ Ann Lee | person | works for = of Acme ] [ of Acme | organization ]", True),
        ("[ Ann [ Lee | person ] | person | works for = Lee ] of Acme", True),
        ("[ [ Ann | person | works for = Ann Lee ] Lee | person ] of Acme", True),
        ("[ [ Ann | person | works for = Lee of ] Lee | person ] of Acme", False),
    ]:
        ids = WORDS(text)["input_ids"]
        assert (path.read(ids) is not None) == fine, text


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("base", "tokenizer"), [(t5, WORDS), (t5, BYTES), (llama, BYTES), (gpt2, BYTES)])
def test_whatever_a_model_has_learnt_its_texts_can_be_read(base, tokenizer, num_beams):
    model = base(tokenizer)
    free = 0
    for task, records in EXAMPLES.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*output_cut")
            options = {"num_beams": num_beams, "max_source_length": 70, "max_new_tokens": 56, "batch_size": 2}
            found = predict(model, tokenizer, task, records, **options)
            free += sum(
                bool(x.problems) for x in predict(model, tokenizer, task, records, constrained=False, **options)
            )
        for record, decoded in zip(records, found, strict=True):
            assert {problem.kind for problem in decoded.problems} <= {"output_cut"}
            again = task.decode(record, decoded.text)
            assert (again.prediction, again.problems) == (decoded.prediction, ())
            assert len(decoded.scores) == len(task.answers(decoded.prediction))
            assert all(0 <= score <= 1 for score in decoded.scores)
    assert free > 5


def allowed_words(words, tokens, labels):
    """What may follow in a bracketed sentence without relations, from its words so far."""
    copied, opened = 0, []
    for word, before in zip(words, [None, *words], strict=False):
        if word == "[":
            opened.append(copied)
        elif word == "]":
            opened.pop()
        elif word != "|" and before != "|":
            copied += 1
    if words[-1:] == ["|"]:
        return labels
    if words[-2:-1] == ["|"]:
        return ["]"]
    following = ["[", tokens[copied]] if copied < len(tokens) else []
    following += ["|"] if opened and opened[-1] < copied else []
    return following or ["</s>"]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_scores_are_probabilities_of_decisions(num_beams):
    task, tokens = NerTask(["X", "Y"]), ["a", "b", "c"]
    tokenizer = tiny_tokenizer(["[ a b c | X ] Y"])
    model = t5(tokenizer)
    fit(model, tokenizer, [("a b c", "[ a [ b | X ] | Y ] c"), ("c b a", "c [ b | X ] a")], steps=10)
    (decoded,) = predict(model, tokenizer, task, [tokens], num_beams=num_beams, max_new_tokens=60)
    assert decoded.prediction.spans
    assert not decoded.problems
    source = tokenizer(" ".join(tokens), return_tensors="pt")["input_ids"]
    words, expected, opened = [], {}, []
    copied = 0
    for word in decoded.text.split():
        allowed = allowed_words(words, tokens, ["X", "Y"])
        prefix = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(words)]])
        with torch.no_grad():
            logits = model(input_ids=source, decoder_input_ids=prefix).logits[0, -1]
        probabilities = logits.softmax(0)[tokenizer.convert_tokens_to_ids(allowed)]
        chances = dict(zip(allowed, (probabilities / probabilities.sum()).tolist(), strict=True))
        if (copy := next((x for x in allowed if x in tokens), None)) is not None:
            chances = dict(zip(allowed, probabilities.tolist(), strict=True))
            chances[copy] += 1 - sum(chances.values())  # whatever is not allowed is no bracket
        if word == "[":
            opened.append([copied, 1.0])
        if word == "]":
            start, chance = opened.pop()
            span = Span(start, copied, words[-1])
            expected[span] = max(chance, expected.get(span, 0))
        elif opened:
            opened[-1][1] *= chances[word]
        copied += word in tokens
        words.append(word)
    assert 0.05 < min(expected.values()) < 0.95
    assert decoded.scores == pytest.approx([expected[span] for span in decoded.prediction.spans], rel=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_score_of_a_relation_is_among_all_labels(num_beams):
    tokenizer = tiny_tokenizer(TEXTS)
    model = t5(tokenizer)
    (record,) = EXAMPLES[RELATION]
    (decoded,) = predict(model, tokenizer, RELATION, [record], num_beams=num_beams, max_new_tokens=40)
    source = tokenizer(RELATION.source(record), return_tensors="pt")["input_ids"]
    ids = tokenizer.convert_tokens_to_ids

    def chances(text, *allowed):
        prefix = torch.tensor([[0, *tokenizer(text)["input_ids"][:-1]]])
        with torch.no_grad():
            logits = model(input_ids=source, decoder_input_ids=prefix).logits[0, -1]
        return logits[ids([*allowed])].softmax(0).tolist()

    begun = "relationship between [ Ann ] and [ New Oslo ] ="
    lives, left = chances(begun, "lives", "left")
    longer, end = chances(f"{begun} lives", "in", "</s>")
    expected = {"P1": lives * longer, "P2": left, "P3": lives * end}
    assert sum(expected.values()) == pytest.approx(1)
    assert decoded.scores == pytest.approx([expected[decoded.prediction.label]], rel=1e-4)
    assert num_beams == 1 or decoded.scores[0] == pytest.approx(max(expected.values()), rel=1e-4)


@pytest.mark.parametrize(("base", "tokenizer"), [(t5, WORDS), (gpt2, BYTES)])
def test_the_score_of_a_slot_value_is_that_of_its_free_text(base, tokenizer):
    record = EXAMPLES[DST][0]
    pieces = TokenizerPieces((TwoTexts if base is t5 else OneRow)(tokenizer))
    path = Path(DST.grammar(record, pieces), pieces, 60)
    text = "[belief] train day Monday [belief]"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    constraint = Constraint([path])
    torch.manual_seed(0)
    rows = torch.randn(len(ids), len(tokenizer))
    for step, scores in enumerate(rows):
        constraint(torch.tensor([[0, *ids[:step]]]), scores[None])
    reading = path.read(ids)
    value = len(tokenizer("[belief] train day", add_special_tokens=False)["input_ids"])
    end = len(tokenizer("[belief] train day Monday", add_special_tokens=False)["input_ids"])
    special = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
    special |= {*tokenizer.convert_tokens_to_ids(["<turn>"])} if tokenizer is BYTES else set()
    free = [
        i
        for i in range(len(tokenizer))
        if i not in special and not set("[]|=,") & set(tokenizer.decode([i])) and tokenizer.decode([i])
    ]
    logps = []
    for step in range(value, end + 1):
        allowed = free if step == value else [*free, ids[end]]  # the value may end after its first token
        allowed = sorted({*allowed})
        logps.append(rows[step][ids[step]].item() - torch.logsumexp(rows[step][allowed], 0).item())
    domains = [tokenizer(f"[belief] {name}", add_special_tokens=False)["input_ids"] for name in ("hotel", "train")]
    mark = len(tokenizer("[belief]", add_special_tokens=False)["input_ids"])
    choices = sorted({domains[0][mark], domains[1][mark], ids[end]})
    logps.append(rows[mark][ids[mark]].item() - torch.logsumexp(rows[mark][choices], 0).item())
    (score,) = reading.scores(DST.decode(record, reading.text).prediction)
    assert log(score) == pytest.approx(sum(logps), rel=1e-4)


def wanting(tokenizer, word, base=t5):
    """A model that would rather write one word than anything else."""
    model = base(tokenizer)
    place = tokenizer.convert_tokens_to_ids(word)

    def prefer(_, args, output):
        output.logits[..., place] += 100

    model.register_forward_hook(prefer)
    return model


def test_what_would_not_fit_is_not_written_and_told():
    task = NerTask(["X"])
    tokenizer = tiny_tokenizer(["[ a b | X ]"])
    with pytest.warns(UserWarning, match="1 of 1 outputs were cut after max_new_tokens=12"):
        (decoded,) = predict(wanting(tokenizer, "["), tokenizer, task, ["a b"], max_new_tokens=12)
    assert decoded.text.count("[") == 2
    assert [problem.kind for problem in decoded.problems] == ["output_cut"]
    assert "would have gone on" in decoded.problems[0].message
    (decoded,) = predict(wanting(tokenizer, "a"), tokenizer, task, ["a b"], max_new_tokens=3)
    assert (decoded.text, decoded.problems) == ("a b", ())
    with pytest.warns(UserWarning, match="output_cut"):
        (decoded,) = predict(wanting(tokenizer, "a"), tokenizer, task, ["a b"], max_new_tokens=2)
    assert decoded.problems[0].kind == "output_cut"
    assert decoded.scores == ()


RAW = "Ann lives in New York-based 3.5 x"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ann lives in [ New York | location ] -based 3.5 x", {"New York"}),
        ("Ann lives in New [ York- | location ] based 3. [ 5 | person ] x", {"York-", "5"}),
        ("Ann in [ [ New | person ] York-based [ 3 | person ] . | location ] 5 x", None),  # a word is missing
        (
            "Ann lives in [ [ New | person ] York-based [ 3 | person ] . | location ] 5 x",
            {"New", "New York-based 3 .", "3"},
        ),
        ("Ann lives in New York -based 3.5 x", None),
        ("Ann lives in New [ York | location ] - based 3.5 x", None),
        ("[ A | person ] nn lives in New York-based 3.5 x", {"A"}),
        ("A nn lives in New York-based 3.5 x", None),
    ],
)
def test_in_a_raw_text_brackets_may_split_tokens(text, found):
    coder = CODERS[1]
    pieces = TokenizerPieces(coder)
    (ids,) = coder.targets([text])
    reading = Path(NER.grammar(RAW, pieces), pieces).read(ids)
    assert (reading is None) == (found is None)
    assert Path(NER.grammar(tokenize(RAW), pieces), pieces).read(ids) is None  # these tokens are the user's
    if reading:
        decoded = NER.decode(RAW, reading.text)
        assert (reading.text, decoded.problems) == (text, ())
        assert {" ".join(decoded.prediction.tokens[x.start : x.end]) for x in decoded.prediction.spans} == found
        assert reading.scores(decoded.prediction) == (1.0,) * len(found)


def drawn_from(path, data):
    """A text that is written by choosing among all that is allowed, and its tokens."""
    node, ids = path.root, []
    while not node.done:
        ids.append(data.draw(st.sampled_from(node.allowed)))
        node = path.step(node, ids[-1])
    return path.read(ids), ids


def check_relations_drawn_from(source, limit, data):
    pieces = TokenizerPieces(CODERS[1])
    path = Path(JOINT.grammar(source, pieces), pieces, limit)
    reading, ids = drawn_from(path, data)
    assert len(ids) <= limit or path.grammar.rest(path.grammar.start) + 1 > limit
    decoded = JOINT.decode(source, reading.text)
    assert decoded.problems == ()
    assert len(reading.scores(decoded.prediction)) == len(JOINT.answers(decoded.prediction))


@given(st.text(max_size=12), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_written_for_a_raw_text_can_be_read(raw, data):
    pieces = TokenizerPieces(CODERS[1])
    path = Path(NER.grammar(raw, pieces), pieces, 90)
    reading, _ = drawn_from(path, data)
    decoded = NER.decode(raw, reading.text)
    assert decoded.problems == ()
    assert len(reading.scores(decoded.prediction)) == len(decoded.prediction.spans)


@given(TOKENS, st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_relations_are_written_can_be_read(tokens, data):
    check_relations_drawn_from(JointExample(tokens), 120, data)


RAW_ATOMS = [
    "Ann",
    "Coca-Cola",
    "O'Reilly",
    "7.5",
    "a",
    "서울에",
    "بباريس",
    "ไทย",
    "e\u0301",
    "½",
    "[",
    "&lsqb;",
    "\u200b",
]


@st.composite
def raw_relations(draw):
    """A raw text with entities that begin and end anywhere, and relations between them."""
    text = " ".join(draw(st.lists(st.sampled_from(RAW_ATOMS), min_size=1, max_size=5)))
    place = st.integers(0, len(text))
    spans = [
        (min(a, b), max(a, b), label) for a, b, label in draw(st.lists(st.tuples(place, place, st.sampled_from("PO"))))
    ]
    spans = [*dict.fromkeys(x for x in spans if text[x[0] : x[1]].strip() == text[x[0] : x[1]] != "")]
    number = st.integers(0, max(0, len(spans) - 1))
    relations = draw(st.lists(st.tuples(number, number, st.sampled_from("WL")), max_size=3)) if spans else []
    return from_offsets(text, spans, relations) if relations else from_offsets(text, spans, [(0, 0, "W")][: len(spans)])


@given(raw_relations())
@example(from_offsets("Ann of Coca-Cola", [(0, 3, "P"), (7, 16, "O")], [(0, 1, "W")]))
@example(from_offsets("Ann of Coca-Cola", [(0, 3, "P"), (7, 11, "O"), (7, 16, "O")], [(0, 2, "W"), (1, 2, "L")]))
@example(from_offsets("김은 서울에 비가", [(0, 1, "P"), (3, 5, "O")], [(0, 1, "W")]))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_relations_to_parts_of_a_raw_text_are_allowed(record):
    encoded = JOINT.encode(record)
    if encoded.problems:
        return
    reading = accepted(JOINT, record, CODERS[1])
    assert JOINT.decode(record, reading.text) == JOINT.decode(record, encoded.target)
    assert reading.scores(JOINT.decode(record, reading.text).prediction) == (1.0,) * len(JOINT.answers(record))


@given(st.lists(st.sampled_from(RAW_ATOMS), min_size=1, max_size=4).map(" ".join), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_relations_are_written_for_a_raw_text_can_be_read(raw, data):
    check_relations_drawn_from(raw, 150, data)


def test_a_tail_that_begins_within_letters_must_follow_its_entity():
    """Since a choice among all places within letters would cost more than it is worth; `encode` says so."""
    before = from_offsets("Berlinreise, Reiseberlin", [(0, 6, "O"), (18, 24, "O")], [(1, 0, "W")])
    assert JOINT.encode(before).problems == ()
    accepted(JOINT, before, CODERS[1])
    after = from_offsets("Ann mag Reiseberlin", [(0, 3, "P"), (13, 19, "O")], [(0, 1, "W")])
    (problem,) = JOINT.encode(after).problems
    assert problem.kind == "partial_tail"
    assert "berlin" in problem.message


def test_a_long_sentence_gets_the_room_that_it_needs():
    task = NerTask(["X"])
    tokenizer = tiny_tokenizer(["[ a | X ]"])
    model = t5(tokenizer)
    (decoded,) = predict(wanting(tokenizer, "a"), tokenizer, task, [["a"] * 600], max_source_length=700, windows=False)
    assert decoded.text == " ".join(["a"] * 600)
    with pytest.warns(UserWarning, match="output_cut"):
        (decoded,) = predict(model, tokenizer, task, [["a"] * 20], max_new_tokens=10)


@pytest.mark.parametrize(("base", "tokenizer"), [(t5, WORDS), (llama, BYTES)])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_all_texts_begin_with_is_given_at_once(base, tokenizer, num_beams, monkeypatch):
    model = base(tokenizer)
    records = [*EXAMPLES[RELATION], RelationExample(["Ann", "left", "Oslo"], Span(0, 1), Span(2, 3), "P2")]
    options = {"num_beams": num_beams, "max_source_length": 70, "max_new_tokens": 50}
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    at_once = predict(model, tokenizer, RELATION, records, **options)
    few = len(calls)
    monkeypatch.setattr(Constraint, "begin", lambda *_: {})
    one_by_one = predict(model, tokenizer, RELATION, records, **options)
    assert few < (len(calls) - few) / 2
    for one, other in zip(at_once, one_by_one, strict=True):
        assert one.prediction == other.prediction
        assert one.scores == pytest.approx(other.scores, rel=1e-4)


def test_end_marks_in_the_text_end_nothing():
    marks = RelationExample(("</s>", "b"), Span(0, 1), Span(1, 2))
    (decoded,) = predict(t5(BYTES), BYTES, RelationTask(["X"]), [marks])
    assert decoded.text == "relationship between [ </s> ] and [ b ] = X"
    words = ("a", "</s>", "<turn>")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*output_cut")
        (decoded,) = predict(t5(BYTES), BYTES, NerTask(["X"]), [words], max_new_tokens=40)
    assert decoded.prediction.tokens == words
    assert {problem.kind for problem in decoded.problems} <= {"output_cut"}


def test_targets_may_begin_with_a_mark():
    tokenizer = tiny_tokenizer(["<s> a b [ ] | X"])
    ids = dict(zip(["<s>", "</s>"], tokenizer.convert_tokens_to_ids(["<s>", "</s>"]), strict=True))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[*ids.items()]
    )
    pieces = TokenizerPieces(TwoTexts(tokenizer))
    assert (pieces.before, pieces.after) == ((ids["<s>"],), (ids["</s>"],))
    path = Path(NerTask(["X"]).grammar(NerExample(("a", "b")), pieces), pieces)
    assert path.forced() == [ids["<s>"]]
    assert path.read(tokenizer("a [ b | X ]")["input_ids"]).text == "a [ b | X ]"


def test_other_rules_of_generation_give_way():
    model = t5(WORDS)
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.min_new_tokens = 30
    tokens = ("Ann", "left", "Ann", "left", "Ann")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*output_cut")
        (decoded,) = predict(model, WORDS, NER, [tokens], max_new_tokens=40)
    assert decoded.prediction.tokens == tokens
    assert {problem.kind for problem in decoded.problems} <= {"output_cut"}


class Shouted(NerTask):
    """A subclass whose texts are not those of NerTask."""

    def decode(self, example, text):
        return super().decode(example, text.lower())


def test_a_task_without_a_grammar_of_its_own_is_decoded_freely():
    task = Shouted({"PER": "person"})
    assert not task.has_own_grammar()
    assert NER.has_own_grammar()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*output_cut")
        (decoded,) = predict(t5(WORDS), WORDS, task, ["Ann left"], max_new_tokens=10)
        assert "calibration_error" not in evaluate(t5(WORDS), WORDS, task, [NerExample(("Ann",))], max_new_tokens=10)
    assert decoded.scores == ()


def test_no_decision_has_a_probability_above_one():
    pieces = TokenizerPieces(CODERS[0])
    path = Path(NER.grammar(NerExample(("Ann",)), pieces), pieces)
    assert path.step(path.root, path.root.allowed[0], 1e-9).logp == 0
    assert exp(path.root.logp) == 1
