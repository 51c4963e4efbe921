"""Demonstrations before a query: which, how many, and that the tasks' own functions work with them."""

import warnings

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.in_context import InContextTask, evaluate_in_context, in_context_sources
from peft_fishdip.tasks import (
    DstTask,
    NerExample,
    NerTask,
    RelationExample,
    RelationTask,
    Span,
    TaskCollator,
    generate,
    predict,
    to_features,
)
from tests.tasks.tiny import bpe_tokenizer, fit, tiny_model, tiny_tokenizer

TASK = NerTask(["person", "place"])
TRAIN = [
    NerExample(("Ann", "left", "Oslo"), (Span(0, 1, "person"), Span(2, 3, "place"))),
    NerExample(("Bo", "slept"), (Span(0, 1, "person"),)),
    NerExample(("it", "rained", "in", "Rome", "and", "in", "Oslo"), (Span(3, 4, "place"), Span(6, 7, "place"))),
]
QUERY = NerExample(("Ann", "slept"), (Span(0, 1, "person"),))
DEMONSTRATIONS = [
    "Input: Ann left Oslo Output: [ Ann | person ] left [ Oslo | place ]",
    "Input: Bo slept Output: [ Bo | person ] slept",
    "Input: it rained in Rome and in Oslo Output: it rained in [ Rome | place ] and in [ Oslo | place ]",
]
ASKED = "Input: Ann slept Output:"


def tokenizer():
    return tiny_tokenizer([*DEMONSTRATIONS, ASKED, "<extra_id_0>"])


def shown(k=None, max_length=200, seed=0, **options):
    return InContextTask(TASK, TRAIN, tokenizer(), k=k, max_length=max_length, seed=seed, **options)


def test_all_examples_stand_before_the_query():
    demonstrations = shown().demonstrations(QUERY)
    assert sorted(demonstrations) == sorted(DEMONSTRATIONS)
    assert shown().source(QUERY) == " ".join([*demonstrations, ASKED])


def test_the_seed_draws_examples_and_order_and_nothing_else_does():
    draws = {seed: tuple(shown(k=2, seed=seed).demonstrations(QUERY)) for seed in range(20)}
    assert len(set(draws.values())) == 6
    torch.manual_seed(5)
    assert draws == {seed: tuple(shown(k=2, seed=seed).demonstrations(QUERY)) for seed in range(20)}


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_k_examples_at_most(k):
    assert len(shown(k=k).demonstrations(QUERY)) == k
    assert len(shown(k=k + 3).demonstrations(QUERY)) == 3


def test_as_many_as_fit():
    words = tokenizer()
    drawn = shown().demonstrations(QUERY)
    counts = set()
    for max_length in range(1, 70):
        task = shown(max_length=max_length)
        left, expected = max_length - len(words(ASKED)["input_ids"]), []
        for text in drawn:
            if len(text.split()) <= left:
                left -= len(text.split())
                expected.append(text)
        assert task.demonstrations(QUERY) == expected
        assert task.source(QUERY) == ASKED or len(words(task.source(QUERY))["input_ids"]) <= max_length
        counts.add(len(expected))
    assert counts == {0, 1, 2, 3}


def test_tokens_that_only_the_whole_text_has_count_too():
    words = tokenizer()

    class Longer:
        """One more token for each demonstration that stands before another text."""

        def __call__(self, text, add_special_tokens=True):
            ids = words(text, add_special_tokens=add_special_tokens)["input_ids"]
            return {"input_ids": ids + [0] * (text.count("Input:") - 1)}

    exact = sum(len(text.split()) for text in [*DEMONSTRATIONS, ASKED]) + 1
    for extra, count in ((3, 3), (2, 2)):
        task = InContextTask(TASK, TRAIN, Longer(), max_length=exact + extra)
        assert len(task.demonstrations(QUERY)) == count


def test_sources_of_several_queries():
    sources = in_context_sources(TASK, TRAIN, [QUERY, TRAIN[1]], tokenizer(), k=1, max_length=40, seed=3)
    assert sources == [shown(k=1, max_length=40, seed=3).source(query) for query in (QUERY, TRAIN[1])]


def test_a_slot_stands_in_the_query_and_before_targets():
    task = shown(k=1, slot="<extra_id_0>")
    source, target, _ = task.encode(QUERY)
    assert source.endswith(f" {ASKED} <extra_id_0>")
    assert source.count("<extra_id_0>") == 1
    assert target == "<extra_id_0> [ Ann | person ] slept"


def test_the_sources_are_cut_where_the_task_cuts_them():
    task = DstTask({"hotel": ["area"]})
    assert InContextTask(task, [], tokenizer(), k=0, max_length=9).truncation_side == "left"
    assert shown().truncation_side == "right"


def test_a_model_generates_and_is_scored():
    words = tokenizer()
    model = tiny_model(len(words))
    task = shown(k=1)
    fit(model, words, [(task.source(x), task.target(x)[0]) for x in [*TRAIN, QUERY]], steps=80)
    assert [decoded.prediction.spans for decoded in predict(model, words, task, [QUERY, "Ann slept"])] == [
        QUERY.spans,
        QUERY.spans,
    ]
    text = "[ Ann | person ] slept"
    assert generate(model, words, in_context_sources(TASK, TRAIN, [QUERY], words, 1, 200, 0)) == [text]
    scores = evaluate_in_context(
        model, words, TASK, TRAIN, [*TRAIN, QUERY], k=1, max_length=200, batch_size=2, max_new_tokens=30
    )
    assert scores["f1"] == 1


def test_the_likeliest_candidate_is_scored():
    task = RelationTask(["author", "director"])
    train = [
        RelationExample(("Ulysses", "by", "Joyce"), Span(0, 1), Span(2, 3), "author"),
        RelationExample(("Psycho", "by", "Hitchcock"), Span(0, 1), Span(2, 3), "director"),
    ]
    test = [
        RelationExample(("Emma", "by", "Austen"), Span(0, 1), Span(2, 3), "author"),
        RelationExample(("Jaws", "by", "Spielberg"), Span(0, 1), Span(2, 3), "director"),
    ]
    labels = ["author", "director"]
    texts = [text for x in [*train, *test] for text in task.encode(x)[:2]]
    words = tiny_tokenizer([*texts, "Input: Output:"])
    model = tiny_model(len(words))
    task_shown = InContextTask(task, train, words, max_length=100)
    fit(model, words, [(task_shown.source(x), task_shown.target(x)[0]) for x in test], steps=60)
    options = {"max_length": 100, "labels": labels, "batch_size": 3}
    assert evaluate_in_context(model, words, task, train, test, **options) == {"accuracy": 1}
    wrong = [RelationExample(x.tokens, x.head, x.tail, label) for x, label in zip(test, labels[::-1], strict=True)]
    assert evaluate_in_context(model, words, task, train, wrong, **options) == {"accuracy": 0}


def test_a_decoder_only_model_reads_lines_and_its_answer_ends_with_one():
    lines = shown(k=1, lines=True)
    source, target, _ = lines.encode(QUERY)
    (demonstration,) = shown(k=1).demonstrations(QUERY)
    assert source == demonstration.replace(" Output:", "\nOutput:") + "\nInput: Ann slept\nOutput:"
    assert target == " [ Ann | person ] slept"
    decoded = lines.decode(QUERY, " [ Ann | person ] slept\nInput: Bo left")
    assert (decoded.prediction.spans, decoded.problems) == (QUERY.spans, ())


def test_a_decoder_only_model_is_asked_in_context():
    words = bpe_tokenizer([*DEMONSTRATIONS, ASKED])
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=300, **sizes, **ids))
    task = InContextTask(TASK, TRAIN, words, k=1, max_length=270, lines=True)
    examples = [*TRAIN, QUERY]
    rows = to_features(task, words, examples, model=model, template="{source}", max_target_length=30)
    end, newline = words.eos_token_id, words("\n")["input_ids"][-1]
    for row in rows:  # what a model that was pretrained on such lines writes: it does not know that the text ends here
        row["input_ids"] = [newline if token == end else token for token in row["input_ids"]]
        row["labels"] = [newline if token == end else token for token in row["labels"]]
    batch = TaskCollator(words, model)(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no text is cut, so each has ended with its line
        scores = evaluate_in_context(model, words, TASK, TRAIN, examples, k=1, max_length=1000, max_new_tokens=30)
    assert scores["f1"] == 1
    assert model.generation_config.eos_token_id == end


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": -1, "max_length": 9}, "k=-1: must be 0 or more, or None"),
        ({"max_length": 0}, "max_length=0: must be at least 1"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shown(**options)


def test_no_examples_are_refused_unless_none_is_to_be_shown():
    with pytest.raises(ValueError, match="there are no examples to show; give some, or k=0"):
        InContextTask(TASK, [], tokenizer(), max_length=9)
    assert InContextTask(TASK, [], tokenizer(), max_length=9, k=0).source(QUERY) == ASKED
