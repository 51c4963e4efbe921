"""Records to `datasets.Dataset` and back."""

from __future__ import annotations

import datasets
import pytest

from peft_fishdip.tasks import (
    Document,
    DstExample,
    DstTask,
    JointExample,
    NerExample,
    NerTask,
    Relation,
    RelationExample,
    SlotValue,
    Span,
    SrlExample,
    Turn,
    from_dataset,
    from_tagged_dataset,
    to_dataset,
)

ANN, OSLO = Span(0, 1, "P"), Span(2, 3, "L")
TOKENS = ("Ann", "in", "Oslo")


@pytest.mark.parametrize(
    "examples",
    [
        [NerExample(TOKENS, (ANN, OSLO), "1"), NerExample(("x",), (), "2")],
        [NerExample(TOKENS)],
        [JointExample(TOKENS, (ANN, OSLO), (Relation(ANN, OSLO, "in"),), "1"), JointExample(("x",))],
        [RelationExample(TOKENS, Span(0, 1), Span(2, 3), "P1", "1"), RelationExample(TOKENS, OSLO, ANN)],
        [SrlExample(TOKENS, Span(1, 2, "V"), (ANN,), "1"), SrlExample(TOKENS, Span(1, 2, "V"))],
        [DstExample((Turn("user", "hi"),), (SlotValue("d", "s", "v"),), "1"), DstExample(())],
    ],
    ids=lambda examples: type(examples[0]).__name__,
)
def test_there_and_back(examples, tmp_path):
    dataset = to_dataset(examples)
    assert len(dataset) == len(examples)
    dataset.to_parquet(tmp_path / "data.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path))
    for back in (from_dataset(dataset, type(examples[0])), from_dataset(again, type(examples[0]))):
        assert back == examples
        assert [x.id for x in back] == [x.id for x in examples]


def test_only_records_of_one_type():
    with pytest.raises(TypeError, match="got NerExample and SrlExample"):
        to_dataset([NerExample(TOKENS), SrlExample(TOKENS, Span(1, 2))])
    with pytest.raises(ValueError, match="no examples"):
        to_dataset([])
    with pytest.raises(TypeError, match="records or predictions expected, such as NerExample, got dict"):
        to_dataset([{"tokens": TOKENS}])
    with pytest.raises(TypeError, match="got NerExample and Decoded"):
        to_dataset([NerExample(TOKENS), NerTask(["P"]).decode(TOKENS, "")])


def test_predictions_are_rows_with_their_problems():
    ner, dst = NerTask(["P"]), DstTask({"d": ["s"]})
    results = [ner.decode(TOKENS, "[ Ann | P ] in Oslo"), ner.decode("Bo", "[ Bo | Q ]")]
    dataset = to_dataset(results)
    assert dataset.column_names == ["tokens", "spans", "id", "text", "generated_text", "problems", "scores"]
    assert dataset[0]["problems"] == []
    assert dataset[1]["problems"] == [{"kind": "label_error", "message": results[1].problems[0].message}]
    assert dataset["generated_text"][1] == "[ Bo | Q ]"
    assert from_dataset(dataset, NerExample) == [result.prediction for result in results]
    states = [dst.decode("hi", "[belief] d s v [belief]")]
    assert from_dataset(to_dataset(states), DstExample) == [states[0].prediction]
    assert len(to_dataset([ner.decode("a b", "a b")])) == 1  # nothing found, no problem


def tagged(tags, feature):
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [feature]})
    return datasets.Dataset.from_dict({"tokens": [TOKENS], "ner_tags": [tags]}, features=features)


def test_tagged_columns():
    expected = [NerExample(TOKENS, (ANN, OSLO))]
    names = datasets.ClassLabel(names=["O", "B-P", "I-P", "B-L"])
    assert from_tagged_dataset(tagged([1, 0, 3], names)) == expected
    texts = tagged(["B-P", "O", "B-L"], datasets.Value("string"))
    assert from_tagged_dataset(texts, scheme="bio") == expected
    numbers = tagged([1, 0, 2], datasets.Value("int64"))
    assert from_tagged_dataset(numbers, names=["O", "P", "L"], scheme="io") == expected
    typeless = from_tagged_dataset(tagged([1, 2, 0], datasets.Value("int64")), names=["O", "B", "I"])
    assert typeless == [NerExample(TOKENS, (Span(0, 2, "entity"),))]
    with pytest.raises(ValueError, match="no column 'labels'; the data set has tokens, ner_tags"):
        from_tagged_dataset(texts, tags="labels")
    with pytest.raises(ValueError, match=r"row 0: tag 0: expected a span of 'P' to be open"):
        from_tagged_dataset(tagged([2, 0, 3], names), scheme="bio")
    with pytest.raises(ValueError, match="row 0: 3 tokens but 1 tags"):
        from_tagged_dataset(tagged([1], names))
    with pytest.raises(ValueError, match="row 0: tag 2: expected a number of the 4 known tags, found -1"):
        from_tagged_dataset(tagged([1, 0, -1], names))  # a missing label, not the last one
    with pytest.raises(ValueError, match=r"tag 0: expected a number of the 0 known tags: pass names=.*, found 1"):
        from_tagged_dataset(tagged([1, 0, 3], datasets.Value("int64")))
    untokenised = datasets.Dataset.from_dict({"tokens": ["a b"], "ner_tags": [["O", "O", "O"]]})
    with pytest.raises(TypeError, match="tokens='a b': give a sequence of texts"):
        from_tagged_dataset(untokenised)


def table(**columns):
    return datasets.Dataset.from_dict(columns)


TAGGED = table(tokens=[[*TOKENS], ["x"]], ner_tags=[["B-P", "O", "B-L"], ["O"]])
SPLITS = datasets.DatasetDict(train=TAGGED, test=TAGGED)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_tagged_dataset(SPLITS), r"these are the splits train, test; choose one, .* dataset\['train'\]"),
        (lambda: from_dataset(SPLITS, NerExample), r"these are the splits train, test; choose one"),
        (lambda: from_tagged_dataset(5), r"dataset=5: give a datasets.Dataset"),
        (lambda: from_tagged_dataset(["Bo"]), r"row 0: 'Bo' is no row of a data set; give a datasets.Dataset"),
        (lambda: from_dataset(TAGGED, 5), r"kind=5: give the type of the records, such as NerExample"),
        (
            lambda: from_tagged_dataset(table(tokens=[["a"], None], ner_tags=[["O"], ["O"]])),
            r"row 1: the column 'tokens' is None; fill it, or filter such rows out",
        ),
        (
            lambda: from_tagged_dataset(table(tokens=[["a"], ["b"]], ner_tags=[["O"], None])),
            r"row 1: the column 'ner_tags' is None",
        ),
        (
            lambda: from_tagged_dataset(table(tokens=[["a", None]], ner_tags=[["O", "O"]])),
            r"row 0: tokens=\['a', None\]",
        ),
        (
            lambda: from_dataset(table(tokens=[["a"], ["b"]], spans=[[], None], id=["1", "2"]), NerExample),
            r"row 1: the column 'spans' is None",
        ),
        (lambda: to_dataset(NerExample(TOKENS)), r"examples=NerExample\(.*: give a list of records or predictions"),
        (lambda: to_dataset([Document("a")]), r"these are Documents, .*; to_examples makes records of them"),
        (lambda: to_dataset([datasets.Value("string")]), r"cannot be a column; columns hold texts, numbers and tuples"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_streams_have_their_columns_in_their_rows():
    def stream(rows):
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    assert from_tagged_dataset(stream([*TAGGED])) == from_tagged_dataset(TAGGED)
    assert from_dataset(to_dataset([NerExample(TOKENS, (ANN,))]).to_iterable_dataset(), NerExample) == [
        NerExample(TOKENS, (ANN,))
    ]
    with pytest.raises(ValueError, match="no column 'ner_tags'; the data set has tokens, tags"):
        from_tagged_dataset(stream([{"tokens": ["a"], "tags": ["O"]}]))


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_the_format_of_a_data_set_does_not_matter(kind):
    numbers = tagged([1, 0, 3], datasets.ClassLabel(names=["O", "B-P", "I-P", "B-L"]))
    expected = [NerExample(TOKENS, (ANN, OSLO))]
    assert from_tagged_dataset(numbers.with_format(kind)) == expected
    assert from_dataset(to_dataset(expected).with_format(kind), NerExample) == expected


def test_a_transform_is_applied():
    made = table(words=["Ann in Oslo"]).with_transform(
        lambda rows: {"tokens": [x.split() for x in rows["words"]], "ner_tags": [["B-P", "O", "B-L"]]}
    )
    assert from_tagged_dataset(made) == [NerExample(TOKENS, (ANN, OSLO))]


def test_rows_without_an_id_are_numbered():
    examples = from_tagged_dataset(table(tokens=[["a"]] * 3, ner_tags=[["B-X"]] * 3, id=[None, "x", None]))
    assert [example.id for example in examples] == ["0", "x", "2"]


def test_a_generator_of_records_is_a_list():
    assert len(to_dataset(NerExample(TOKENS) for _ in range(2))) == 2


def test_missing_columns_are_named():
    dataset = to_dataset([NerExample(TOKENS)])
    with pytest.raises(ValueError, match="no column 'relations'; the data set has tokens, spans, id"):
        from_dataset(dataset, JointExample)
