"""From raw sentences to typed spans, with a model that has learnt its few sentences by heart."""

from __future__ import annotations

import pytest
import torch

from peft_fishdip.tasks import (
    DstTask,
    NerExample,
    NerTask,
    RelationExample,
    RelationTask,
    Span,
    candidate_losses,
    evaluate,
    generate,
    likelihood_accuracy,
    predict,
)

from .tiny import fit, tiny_model, tiny_tokenizer

TASK = NerTask({"PER": "person", "LOC": "location"})
EXAMPLES = [
    NerExample(("Ann", "Lee", "lives", "in", "Oslo", "."), (Span(0, 2, "PER"), Span(4, 5, "LOC"))),
    NerExample(("Rain", "."), ()),
    NerExample(("Bo", "left", "Rome", "for", "Oslo", "today", "."), (Span(0, 1, "PER"), Span(2, 3, "LOC"))),
    NerExample(("Rome", "calls", "Ann", "."), (Span(0, 1, "LOC"), Span(2, 3, "PER"))),
]


@pytest.fixture(scope="module")
def learnt():
    pairs = [TASK.encode(example)[:2] for example in EXAMPLES]
    tokenizer = tiny_tokenizer([text for pair in pairs for text in pair])
    model = tiny_model(len(tokenizer))
    fit(model, tokenizer, pairs, steps=120)
    return model, tokenizer


def test_predict_gives_typed_spans_for_raw_sentences(learnt):
    texts = ["Ann Lee lives in Oslo.", "Rain.", ["Rome", "calls", "Ann", "."], EXAMPLES[2]]
    results = predict(*learnt, TASK, texts, batch_size=3, max_new_tokens=40)
    expected = [EXAMPLES[0], EXAMPLES[1], EXAMPLES[3], EXAMPLES[2]]
    assert [result.prediction for result in results] == expected
    assert results[0].text == "[ Ann Lee | person ] lives in [ Oslo | location ] ."
    assert results[0].problems == ()


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"num_beams": 3}])
def test_evaluate(learnt, options):
    assert evaluate(*learnt, TASK, EXAMPLES, max_new_tokens=40, **options)["f1"] == 1.0
    wrong = [NerExample(x.tokens, (Span(0, 1, "LOC"),)) for x in EXAMPLES[:2]]
    assert evaluate(*learnt, TASK, wrong, max_new_tokens=40, **options)["f1"] == 0.0


class Recorder:
    """Stands in for a model: notes each batch and writes back its own input."""

    def __init__(self, encoder_decoder=True):
        self.config = type("Config", (), {"is_encoder_decoder": encoder_decoder})()
        self.training = True
        self.batches = []
        self.modes = []

    def parameters(self):
        return iter([torch.zeros(1)])

    def eval(self):
        self.training = False

    def train(self, mode):
        self.training = mode

    def generate(self, input_ids, attention_mask, **options):
        self.batches.append((attention_mask.sum(1).tolist(), options))
        self.modes.append(self.training)
        return input_ids


def test_batches_by_length_in_the_order_given():
    texts = ["a", "a b c d", "a b", "b b b", "c"]
    model = Recorder()
    assert generate(model, tiny_tokenizer(texts), texts, batch_size=2, num_beams=4, max_new_tokens=7) == texts
    assert [lengths for lengths, _ in model.batches] == [[5, 4], [3, 2], [2]]  # with </s>
    assert model.batches[0][1] == {"do_sample": False, "num_beams": 4, "max_new_tokens": 7}
    assert model.modes == [False] * 3
    assert model.training


def test_long_sources_lose_the_right_end():
    texts = ["a b c d e"]
    tokenizer = tiny_tokenizer([*texts, "[belief] d s"])
    with pytest.warns(UserWarning, match="1 of 1 sources are longer than max_source_length=3 .*max_source_length=6"):
        assert generate(Recorder(), tokenizer, texts, max_source_length=3) == ["a b"]
    with pytest.warns(UserWarning, match="source_cut"):
        assert generate(Recorder(), tokenizer, texts, max_source_length=3, truncation_side="left") == ["d e"]
    assert tokenizer.truncation_side == "right"
    # a dialogue loses its beginning
    with pytest.warns(UserWarning, match="source_cut"):
        (result,) = predict(Recorder(), tokenizer, DstTask({"d": ("s",)}), ["x a b c d"], max_source_length=4)
    assert result.text == "c d <unk>"  # the ";" after the turn
    assert result.problems[0].kind == "source_cut"


def test_unknown_words_stay_words():
    texts = ["a", "a zz"]
    assert generate(Recorder(), tiny_tokenizer(["a"]), texts) == ["a", "a <unk>"]


def test_nothing_to_do():
    model = Recorder()
    assert generate(model, tiny_tokenizer(["a"]), []) == []
    assert model.batches == []


def test_misuse_is_refused():
    tokenizer = tiny_tokenizer(["a"])
    with pytest.raises(ValueError, match="neither writes text nor has a classifier"):
        generate(Recorder(encoder_decoder=False), tokenizer, ["a"])
    with pytest.raises(ValueError, match="Linear neither writes text"):
        generate(torch.nn.Linear(1, 1), tokenizer, ["a"])
    for option in ("batch_size", "num_beams", "max_source_length", "max_new_tokens"):
        with pytest.raises(ValueError, match=f"{option}=0"):
            generate(Recorder(), tokenizer, ["a"], **{option: 0})
    for option in ("batch_size", "max_length"):
        with pytest.raises(ValueError, match=f"{option}=-1"):
            candidate_losses(Recorder(), tokenizer, RELATIONS, PEOPLE, ["P1"], **{option: -1})
    with pytest.raises(TypeError, match="put the one source into a list"):
        generate(Recorder(), tokenizer, "a b")
    with pytest.raises(TypeError, match="put the one text into a list"):
        predict(Recorder(), tokenizer, TASK, "Ann")


RELATIONS = RelationTask({"P1": "place of birth", "P2": "author"})
PEOPLE = [
    RelationExample(("Ann", "was", "born", "in", "Oslo"), Span(0, 1), Span(4, 5), "P1"),
    RelationExample(("Dusk", "is", "by", "Bo"), Span(0, 1), Span(3, 4), "P2"),
    RelationExample(("Bo", "comes", "from", "Rome", "now"), Span(0, 1), Span(3, 4), "P1"),
]


@pytest.fixture(scope="module")
def relation_model():
    pairs = [RELATIONS.encode(example)[:2] for example in PEOPLE]
    tokenizer = tiny_tokenizer([text for pair in pairs for text in pair])
    return tiny_model(len(tokenizer)), tokenizer, pairs


def negative_log_likelihoods(model, tokenizer, source, target, length=None):
    """Token by token from one forward pass per prefix; padded with the pad token to `length`."""
    labels = tokenizer(target)["input_ids"]
    labels += [tokenizer.pad_token_id] * ((length or 0) - len(labels))
    inputs = tokenizer(source, return_tensors="pt")["input_ids"]
    losses = []
    for position, label in enumerate(labels):
        prefix = torch.tensor([[model.config.decoder_start_token_id, *labels[:position]]])
        with torch.no_grad():
            logits = model(input_ids=inputs, decoder_input_ids=prefix).logits[0, -1]
        losses.append(-torch.log_softmax(logits, 0)[label].item())
    return losses


def test_candidate_losses_are_sums_over_the_target(relation_model):
    model, tokenizer, _ = relation_model
    losses = candidate_losses(model, tokenizer, RELATIONS, PEOPLE, ["P1", "P2"], batch_size=4)
    reference = candidate_losses(
        model, tokenizer, RELATIONS, PEOPLE, ["P1", "P2"], max_length=24, reference=True, batch_size=4
    )
    for row, example in enumerate(PEOPLE):
        for column, label in enumerate(["P1", "P2"]):
            pair = RELATIONS.source(example), RELATIONS.candidate(example, label)
            expected = sum(negative_log_likelihoods(model, tokenizer, *pair))
            assert losses[row][column] == pytest.approx(expected, rel=1e-4)
            padded = negative_log_likelihoods(model, tokenizer, *pair, length=24)
            assert len(padded) == 24
            assert reference[row][column] == pytest.approx(sum(padded) / 24, rel=1e-4)


def test_only_the_reference_cuts_candidates(relation_model):
    model, tokenizer, _ = relation_model
    for reference in (False, True):
        with pytest.warns(UserWarning, match="were cut") as seen:
            (row,) = candidate_losses(
                model, tokenizer, RELATIONS, PEOPLE[:1], ["P1", "P2"], max_length=5, reference=reference
            )
        assert (row[0] == row[1]) == reference
        messages = [str(warning.message) for warning in seen]
        assert "sources are longer than max_length=5" in messages[0]
        assert [("2 of 2 targets are longer than max_length=5" in message) for message in messages[1:]] == [
            True
        ] * reference
        assert all(warning.filename == __file__ for warning in seen)


def test_a_trained_model_classifies_by_likelihood(relation_model):
    model, tokenizer, pairs = relation_model
    fit(model, tokenizer, pairs, steps=60)
    losses = candidate_losses(model, tokenizer, RELATIONS, PEOPLE, ["P2", "P1"])
    assert likelihood_accuracy(losses, ["P2", "P1"], [x.label for x in PEOPLE]) == 1.0
    assert evaluate(model, tokenizer, RELATIONS, PEOPLE, max_new_tokens=30, constrained=False) == {"accuracy": 1.0}
    assert evaluate(model, tokenizer, RELATIONS, PEOPLE, max_new_tokens=30)["accuracy"] == 1.0
