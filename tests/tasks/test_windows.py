"""Documents of any length: everything is read, and what windows find stands where it stands in the document."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    Decoded,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    Relation,
    Span,
    evaluate,
    from_offsets,
    load_model,
    predict,
    to_features,
    to_offsets,
)
from peft_fishdip.tasks.merging import merge
from peft_fishdip.tasks.windows import in_windows

from .test_families import bert, llama, saved
from .test_lengths import FILLER, Marker
from .tiny import bpe_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer([FILLER, "[ ] | = Bern Turin Bo met lives in place person near , . the The rain fell"])
NER = NerTask({"LOC": "place", "PER": "person"})
NAMES = {"Bern": "place", "Turin": "place", "Bo": "person"}


def document(count):
    """Sentences of 9 to 12 words in lines of two, each with a name."""
    sentences = []
    for number in range(count):
        filler = " ".join(FILLER.split()[: 6 + number % 4])
        sentences.append(f"{['Bern', 'Turin', 'Bo'][number % 3]} , {filler} .")
    return "".join(f"{sentence}{' ' if i % 2 else chr(10)}" for i, sentence in enumerate(sentences))


def gold(text):
    labels = {"place": "LOC", "person": "PER"}
    spans, place = [], 0
    for word in text.split():
        place = text.index(word, place)
        if word in NAMES:
            spans.append((place, place + len(word), labels[NAMES[word]]))
    return from_offsets(text, spans)


@pytest.mark.parametrize("count", [1, 3, 4, 40])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_whole_documents_are_read(count, as_tokens, caplog):
    text = document(count)
    example = gold(text)
    model = Marker(TOKENIZER, NAMES)
    caplog.set_level(logging.INFO, "peft_fishdip.tasks.windows")
    item = example.tokens if as_tokens else text
    result, short = predict(model, TOKENIZER, NER, [item, "Bo ."], max_source_length=40)  # without a warning
    assert result.prediction == example
    if not as_tokens:
        assert result.text_spans == to_offsets(example)
    assert short.prediction.tokens == ("Bo", ".")
    assert short.problems == ()
    assert all(len(read.split()) < 40 for read in model.read)
    long = count > 3
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"] * long
    assert ("1 of 2 texts are too long to be read at once" in caplog.text) == long
    if long:
        windows = [read for read in model.read if read != "Bo ."]
        assert f"in {len(windows)} windows" in result.problems[0].message
        assert all(read.endswith(".") and read.split()[0] in NAMES for read in windows)  # whole sentences
        assert len(windows) < 2 * count
    assert evaluate(model, TOKENIZER, NER, [example], max_source_length=40)["f1"] == 1.0


def test_windows_leave_room_for_the_labels():
    text = document(12)
    model = Marker(TOKENIZER, NAMES)
    (result,) = predict(model, TOKENIZER, NER, [text], max_new_tokens=64)  # without output_cut
    assert result.prediction == gold(text)


def test_without_windows_a_long_text_is_cut_with_a_warning():
    text = document(12)
    model = Marker(TOKENIZER, NAMES)
    with pytest.warns(UserWarning, match="1 of 1 sources"):
        (result,) = predict(model, TOKENIZER, NER, [text], max_source_length=40, windows=False)
    assert [problem.kind for problem in result.problems] == ["source_cut"]
    assert 0 < len(result.prediction.spans) < 12
    assert text.startswith(model.read[0][:10])
    assert result.text_spans == to_offsets(gold(text))[: len(result.prediction.spans)]


@pytest.mark.filterwarnings("ignore:.*source_cut.*:UserWarning")
def test_a_word_that_is_too_long_is_named():
    tokenizer = bpe_tokenizer(["a b"])
    task = NerTask({"LOC": "place"})
    text = "Bern a " + "xy" * 60 + " b Bern"
    (result,) = predict(Marker(tokenizer, {"Bern": "place"}), tokenizer, task, [text], max_source_length=40)
    kinds = {problem.kind for problem in result.problems}
    assert {"cut_into_windows", "source_cut"} <= kinds
    assert [text[span.start : span.end] for span in result.text_spans] == ["Bern", "Bern"]


def test_encoders_read_whole_documents(tmp_path):
    model, tokenizer = load_model(saved(tmp_path, bert(TOKENIZER), TOKENIZER), NER)
    tag = {tokenizer.convert_tokens_to_ids("Bern"): 1, tokenizer.convert_tokens_to_ids("Bo"): 3}

    def forward(input_ids, attention_mask):
        """In place of the network: logits of B-LOC for each Bern, and of B-PER for each Bo."""
        assert input_ids.shape[1] <= 128  # what the model can read
        tags = torch.tensor([[tag.get(token, 0) for token in row] for row in input_ids.tolist()])
        return SimpleNamespace(logits=torch.nn.functional.one_hot(tags, 5).float())

    model.forward = forward
    text = document(30)
    (result,) = predict(model, tokenizer, NER, [text])
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    assert result.text_spans == [span for span in to_offsets(gold(text)) if text[span.start : span.end] != "Turin"]


def test_relations_of_long_texts():
    task = JointTask({"LOC": "place", "PER": "person"}, {"IN": "lives in"})
    text = "Bo lives in Bern . The rain fell .\n" * 12
    model = Marker(TOKENIZER, {"Bern": "place", "Bo": "person | lives in = Bern"})
    (result,) = predict(model, TOKENIZER, task, [text], max_source_length=40)
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    relations = result.prediction.relations
    assert [(x.head.start, x.tail.start) for x in relations] == [(9 * i, 9 * i + 3) for i in range(12)]
    assert {text[span.start : span.end] for span in result.text_spans} == {"Bo", "Bern"}


def test_labels_of_records_play_no_part():
    tokens = document(12).split()
    spans = (Span(0, 45, "LOC"), Span(50, 95, "PER"))
    ner, joint = NerExample(tokens, spans), JointExample(tokens, spans, (Relation(*spans, "IN"),))
    models = [Marker(TOKENIZER), Marker(TOKENIZER)]
    for model, example in zip(models, (ner, NerExample(tokens)), strict=True):
        (result,) = predict(model, TOKENIZER, NER, [example], max_source_length=40)
        assert result.prediction == NerExample(tokens)
    assert models[0].read == models[1].read
    task = JointTask({"LOC": "place", "PER": "person"}, {"IN": "lives in"})
    (result,) = predict(Marker(TOKENIZER), TOKENIZER, task, [joint], max_source_length=40)
    assert result.prediction == JointExample(tokens)


@pytest.mark.parametrize("template", [None, "Mark the names in: {source} ="])
def test_causal_models_read_whole_documents(template):
    text = document(20)
    tokenizer = bpe_tokenizer([text, "[ place ] | person"])
    model = llama(tokenizer, max_position_embeddings=400)
    before, after = (template or "{source}\n").split("{source}")

    def generate(input_ids, attention_mask, max_new_tokens, **options):
        """In place of the network: writes the source with its names marked."""
        assert input_ids.shape[1] + max_new_tokens <= 400
        rows = []
        for ids in input_ids.tolist():
            read = tokenizer.decode(ids, skip_special_tokens=True)
            assert read.startswith(before)
            words = read.removeprefix(before).removesuffix(after).split()
            written = " ".join(f"[ {word} | {NAMES[word]} ]" if word in NAMES else word for word in words)
            rows.append(tokenizer(written, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])
        width = max(map(len, rows))
        padded = [row + [tokenizer.eos_token_id] * (width - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(padded)], 1)

    model.generate = generate
    (result,) = predict(model, tokenizer, NER, [text], max_new_tokens=200, template=template)
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    assert result.prediction == gold(text)
    assert result.text_spans == to_offsets(gold(text))


DOCUMENT = NerExample([f"w{i}" for i in range(30)])
RANGES = [(0, 20), (10, 30)]


@dataclass(frozen=True)
class Scored(Decoded):
    """A prediction with scores of its spans."""

    scores: tuple[float, ...] = ()


def merged(first, second, scores=None, kind=NerExample, relations=((), ())):
    """Spans of the document as each of two windows finds them; with scores, (start, end) in place of the label."""
    results = []
    for (start, end), spans, some in zip(RANGES, (first, second), relations, strict=True):
        moved = {span: Span(span.start - start, span.end - start, span.label) for span in spans}
        more = [tuple(Relation(moved[r.head], moved[r.tail], r.label) for r in some)] if kind is JointExample else []
        prediction = kind(DOCUMENT.tokens[start:end], tuple(moved.values()), *more)
        if scores is None:
            results.append(Decoded(prediction, (), "x"))
        else:
            whole = {new: scores[old, start] for old, new in moved.items()}
            results.append(Scored(prediction, (), "x", tuple(whole[span] for span in prediction.spans)))
    return merge(kind(DOCUMENT.tokens), RANGES, results)


A, B = "A", "B"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([Span(2, 4, A)], [Span(25, 27, A)], [Span(2, 4, A), Span(25, 27, A)]),
        ([Span(12, 14, A)], [Span(12, 14, A)], [Span(12, 14, A)]),
        ([Span(12, 14, A)], [Span(12, 14, B)], [Span(12, 14, A)]),  # 6 from the edge, and 2
        ([Span(16, 18, A)], [Span(16, 18, B)], [Span(16, 18, B)]),
        ([Span(12, 14, A)], [], [Span(12, 14, A)]),
        ([], [Span(12, 14, A)], []),  # the first window saw more around it, and no span
        ([Span(18, 20, A)], [Span(18, 22, A)], [Span(18, 22, A)]),  # what was cut by the edge
        ([Span(8, 12, A)], [Span(10, 12, A)], [Span(8, 12, A)]),
        ([Span(11, 18, A), Span(12, 13, B)], [Span(11, 18, A)], [Span(11, 18, A), Span(12, 13, B)]),  # nested
        ([Span(13, 16, A)], [Span(15, 18, A)], [Span(15, 18, A)]),  # of two that cross: 4 and 5 from the edge
    ],
)
def test_spans_come_from_the_window_that_sees_most_around_them(first, second, expected):
    result = merged(first, second)
    assert list(result.prediction.spans) == expected
    assert result.prediction.tokens == DOCUMENT.tokens
    assert result.text == "x\nx"


def test_spans_of_higher_score_are_kept():
    one, other = Span(12, 14, A), Span(13, 16, B)
    result = merged([one], [other], {(one, 0): 0.4, (other, 10): 0.7})
    assert (result.prediction.spans, result.scores) == ((other,), (0.7,))
    result = merged([one], [other], {(one, 0): 0.8, (other, 10): 0.7})
    assert (result.prediction.spans, result.scores) == ((one,), (0.8,))
    far = Span(2, 3, A)
    result = merged([one, far], [one], {(one, 0): 0.4, (one, 10): 0.9, (far, 0): 0.1})
    assert (result.prediction.spans, result.scores) == ((far, one), (0.1, 0.9))
    at_edge, longer = Span(18, 20, A), Span(18, 22, A)
    result = merged([at_edge], [longer], {(at_edge, 0): 0.9, (longer, 10): 0.6})
    assert (result.prediction.spans, result.scores) == ((longer,), (0.6,))
    result = merged([], [], {})
    assert (result.prediction.spans, result.scores) == ((), ())


def test_relations_come_with_their_spans():
    head, near, far = Span(2, 3, A), Span(13, 14, A), Span(25, 26, B)
    first = Relation(head, near, "r")
    result = merged([head, near], [near, far], None, JointExample, ([first], [Relation(near, far, "r")]))
    assert result.prediction == JointExample(DOCUMENT.tokens, (head, near, far), (first, Relation(near, far, "r")))
    inner = Relation(Span(12, 13, A), Span(13, 14, A), "r")
    spans = [inner.head, inner.tail]
    assert merged(spans, spans, None, JointExample, ([inner], [])).prediction.relations == (inner,)
    assert merged(spans, spans, None, JointExample, ([], [inner])).prediction.relations == ()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b.", "c's", "Bern", "\n", "上海", "x-y"]), min_size=1, max_size=120),
    st.integers(32, 50),
    st.booleans(),
)
def test_windows_cover_documents(words, room, overlap):
    text = " ".join(words)
    example = NER.from_text(text)
    if not example.tokens:
        return

    def fits(part):
        return len(NER.source(part).split()) <= room

    plan = in_windows(NER, [example], fits, fits, room, overlap=overlap)
    (ranges,) = plan.ranges
    assert bool(ranges) != fits(example)
    if not ranges:
        assert plan.parts == [example]
        return
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(example.tokens)
    for (start, end), (after, _) in pairwise(ranges):
        assert start < after < end if overlap and end - start > 8 else start < after <= end
    for part, (start, end) in zip(plan.parts, ranges, strict=True):
        assert fits(part)
        assert part.tokens == example.tokens[start:end]
        assert part.text in text
        assert "".join(part.text.split()) == "".join(part.tokens)


def test_training_examples_in_windows():
    text = document(12)
    example = gold(text)
    with pytest.warns(UserWarning, match="source_cut 1 .*windows=True"):
        assert len(to_features(NER, TOKENIZER, [example], max_source_length=40)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = to_features(
            NER, TOKENIZER, [example, gold("Bo .")], max_source_length=40, max_target_length=50, windows=True
        )
    assert all(len(feature["input_ids"]) <= 40 and len(feature["labels"]) <= 50 for feature in features)
    read = [TOKENIZER.decode(feature["input_ids"], skip_special_tokens=True) for feature in features]
    assert " ".join(read).split() == [*example.tokens, "Bo", "."]
    written = [TOKENIZER.decode(feature["labels"], skip_special_tokens=True) for feature in features]
    assert " ".join(written).split() == f"{NER.encode(example).target} [ Bo | person ] .".split()


def test_windows_do_not_end_inside_labelled_spans(tmp_path):
    words = ["w"] * 200
    spans = tuple(Span(start, start + 25, "LOC") for start in range(0, 200, 25))
    tokenizer = bpe_tokenizer(["w w"])
    model, tokenizer = load_model(saved(tmp_path, bert(tokenizer), tokenizer), NER)
    features = to_features(NER, tokenizer, [NerExample(words, spans)], model=model, max_source_length=45, windows=True)
    begins = [sum(label == 1 for label in feature["labels"]) for feature in features]
    assert sum(begins) == 8
    assert all(label != 0 for feature in features for label in feature["labels"])
    with pytest.warns(UserWarning, match="window_edge 1 .*a part stands in another window"):
        to_features(NER, tokenizer, [NerExample(words, (Span(10, 190, "LOC"),))], model=model, windows=True)


def test_relations_between_windows_are_named():
    task = JointTask({"LOC": "place"}, {"R": "near"})
    words = ["Bern", *FILLER.split() * 6, "Turin"]
    head, tail = Span(0, 1, "LOC"), Span(61, 62, "LOC")
    example = JointExample(words, (head, tail), (Relation(head, tail, "R"),))
    with pytest.warns(UserWarning, match="window_edge 1"):
        to_features(task, TOKENIZER, [example], max_source_length=40, windows=True)
