"""What a model has not read or written is named, and nothing is placed on it; what a tokenizer changes is restored."""

from __future__ import annotations

import unicodedata
import warnings
from types import SimpleNamespace

import pytest
import torch
from tokenizers import normalizers

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
    generate,
    predict,
    to_features,
)
from peft_fishdip.tasks.lengths import longest, text_of

from .tiny import tiny_tokenizer

FILLER = "the rain fell on every roof of town and then"


class Marker(torch.nn.Module):
    """Stands in for a model: marks the names it reads, or writes a given text; stops after max_new_tokens tokens."""

    def __init__(self, tokenizer, names=(), text=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(is_encoder_decoder=True)
        self.tokenizer, self.names, self.text = tokenizer, dict(names), text
        self.read = []

    def generate(self, input_ids, max_new_tokens, **options):
        rows = []
        for ids in input_ids.tolist():
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            self.read.append(text)
            marked = " ".join(f"[ {w} | {self.names[w]} ]" if w in self.names else w for w in text.split())
            rows.append([0, *self.tokenizer(self.text or marked)["input_ids"][:max_new_tokens]])
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])


TOKENIZER = tiny_tokenizer(
    [FILLER, "[ ] | = ... Bern Turin sold bought place seller city of lies in . The relationship between and is x"]
)
NER = NerTask({"LOC": "place"})


@pytest.mark.parametrize("limit", [7, 23, 200])
def test_spans_stand_on_words_that_were_read(limit):
    text = " ".join(["Bern", *FILLER.split() * 3, "Turin", "Bern"])
    gold = NerExample(text.split(), tuple(Span(i, i + 1, "LOC") for i in (0, 31, 32)))
    model = Marker(TOKENIZER, {"Bern": "place", "Turin": "place"})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        (result,) = predict(model, TOKENIZER, NER, [text], max_source_length=limit)
        scores = evaluate(model, TOKENIZER, NER, [gold], max_source_length=limit)
    assert len(result.prediction.tokens) == 33
    if limit == 200:
        assert (result.prediction, result.problems, seen, scores["f1"]) == (gold, (), [], 1.0)
    else:
        assert result.prediction.spans == (Span(0, 1, "LOC"),)
        assert [problem.kind for problem in result.problems] == ["source_cut"]
        assert "34 tokens" in result.problems[0].message
        assert len(model.read[0].split()) == limit - 1
        assert len(seen) == 2
        assert all("1 of 1 sources" in str(w.message) and w.filename == __file__ for w in seen)


def test_outputs_that_were_stopped_are_named():
    model = Marker(TOKENIZER, {"Bern": "place"})
    texts = ["Bern and Bern and Bern", "rain"]
    with pytest.warns(
        UserWarning, match="1 of 2 outputs were cut after max_new_tokens=12 .*larger max_new_tokens"
    ) as seen:
        results = predict(model, TOKENIZER, NER, texts, max_new_tokens=12)
    assert [warning.filename for warning in seen] == [__file__]
    assert [problem.kind for problem in results[0].problems][:1] == ["output_cut"]
    assert len(results[0].prediction.spans) == 2
    assert results[1].problems == ()
    with pytest.warns(UserWarning, match="1 of 2 outputs") as seen:
        generate(model, TOKENIZER, texts, max_new_tokens=12)
    assert [warning.filename for warning in seen] == [__file__]
    assert predict(model, TOKENIZER, NER, texts, max_new_tokens=18)[0].problems == ()  # exactly as long as its text


def test_joint_examples_lose_what_was_not_read():
    bern, turin, far = Span(0, 1, "L"), Span(2, 3, "L"), Span(12, 13, "L")
    tokens = ("Bern", "and", "Turin", *FILLER.split()[1:], "Bern")
    example = JointExample(tokens, (bern, turin, far), (Relation(bern, turin, "near"), Relation(turin, far, "near")))
    task = JointTask({"L": "place"}, {"near": "city of"})
    part = task.shorten(example, lambda text: len(text.split()) <= 6)
    assert part == JointExample(tokens[:6], (bern, turin), (Relation(bern, turin, "near"),))
    assert task.restore(example, part) == JointExample(tokens, (bern, turin), (Relation(bern, turin, "near"),))


def test_the_predicate_is_always_read():
    words = [*FILLER.split() * 2, "Bern", "sold", "Turin", *FILLER.split() * 2]
    example = SrlExample(words, Span(21, 22, "V"), (Span(20, 21, "A0"), Span(22, 23, "A1"), Span(0, 2, "TMP")))
    task = SrlTask({"A0": "seller", "A1": "x", "TMP": "then"})
    part = task.shorten(example, lambda text: len(text.split()) <= 9)
    assert part.tokens == (*words[18:20], "Bern", "sold", "Turin", *words[23:25])
    assert part.arguments == (Span(2, 3, "A0"), Span(4, 5, "A1"))
    model = Marker(TOKENIZER, text="and then [ Bern | seller ] sold Turin the rain")
    with pytest.warns(UserWarning, match="source_cut"):
        (result,) = predict(model, TOKENIZER, task, [example], max_source_length=10)
    assert model.read == ["and then Bern [ sold ] Turin the rain"]
    assert result.prediction == SrlExample(words, Span(21, 22, "V"), (Span(20, 21, "A0"),))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_question_is_always_read(reverse):
    words = (*FILLER.split() * 2, "Bern", "lies", "in", *FILLER.split() * 3, "Turin", ".", *FILLER.split() * 2)
    head, tail = Span(20, 21), Span(53, 54)
    if reverse:
        head, tail = tail, head
    task = RelationTask({"P1": "city of"})
    example = RelationExample(words, head, tail, "P1")
    with pytest.warns(UserWarning, match="source_cut 1"):
        (feature,) = to_features(task, TOKENIZER, [example], max_source_length=30)
    text = TOKENIZER.decode(feature["input_ids"], skip_special_tokens=True)
    names = ["Turin", "Bern"] if reverse else ["Bern", "Turin"]
    assert text.endswith("The relationship between [ {} ] and [ {} ] is".format(*names))
    assert "[ Bern ] lies in the ... town and then [ Turin ] ." in text
    assert len(feature["input_ids"]) <= 30
    target = task.candidate(example, "P1")
    assert TOKENIZER.decode(feature["labels"], skip_special_tokens=True) == target
    with pytest.warns(UserWarning, match="source_cut"):
        (result,) = predict(Marker(TOKENIZER, text=target), TOKENIZER, task, [example], max_source_length=30)
    assert result.prediction == example
    with pytest.warns(UserWarning, match="source_cut"):  # too short for both
        (feature,) = to_features(task, TOKENIZER, [example], max_source_length=12)
    assert TOKENIZER.decode(feature["input_ids"], skip_special_tokens=True).startswith("The relationship between")


def test_longest():
    for most in range(9):
        for limit in range(-1, 11):
            assert longest(lambda n, limit=limit: n <= limit, most) == max(0, min(limit, most))


def nfkc_tokenizer(texts, lower=False):
    tokenizer = tiny_tokenizer(texts)
    parts = [normalizers.NFKC(), *([normalizers.Lowercase()] if lower else [])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
    return tokenizer


FORMAT = "[ ] | = x and [belief] 1 hotel name ,"


@pytest.mark.parametrize("name", ["flow in m³", "re\u0301gion", "№ of", "ﬁrm", "ｗｉｄｅ"])
def test_names_are_read_as_a_tokenizer_writes_them(name):
    written = unicodedata.normalize("NFKC", name)
    tokenizer = nfkc_tokenizer([f"{FORMAT} {written} a b"])
    example = NerExample(("a", "b"), (Span(0, 1, "X"),))
    (feature,) = to_features(NerTask({"X": name}), tokenizer, [example])
    assert text_of(tokenizer, feature["labels"]) == f"[ a | {written} ] b"
    decoded = NerTask({"X": name, "Y": "x"}).decode(example, f"[ a | {written} ] b")
    assert (decoded.prediction, decoded.problems) == (example, ())
    relation = RelationExample(("a", "b"), Span(0, 1), Span(1, 2), "X")
    assert RelationTask({"X": name}).decode(relation, f"[ a ] and [ b ] = {written}").prediction == relation


def test_names_that_cannot_be_read_back_are_refused():
    lower = nfkc_tokenizer([f"{FORMAT} person per m3 stars"], lower=True)
    example = NerExample(("a",))
    with pytest.raises(
        ValueError, match=r"entity type 'PER': the tokenizer writes '\[ x \| PER \]' as '\[ x \| per \]'"
    ):
        to_features(NerTask(["PER"]), lower, [example])
    with pytest.raises(ValueError, match="pass a mapping from label to a name that this tokenizer keeps"):
        predict(Marker(lower), lower, NerTask({"A": "m³", "B": "m₃"}), ["a"])
    with pytest.raises(ValueError, match="relation 'R'"):
        predict(Marker(lower), lower, JointTask(["person"], {"R": "unheard"}), ["a"])
    with pytest.raises(ValueError, match="role 'A0'"):
        to_features(SrlTask(["A0"]), lower, [SrlExample(("a",), Span(0, 1))])
    with pytest.raises(ValueError, match="relation 'R'"):
        to_features(RelationTask(["R"]), lower, [RelationExample(("a", "b"), Span(0, 1), Span(1, 2), "R")])
    with pytest.raises(ValueError, match="slot 'hotel Stars'"):
        to_features(DstTask({"hotel": ["name", "Stars"]}), lower, [DstExample(())])
    assert to_features(NerTask({"PER": "per"}), lower, [example])
    assert to_features(DstTask({"hotel": ["name", "stars"]}), lower, [DstExample(())])


@pytest.mark.parametrize("value", ["Cafe\u0301 ½", "Haus ３，4", "ﬂat ［b］", "№ 5"])
@pytest.mark.parametrize("said", [True, False])
def test_values_are_read_as_they_are_said(value, said):
    task = DstTask({"hotel": ["name"]})
    turns = (Turn("user", f"at the {value}, please" if said else "hi"),)
    example = DstExample(turns, (SlotValue("hotel", "name", value),))
    written = unicodedata.normalize("NFKC", task.encode(example).target)
    tokenizer = nfkc_tokenizer([f"{FORMAT} {written}"])
    (feature,) = to_features(task, tokenizer, [example])  # without a warning
    decoded = task.decode(example, text_of(tokenizer, feature["labels"]))
    assert decoded.problems == ()
    assert decoded.prediction == example or not said
    assert task.score([example], [decoded])["joint_accuracy"] == 1.0


def test_values_that_a_tokenizer_lacks_are_counted():
    tokenizer = tiny_tokenizer([FORMAT])
    example = DstExample((Turn("user", "hi"),), (SlotValue("hotel", "name", "Zur Post"),))
    with pytest.warns(UserWarning, match="1 examples, with tokenizer_change 1 .*lacks characters of some values"):
        to_features(DstTask({"hotel": ["name"]}), tokenizer, [example])
    ner = NerExample(("Zur", "Post"), (Span(1, 2, "1"),))
    to_features(NerTask(["1"]), tokenizer, [ner])  # words that it lacks are aligned all the same


def test_a_value_that_becomes_the_absent_one_is_reported():
    state = (SlotValue("hotel", "name", "ｎｏｔ ｇｉｖｅｎ"),)
    (problem,) = DstTask({"hotel": ["name"]}).encode(DstExample((), state)).problems
    assert problem.kind == "reserved_value"
