"""Plain text as a question to a model: nothing is lost, and what is hidden is the same each time."""

import random

import pytest

from benchmarks.corruption import hidden_spans, masked, next_tokens, objective, parts

from . import tiny

SENTINELS, END = [99, 98, 97, 96, 95, 94], 1


def filled(feature):
    """The text that source and target make up together, and the lengths of the hidden spans."""
    spans = {}
    for token in feature["labels"][:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    text = [x for token in feature["input_ids"][:-1] for x in spans.get(token, [token])]
    return text, [len(span) for span in spans.values()]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 50, 128])
def test_hidden_spans_are_in_the_target_and_nowhere_else(length):
    for number in range(20):
        text = [random.Random(number).randrange(2, 90) for _ in range(length)]
        feature = hidden_spans(text, number, SENTINELS, END)
        found, lengths = filled(feature)
        assert found == text
        assert sum(lengths) == min(max(1, round(0.15 * length)), length - 1)
        assert min(lengths) >= 1
        assert feature["input_ids"][-1] == feature["labels"][-1] == END
        assert [token for token in feature["input_ids"] if token in SENTINELS] == SENTINELS[: len(lengths)]
        assert feature["attention_mask"] == [1] * len(feature["input_ids"])
        assert feature == hidden_spans(text, number, SENTINELS, END)


def test_spans_are_3_tokens_on_average_and_lie_anywhere():
    text = [*range(100, 200)]
    features = [hidden_spans(text, number, SENTINELS, END) for number in range(300)]
    lengths = [length for feature in features for length in filled(feature)[1]]
    assert sum(lengths) / len(lengths) == pytest.approx(3)
    gone = [sum(token in feature["labels"] for feature in features) for token in text]
    assert min(gone[1:]) > 3  # of 300, 45 on average, fewer at the beginning
    assert len({tuple(feature["labels"]) for feature in features}) > 290


def test_parts_are_all_ways_to_cut():
    chance = random.Random(0)
    assert {tuple(parts(4, 2, chance)) for _ in range(100)} == {(1, 3), (2, 2), (3, 1)}
    assert parts(5, 1, chance) == [5]


def test_each_token_but_the_first_is_predicted_and_no_mark_is():
    assert next_tokens([5, 6, 7, 1], [False, False, False, True])["labels"] == [-100, 6, 7, -100]
    assert next_tokens([2, 5, 6], [True, False, False])["labels"] == [-100, 5, 6]  # 2 begins the text
    assert next_tokens([2, 5, 6], [True, False, False])["input_ids"] == [2, 5, 6]


def test_masks_stand_where_tokens_are_predicted_and_never_on_marks():
    ids, marks = [2, *range(10, 50), 3], [True, *([False] * 40), True]
    for number in range(20):
        feature = masked(ids, marks, number, mask=4)
        places = [i for i, label in enumerate(feature["labels"]) if label != -100]
        assert len(places) == 6  # 15 % of 40
        assert [i for i, token in enumerate(feature["input_ids"]) if token == 4] == places
        assert [feature["labels"][i] for i in places] == [ids[i] for i in places]
        assert all(feature["input_ids"][i] == ids[i] for i in range(42) if i not in places)
    assert masked(ids, marks, 1, mask=4) == masked(ids, marks, 1, mask=4) != masked(ids, marks, 2, mask=4)


def test_a_tokenizer_without_what_it_takes_is_named():
    words = tiny.tokenizer(sentinels=3)
    assert "has no <extra_id_3>" in objective(words, "SEQ_2_SEQ_LM", 128)
    assert callable(objective(words, "SEQ_2_SEQ_LM", 60))
    assert objective(words, "TOKEN_CLS", 128) == "the tokenizer has no mask token"
    assert objective(words, "CAUSAL_LM", 128) is next_tokens
