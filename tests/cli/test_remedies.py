"""Remedies of errors of the command line: what they say works there."""

from __future__ import annotations

import json

import pytest

from peft_fishdip.cli.inputs import load_labelled
from peft_fishdip.cli.messages import with_options

from .test_extraction import run

LONG = (
    "1 of 2 sources are longer than max_source_length=9 and were cut (source_cut): nothing in what was cut is found. "
)
REGION = {"type": "labels", "value": {"start": 0, "end": 3, "text": "Ann", "labels": ["P"]}}
PREDICTED = [{"data": {"text": "Ann"}, "predictions": [{"result": [REGION]}]}]
TWO_TEXTS = [{"data": {"title": "Ann", "body": "Bo"}, "annotations": [{"result": [REGION]}]}]
ONTONOTES = "#begin document (x); part 000\nx 0 0 Ann NNP (S* - - - - (P) -\n\n"
NUMBERED = "# sent_id = 1\n1\tAnn\tB-P\t-\tme\n2\tx\tO\t-\tme\n"


def loaded(path, **options):
    try:
        return load_labelled(path, **options)
    except ValueError as error:
        return with_options(str(error))


@pytest.mark.parametrize(
    ("content", "given", "said", "options"),
    [
        ("1\tAnn\tB-P\n2\tleft\tO\n", {}, "as --read token=1 --read tag=2", {"read": ["token=1", "tag=2"]}),
        (NUMBERED, {"format": "conll", "read": ["token=1"]}, "--read tag= chooses", {"read": ["token=1", "tag=2"]}),
        ("Ann P\nis O\n", {"format": "conll"}, "prefix: --read scheme=io", {"read": ["scheme=io"]}),
        ("Ann P\n", {}, "say which with --from, one of", {"format": "conll", "read": ["scheme=io"]}),
        (PREDICTED, {}, "", {"read": ["predictions=true"]}),
        (TWO_TEXTS, {}, "(--read text= chooses its key)", {"read": ["text=title"]}),
        (
            [{"tokens": ["Ann", "x"], "ner_tags": [1, 0]}],
            {},
            """pass --read 'names=["O", "B-PER", ...]', in the order""",
            {"read": ['names=["O", "B-P"]']},
        ),
        (ONTONOTES, {}, "pass --from ontonotes for its entities", {"format": "ontonotes"}),
        ([{"text": "é Ann", "label": [[3, 6, "P"]]}], {}, "--unit chooses another unit", {"unit": "utf-8"}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_remedy_says_works(content, given, said, options, tmp_path):
    path = tmp_path / "data"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    told = loaded(path, **given)
    assert isinstance(told, str)
    assert said in told
    (example,) = loaded(path, **options)
    (span,) = example.spans
    assert (example.tokens[span.start : span.end], span.label) == (("Ann",), "P")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Pass unit='utf-16', 'graphemes' or 'characters'", "Pass --unit utf-16, 'graphemes' or 'characters'"),
        (
            "tasks without an annotation; predictions=True reads predictions",
            "--read predictions=true reads predictions",
        ),
        (
            "beside 512; pass a smaller max_new_tokens or max_target_length",
            "; choose a base model that reads longer texts",
        ),
        (f"{LONG}Split the texts, or pass max_source_length=70 if the model reads as much", f"{LONG}Split the texts"),
        ("left out: 1 x blank_span (see Document.problems), first: x", "left out: 1 x blank_span, first: x"),
        ("with nested_span 1; see `TokenClassificationTask(task).tagged` for each", "with nested_span 1"),
    ],
)
def test_remedies_of_python_become_those_of_the_command_line(said, expected):
    assert with_options(said).endswith(expected)


def test_verbs_that_read_annotated_texts_have_options_of_the_reader():
    for verb in ("train", "evaluate", "suggest", "convert", "view"):
        shown = run(verb, "--help").stdout
        for option in ("--from", "--read", "--unit"):
            assert option in shown, verb


def test_options_of_a_reader_without_annotated_texts(tmp_path):
    (tmp_path / "a.txt").write_text("Bo", encoding="utf-8")
    result = run("suggest", tmp_path, tmp_path / "a.txt", "--from", "conll")
    assert result.exit_code == 2
    assert "--from, --unit and --read concern the annotated texts of --known" in result.stderr
