"""Every format, on small files in exactly that format, and what a malformed line says."""

from __future__ import annotations

import gzip
import json

import pytest

from peft_fishdip.tasks import (
    DataFormatError,
    JointExample,
    NerExample,
    Relation,
    RelationExample,
    Span,
    SrlExample,
    read_ace05,
    read_conll,
    read_conll04,
    read_conll2005,
    read_fewrel,
    read_multiwoz,
    read_ontonotes,
    read_relation_names,
    read_srl_columns,
    read_srl_lines,
    read_woz,
)

from .files import refused

ANNA = NerExample(("Anna", "Lee", "left", "Oslo"), (Span(0, 2, "PER"), Span(3, 4, "LOC")))


def test_conll_2003_four_columns(write):
    path = write(
        "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP I-PER\nLee NNP I-NP I-PER\nleft VBD B-VP O\n"
        "Oslo NNP B-NP I-LOC\n\n-DOCSTART- -X- -X- O\n\nHi UH O O\n"
    )
    assert read_conll(path) == [ANNA, NerExample(("Hi",))]
    assert [example.id for example in read_conll(path)] == ["data.txt:0", "data.txt:1"]
    assert read_conll(path, scheme="iob1") == [ANNA, NerExample(("Hi",))]
    refused(read_conll, path, "line 3", "a span of 'PER' to be open", "'I-PER'", scheme="bio")


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("bio", ("B-PER", "I-PER", "O", "B-LOC")),
        ("iob1", ("I-PER", "I-PER", "O", "I-LOC")),
        ("iobes", ("B-PER", "E-PER", "O", "S-LOC")),
        ("bilou", ("B-PER", "L-PER", "O", "U-LOC")),
    ],
)
@pytest.mark.parametrize(("separator", "end"), [(" ", "\n"), ("\t", "\n"), ("\t", "\r\n")])
def test_two_columns(write, scheme, tags, separator, end):
    lines = [word + separator + tag for word, tag in zip(ANNA.tokens, tags, strict=True)]
    path = write(end.join([*lines, "", *lines, "\t", ""]))
    assert read_conll(path, scheme=scheme) == [ANNA, ANNA]
    assert read_conll(path) == [ANNA, ANNA]


def test_columns_can_be_chosen(write):
    path = write("B-PER\tx\tAnna\n")
    assert read_conll(path, token=2, tag=0) == [NerExample(("Anna",), (Span(0, 1, "PER"),))]
    refused(read_conll, path, "line 1", "at least 4 columns", tag=3)
    refused(read_conll, path, "line 1", "at least 4 columns", token=-4)


def test_docstart_without_empty_lines_around_it(write):
    path = write("-DOCSTART- O\nAnna I-PER\n-DOCSTART- O\nLee I-PER\n")
    assert read_conll(path) == [NerExample((word,), (Span(0, 1, "PER"),)) for word in ("Anna", "Lee")]


def test_tokens_keep_unusual_characters(write):
    path = write("#\tO\na\xa0b\tB-X\n\u2028\tO\n")
    assert read_conll(path)[0].tokens == ("#", "a\xa0b", "\u2028")


def test_malformed_columns(write):
    refused(read_conll, write("Anna B-PER\nLee\n"), "line 2", "2 columns as in the lines before", "'Lee'")
    refused(read_conll, write("Anna\n"), "line 1", "at least 2 columns")
    refused(read_conll, write("Anna\t\tO\n"), "line 1", "no empty column")
    refused(read_conll, write("a O\n\nb PER\n"), "line 3", "O or one of B-", "'PER'")
    refused(read_conll, write("a B-X\n\nb O\n"), "line 1", "the span of 'X' to go on", scheme="iobes")


@pytest.mark.parametrize(
    "reader", [read_conll, read_conll04, read_fewrel, read_relation_names, read_ace05, read_multiwoz, read_woz]
)
def test_wrong_encoding(reader, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("é O\n".encode("latin-1"))
    refused(reader, path, "line 1", "text in UTF-8")


def test_byte_order_mark(write):
    assert read_conll(write("\ufeffAnna B-X\n"))[0].tokens == ("Anna",)
    assert read_conll(write("\ufeffAnna B-X\n\ufeff\n\ufeffLee B-X\n"))[1].tokens == ("Lee",)  # two files in one
    with pytest.warns(UserWarning, match="0 examples and no entity"):
        assert read_conll04(write("\ufeff[]")) == []


def test_broken_archives(write, tmp_path):
    refused(read_conll, write("Anna O\n", "data.gz"), "a whole gzip file")
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"Anna O\n")[:-9])
    refused(read_conll, path, "a whole gzip file")
    refused(read_multiwoz, write("{}", "data.zip"), "a zip file")


CONLL04 = JointExample(
    ANNA.tokens,
    (Span(0, 2, "Peop"), Span(3, 4, "Loc")),
    (Relation(Span(0, 2, "Peop"), Span(3, 4, "Loc"), "Live_In"),),
)
BILOU = {
    "tokens": list(ANNA.tokens),
    "tags": ["B-Peop", "L-Peop", "O", "U-Loc"],
    "relations": [{"head": 0, "tail": 1, "type": "Live_In"}],
    "orig_id": 7,
}
SPERT = {
    "tokens": list(ANNA.tokens),
    "entities": [{"type": "Loc", "start": 3, "end": 4}, {"type": "Peop", "start": 0, "end": 2}],
    "relations": [{"head": 1, "tail": 0, "type": "Live_In"}],
    "orig_id": 7,
}


@pytest.mark.parametrize("item", [BILOU.copy(), SPERT.copy()])
def test_conll04(write, item):
    (example,) = read_conll04(write([item]))
    assert example == CONLL04
    assert example.id == "7"
    del item["orig_id"]
    assert [x.id for x in read_conll04(write([item, item]))] == ["data.txt:0", "data.txt:1"]


def test_malformed_conll04(write):
    refused(read_conll04, write([BILOU | {"tags": ["O"]}]), "item 0", "4 tags")
    refused(read_conll04, write([BILOU | {"tags": ["I-X", "O", "O", "O"]}]), "item 0, token 0", "'I-X'")
    refused(
        read_conll04,
        write([BILOU | {"relations": [{"head": 0, "tail": 2, "type": "X"}]}]),
        "number of entities, 2",
    )
    refused(read_conll04, write([BILOU, {"tokens": []}]), "item 1", "a list under 'tags'")
    refused(read_conll04, write([SPERT | {"entities": [{"type": "X", "start": 3, "end": 5}]}]), "end <= 4")
    refused(read_conll04, write([SPERT | {"tokens": ["a", 1]}]), "item 0", "a list of texts under 'tokens'", "found 1")
    refused(read_conll04, write([BILOU | {"tags": [0, 1, 0, 1]}]), "item 0, token 0", "O or one of B-", "found 0")
    refused(read_conll04, write({}), "a list of sentences")
    refused(read_conll04, write('[{"tokens": [],\n "tags": ]'), "line 2", "JSON")


def test_fewrel(write):
    item = {
        "tokens": ["the", "River", "Thame", "in", "Oxford"],
        "h": ["river thame", "Q1", [[1, 2], [4]]],
        "t": ["oxford", "Q2", [[4]]],
    }
    path = write({"P1": [item], "P2": []})
    assert read_fewrel(path) == [RelationExample(tuple(item["tokens"]), Span(1, 3), Span(4, 5), "P1")]
    assert read_fewrel(path)[0].id == "P1:0"
    refused(read_fewrel, write({"P1": [item | {"h": ["x", "Q1", [[1, 3]]]}]}), "P1:0", "consecutive positions")
    refused(read_fewrel, write({"P1": [item | {"t": ["x", "Q1", [[5]]]}]}), "below 5 under 't'")
    refused(read_fewrel, write({"P1": [item | {"t": ["x", "Q1", []]}]}), "under 't'")
    refused(read_fewrel, write({"P1": [item | {"t": ["x", "Q1", {}]}]}), "under 't'")
    refused(read_fewrel, write({"P1": [item | {"tokens": [1, 2, 3, 4, 5]}]}), "P1:0", "a list of texts under 'tokens'")
    refused(read_fewrel, write([]), "an object from relation to instances")
    assert read_relation_names(write({"P1": ["in basin", "a longer text"]})) == {"P1": "in basin"}
    refused(read_relation_names, write({"P1": []}), "P1", "[name, description]")


def ace(**changes):
    document = {
        "doc_key": "NEWS_1",
        "sentences": [["Anna", "Lee", "left"], ["So", "?"], ["Oslo", "'s", "mayor"]],
        "ner": [[[0, 1, "PER"]], [], [[5, 5, "GPE"], [5, 7, "PER"]]],
        "relations": [[], [], [[5, 7, 5, 5, "ORG-AFF"]]],
    }
    return json.dumps(document | changes) + "\n"


def test_ace05(write):
    oslo, mayor = Span(0, 1, "GPE"), Span(0, 3, "PER")
    first = JointExample(("Anna", "Lee", "left"), (Span(0, 2, "PER"),))
    last = JointExample(("Oslo", "'s", "mayor"), (oslo, mayor), (Relation(mayor, oslo, "ORG-AFF"),))
    path = write(ace() + "\n" + ace(doc_key="NEWS_2"))
    assert read_ace05(path) == [first, JointExample(("So", "?")), last] * 2
    assert [x.id for x in read_ace05(path)][2:4] == ["NEWS_1:2", "NEWS_2:0"]
    assert read_ace05(path, reference=True) == [first, last] * 2
    with pytest.warns(UserWarning, match="3 examples and no entity in any"):
        assert read_ace05(write(ace(ner=[[], [], []], relations=[[], [], []])))[2] == JointExample(last.tokens)


def test_ace05_ambiguous_argument(write):
    path = write(ace(ner=[[], [], [[5, 5, "GPE"], [5, 5, "LOC"], [5, 7, "PER"]]]))
    (relation,) = read_ace05(path)[2].relations
    assert relation.tail == Span(0, 1, "GPE")
    with pytest.warns(UserWarning, match="0 examples"):
        assert read_ace05(path, reference=True) == []


def test_malformed_ace05(write):
    refused(read_ace05, write(ace() + "{"), "line 2", "JSON")
    refused(read_ace05, write(ace(ner=[[]])), "line 1", "3 lists under 'ner'")
    refused(read_ace05, write(ace(ner=[[], 5, []])), "line 1, sentence 1", "a list under 'ner'", "found 5")
    refused(read_ace05, write(ace(sentences=["So ?", [], []])), "line 1, sentence 0", "a list under 'sentences'")
    refused(read_ace05, write(ace(sentences=[[1], [], []])), "line 1, sentence 0", "a list of texts under 'sentences'")
    refused(read_ace05, write(ace(ner=[[[0, 3, "PER"]], [], []])), "sentence 0", "between 0 and 2")
    refused(read_ace05, write(ace(ner=[[[0, "PER"]], [], []])), "[start, end, label]")
    refused(read_ace05, write(ace(ner=[[], [], []])), "sentence 2", "both arguments among the entities")


ONTONOTES = """\
#begin document (nw/x/00/x_0001); part 000
nw/x/00/x_0001 0 0 Anna NNP (TOP(S(NP* - - - Speaker#1 (PERSON* (ARG0* (5
nw/x/00/x_0001 0 1 Lee NNP *) - - - Speaker#1 *) *) 5)
nw/x/00/x_0001 0 2 left VBD (VP* leave 01 1 Speaker#1 * (V*) -
nw/x/00/x_0001 0 3 Oslo NNP (NP*)) - - - Speaker#1 (GPE) (ARG1*) -

nw/x/00/x_0001 0 0 Hi UH (TOP*) - - - Speaker#1 * -

#end document
#begin document (nw/x/00/x_0001); part 001
nw/x/00/x_0001 1 0 No UH (TOP*) - - - - * -

#end document
"""


def test_ontonotes(write):
    path = write(ONTONOTES)
    first = NerExample(ANNA.tokens, (Span(0, 2, "PERSON"), Span(3, 4, "GPE")))
    assert read_ontonotes(path) == [first, NerExample(("Hi",)), NerExample(("No",))]
    ids = ["nw/x/00/x_0001:0:0", "nw/x/00/x_0001:0:1", "nw/x/00/x_0001:1:0"]
    assert [example.id for example in read_ontonotes(path)] == ids
    refused(read_ontonotes, write(ONTONOTES.replace(" *) *) 5)", " * *) 5)")), "line 2", "closed later")
    refused(read_ontonotes, write(ONTONOTES.replace("(GPE)", "GPE")), "line 5", "brackets", "'GPE'")
    refused(read_ontonotes, write(ONTONOTES.replace(" 5)", "")), "line 3", "13 columns")


# "She has sold, they say, the car", two predicates, the second inside the pieces of an argument.
WORDS = ["She", "has", "sold", ",", "they", "say", ",", "the", "car", "up"]
PROPS = """\
- (A0*) (A1*
- (AM-MOD*) *
sell (V*) *)
- * *
- (AM-ADV* (A0*)
say *) (V*)
- * *
- (A1* (C-A1*
- *) *
- (C-V*) *)
"""
SOLD = SrlExample(
    tuple(WORDS),
    Span(2, 3, "V"),
    (
        Span(0, 1, "A0"),
        Span(1, 2, "AM-MOD"),
        Span(4, 6, "AM-ADV"),
        Span(7, 9, "A1"),
        Span(9, 10, "C-V"),
    ),
)
SAY = SrlExample(tuple(WORDS), Span(5, 6, "V"), (Span(0, 3, "A1"), Span(4, 5, "A0"), Span(7, 10, "C-A1")))


def test_conll2005(tmp_path, write):
    words, props = write("\n".join(WORDS) + "\n\nHi\n", "words"), tmp_path / "props.gz"
    with gzip.open(props, "wt", encoding="utf-8") as file:
        file.write(PROPS + "\n-\n")
    assert read_conll2005(words, props) == [SOLD, SAY]
    assert [x.id for x in read_conll2005(words, props)] == ["props.gz:0:0", "props.gz:0:1"]


def test_malformed_conll2005(write):
    words = write("\n".join(WORDS) + "\n", "words")

    def refused_props(props, *parts):
        path = write(props, "props")
        with pytest.raises(DataFormatError) as error:
            read_conll2005(words, path)
        assert all(part in str(error.value) for part in parts)

    refused_props(PROPS + "\n- \n", "props, line 12", "as many lines")
    refused_props(PROPS[: PROPS.rindex("- (C-V")], "words, line 1", "as many lines")
    refused_props(PROPS.replace("say", "-"), "line 1", "one bracket column for each of the 1 predicates")
    refused_props(PROPS.replace("(V*) *)", "(V*) *"), "line 1", "a bracket that is closed later")
    refused_props(PROPS.replace("(A0*) (A1*", "*) (A1*"), "line 1", "an open bracket to close", "'*)'")
    refused_props(PROPS.replace("(AM-MOD*)", "AM-MOD"), "line 2", "brackets such as")


def test_closing_brackets_may_name_their_role(write):
    """As in CoNLL-2004."""
    path = write("She\tPRP\t-\t-\t(A0*A0)\nsold\tVB\tsell\t01\t(V*V)\n")
    assert read_srl_columns(path)[0].arguments == (Span(0, 1, "A0"),)
    refused(read_srl_columns, write("She\tPRP\tx\t-\t(A0*A1)\n"), "line 1", "the bracket of 'A0' to close")


def test_srl_columns(write):
    rows = [line.split(" ") for line in PROPS.splitlines()]
    lines = [
        "\t".join([word, "POS", row[0], "-" if row[0] == "-" else f"{row[0]}.01", *row[1:]])
        for word, row in zip(WORDS, rows, strict=True)
    ]
    path = write("# a comment\n" + "\n".join(lines) + "\n\n#\tNN\t-\t-\n")
    assert read_srl_columns(path) == [SOLD, SAY]
    combined = [f"{word} NN {row[0]} {' '.join(row[1:])}" for word, row in zip(WORDS, rows, strict=True)]
    assert read_srl_columns(write("\n".join(combined)), arguments=3) == [SOLD, SAY]


@pytest.mark.parametrize("row", ["{}\tNNP B-NP\tB-ORG", "{} NNP\tB-NP B-ORG", "{} NNP B-NP\tB-ORG", "{}\tB-NP O"])
def test_tabs_and_spaces_between_columns_of_one_line(write, row):
    lines = "\n".join(row.format(word) for word in ("EU", "UN", "WHO"))
    if row.startswith("{}\tNNP"):  # neither the token nor the tag
        assert read_conll(write(f"{lines}\n"))[0].tokens == ("EU", "UN", "WHO")
    else:
        refused(read_conll, write(f"{lines}\n"), "line 1", "between tabs alone or between spaces alone")
    refused(read_srl_columns, write("Bo NN\tx\t-\t-\nran V\tx\t-\t-\n"), "line 1", "between tabs alone")


def test_some_words_and_labels_with_spaces(write):
    path = write("New York\tB-big city\nis\tO\n")
    assert read_conll(path) == [NerExample(("New York", "is"), (Span(0, 1, "big city"),))]
    refused(read_conll, write("EU\tB-NP B-ORG\nleft\tO\n"), "line 1", "one tag per token", "'B-NP B-ORG'")


def test_a_pound_sign_is_a_token_of_srl_columns(write):
    sentence = "The DT - - (A1*\n# # - - *\n100 CD - - *)\nfell VBD fall fall.01 (V*)\n"
    path = write(f"# 1 of a b\n{sentence}\n# sent_id = 2\n# # - -\n1 CD - -\n\n#tag in a comment\n{sentence}")
    expected = SrlExample(("The", "#", "100", "fell"), Span(3, 4, "V"), (Span(0, 3, "A1"),))
    assert read_srl_columns(path) == [expected, expected]
    path = write("# # - - (A1*\n100 CD - - *)\nfell VBD fall fall.01 (V*)\n")
    assert read_srl_columns(path)[0].arguments == (Span(0, 2, "A1"),)
    refused(read_srl_columns, write("# # - - (A1*\n1 CD - - *\nfell VBD fall fall.01 (V*)\n"), "line 1", "closed later")


def test_srl_columns_with_the_verb_elsewhere(write):
    path = write("two\tCD\t-\t-\t(V*)\n-\tHYPH\t-\t-\t*\ntiming\tNN\ttwotime\t01\t(C-V*)\n")
    (example,) = read_srl_columns(path)
    assert (example.predicate, example.arguments) == (Span(0, 1, "V"), (Span(2, 3, "C-V"),))
    path = write("sings\tVB\tsing\t01\t*\n")
    assert read_srl_columns(path)[0].predicate == Span(0, 1, "V")


def test_srl_lines(write):
    good = "2 She has sold cars ||| B-A0 B-AM-MOD B-V B-A1"
    expected = SrlExample(
        ("She", "has", "sold", "cars"),
        Span(2, 3, "V"),
        (Span(0, 1, "A0"), Span(1, 2, "AM-MOD"), Span(3, 4, "A1")),
    )
    path = write(f"{good} |||\n\n{good}\n")
    assert read_srl_lines(path) == [expected, expected]
    assert [x.id for x in read_srl_lines(path)] == ["data.txt:1", "data.txt:3"]
    refused(read_srl_lines, write(f"{good}\nShe sold\n"), "line 2", "|||")
    refused(read_srl_lines, write("2 She has sold ||| B-A0 B-V |||"), "line 1", "3 tags")
    refused(read_srl_lines, write("3 She has sold ||| B-A0 O B-V |||"), "a predicate index below 3", "'3'")
    refused(read_srl_lines, write("² She has sold ||| B-A0 O B-V |||"), "a predicate index below 3", "'²'")
    refused(read_srl_lines, write("2 She has sold ||| A0 O B-V |||"), "as tag 0", "'A0'")
