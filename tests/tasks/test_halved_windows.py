"""What a model was stopped in writing is asked for again in shorter windows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_fishdip.tasks import Decoded, JointTask, NerExample, NerTask, Span, predict
from peft_fishdip.tasks.merging import merge
from peft_fishdip.tasks.windows import LEAST_WORDS, can_be_halved, in_windows

from .test_constraint import wanting
from .test_lengths import FILLER, Marker
from .tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer([FILLER, "[ ] | = Bern Turin Bo lives in place person . the The rain fell"])
NER = NerTask({"LOC": "place", "PER": "person"})
NAMES = {"Bern": "place", "Turin": "place", "Bo": "person"}


@pytest.mark.parametrize("constrained", [True, False])
def test_dense_texts_are_read_in_halves(constrained):
    text = "Bern Turin Bo .\n" * 20  # 80 words, of which 60 take five tokens
    model = Marker(TOKENIZER, NAMES)
    options = {"max_new_tokens": 128, "constrained": constrained}
    result, short = predict(model, TOKENIZER, NER, [text, "Bo ."], **options)  # without a warning
    assert [text[span.start : span.end] for span in result.text_spans] == ["Bern", "Turin", "Bo"] * 20
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    assert short.problems == ()
    assert model.read.count("Bo .") == 1  # what was not cut is not asked for again
    whole, *halves = [read for read in model.read if read != "Bo ."]
    assert whole.split() == text.split()
    assert all(LEAST_WORDS // 2 <= len(half.split()) < 80 for half in halves)


def test_windows_of_a_document_are_halved_where_they_are_dense():
    quiet, dense = " ".join(FILLER.split() * 6), "Bern Turin Bo . " * 12
    text = f"{quiet} .\n{dense}\n{quiet} .\n"
    model = Marker(TOKENIZER, NAMES)
    (result,) = predict(model, TOKENIZER, NER, [text], max_new_tokens=130)
    assert [text[span.start : span.end] for span in result.text_spans] == ["Bern", "Turin", "Bo"] * 12
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    assert len(set(model.read)) == len(model.read)


def test_relations_are_found_in_halves():
    task = JointTask({"LOC": "place", "PER": "person"}, {"IN": "lives in"})
    text = "Bo lives in Bern .\n" * 16
    model = Marker(TOKENIZER, {"Bern": "place", "Bo": "person | lives in = Bern"})
    (result,) = predict(model, TOKENIZER, task, [text], max_new_tokens=100)
    assert len(result.prediction.relations) == 16
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Bern " * (LEAST_WORDS - 1), {"max_new_tokens": 64}),  # too short for two windows
        ("Bern " * 40, {"max_new_tokens": 60}),  # of which a half is less than a window needs
        ("Bern " * 40, {"max_new_tokens": 100, "windows": False}),
    ],
)
def test_what_cannot_be_halved_is_named(text, options):
    model = Marker(TOKENIZER, NAMES)
    with pytest.warns(UserWarning, match="1 of 1 outputs were cut"):
        (result,) = predict(model, TOKENIZER, NER, [text], **options)
    assert result.problems[0].kind == "output_cut"
    assert len(model.read) == 1


def test_what_is_still_cut_is_named_and_counted_by_window():
    text = "Bern Turin Bern .\n" * 10
    name = "place person " * 4 + "place"
    model = Marker(TOKENIZER, {"Bern": name, "Turin": name})
    task = NerTask({"LOC": name})
    with pytest.warns(UserWarning, match=r"\d of \d outputs were cut after max_new_tokens=64") as seen:
        (result,) = predict(model, TOKENIZER, task, [text], max_new_tokens=64)
    assert [warning.filename for warning in seen] == [__file__]
    assert {"cut_into_windows", "output_cut"} <= {problem.kind for problem in result.problems}
    assert len(result.prediction.spans) > 64 // 13  # more than one window has room for


def test_models_that_have_lost_their_way_are_not_asked_again():
    text = " ".join(["rain"] * 30)
    endless = Marker(TOKENIZER, text="fell " * 500)
    with pytest.warns(UserWarning, match="1 of 1 outputs"):
        (result,) = predict(endless, TOKENIZER, NER, [text], max_new_tokens=200, constrained=False)
    assert len(endless.read) == 1
    assert "output_cut" in [problem.kind for problem in result.problems]
    task = NerTask(["X"])
    tokenizer = tiny_tokenizer(["[ a b | X ]"])
    model = wanting(tokenizer, "[")
    with pytest.warns(UserWarning, match="1 of 1 outputs"):
        (result,) = predict(model, tokenizer, task, ["a b " * 10])
    assert [problem.kind for problem in result.problems] == ["output_cut"]  # of all the room that there can be


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b.", "c's", "Bern", "\n", "上海", "x-y"]), min_size=1, max_size=120),
        min_size=1,
        max_size=3,
    ),
    st.integers(32, 60),
    st.data(),
)
def test_halves_cover_what_they_stand_for(documents, room, data):
    examples = [NER.from_text(" ".join(words)) for words in documents]

    def fits(part):
        return len(NER.source(part).split()) <= room

    plan = in_windows(NER, examples, fits, fits, room)
    for _ in range(2):
        able = [number for number, part in enumerate(plan.parts) if can_be_halved(part)]
        chosen = data.draw(st.sets(st.sampled_from(able))) if able else set()
        halved, origins = plan.halved(chosen, fits)
        assert len(origins) == len(halved.parts)
        assert sorted(x for x in origins if x is not None) == sorted({*range(len(plan.parts))} - chosen)
        for part, origin in zip(halved.parts, origins, strict=True):
            assert fits(part)
            assert origin is None or part is plan.parts[origin]
        assert sum(origin is None for origin in origins) >= 2 * len(chosen)
        plan = halved
    parts = iter(plan.parts)
    for example, ranges in zip(plan.examples, plan.ranges, strict=True):
        assert [*ranges] == sorted(ranges)
        reached = 0
        for start, end in ranges or [(0, len(example.tokens))]:
            assert start <= reached
            reached = max(reached, end)
            part = next(parts)
            assert "".join(part.tokens) == "".join(example.tokens[start:end])
            assert len(ranges) < 2 or end - start < len(example.tokens)
        assert reached == len(example.tokens)
    assert [*parts] == []


def test_a_window_may_stand_inside_another():
    """As halves may: the second window ends before the first one."""
    tokens = tuple(f"w{i}" for i in range(30))
    ranges = [(0, 20), (10, 18), (12, 30)]
    in_first, across, in_both, in_last = Span(2, 4, "A"), Span(17, 19, "A"), Span(13, 15, "A"), Span(25, 27, "A")
    results = []
    for (start, end), spans in zip(ranges, [[in_first, in_both], [], [in_last, across]], strict=True):
        moved = tuple(Span(span.start - start, span.end - start, span.label) for span in spans)
        results.append(Decoded(NerExample(tokens[start:end], moved), (), "x"))
    # 13 to 15 stands farthest from an edge in the first window, 17 to 19 in the last one
    assert merge(NerExample(tokens), ranges, results).prediction.spans == (in_first, in_both, across, in_last)
