"""Features are the token ids of source and target, cut where they should be, with a warning."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import DstExample, DstTask, NerExample, NerTask, Span, Turn, to_features

from .tiny import tiny_tokenizer

TASK = NerTask({"A": "kind"})
EXAMPLE = NerExample(("a", "b", "c"), (Span(0, 2, "A"),))
TOKENIZER = tiny_tokenizer(["a b c [ | ] kind [belief] d s"])


def words(ids):
    return " ".join(TOKENIZER.convert_ids_to_tokens(ids))


def test_ids_of_source_and_target():
    one, two = to_features(TASK, TOKENIZER, [EXAMPLE, NerExample(("c",))])
    assert words(one["input_ids"]) == "a b c </s>"
    assert one["attention_mask"] == [1] * 4
    assert words(one["labels"]) == "[ a b | kind ] c </s>"
    assert words(two["labels"]) == "c </s>"
    assert to_features(TASK, TOKENIZER, []) == []


def test_sources_are_cut_on_the_side_of_the_task():
    with pytest.warns(UserWarning, match="1 examples, with source_cut 1 .*max_source_length"):
        (feature,) = to_features(TASK, TOKENIZER, [EXAMPLE], max_source_length=3)
    assert words(feature["input_ids"]) == "a b </s>"
    assert words(feature["labels"]) == "[ a b | kind ] </s>"  # no word that was not read
    dialogue = DstExample((Turn("user", "a b c"),))
    with pytest.warns(UserWarning, match="source_cut 1"):
        (feature,) = to_features(DstTask({"d": ("s",)}), TOKENIZER, [dialogue], max_source_length=3)
    assert words(feature["input_ids"]) == "c <unk> </s>"  # the ";" after the turn


def test_misuse_is_refused():
    for option in ("max_source_length", "max_target_length"):
        with pytest.raises(ValueError, match=f"{option}=0"):
            to_features(TASK, TOKENIZER, [EXAMPLE], **{option: 0})
    with pytest.raises(TypeError, match="'ner' encodes NerExample records, got str"):
        to_features(TASK, TOKENIZER, ["a b c"])


def test_what_is_lost_is_counted():
    with pytest.warns(UserWarning, match="1 examples, with target_cut 1 .*max_target_length"):
        (feature,) = to_features(TASK, TOKENIZER, [EXAMPLE], max_target_length=4)
    assert words(feature["labels"]) == "[ a b </s>"
    crossing = NerExample(("a", "b", "c"), (Span(0, 2, "A"), Span(1, 3, "A")))
    with pytest.warns(UserWarning, match="2 examples, with crossing_span 1"):
        to_features(TASK, TOKENIZER, [EXAMPLE, crossing])
