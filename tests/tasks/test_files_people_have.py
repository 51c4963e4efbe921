"""Files as they come from other tools: line ends, blank lines, encodings, comments, layouts of later versions."""

from __future__ import annotations

import json

import pytest

from peft_fishdip.tasks import (
    DataFormatError,
    NerExample,
    SlotValue,
    Span,
    Turn,
    read,
    read_ace05,
    read_conll,
    read_conll04,
    read_multiwoz,
    read_ontonotes,
    read_semeval2010,
    read_srl_columns,
    read_srl_lines,
    read_tagged_json,
    read_woz,
)
from peft_fishdip.tasks.formats.document import to_document

from .files import refused

MIA = NerExample(("Mia", "sah", "Köln"), (Span(0, 1, "PER"), Span(2, 3, "LOC")))
LINES = ["Mia B-PER", "sah O", "Köln B-LOC"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\r\r\n", "\n\r", "\x85", "\u2028", "\x0b"])
def test_line_ends(write, end):
    path = write(end.join([*LINES, "", *LINES, ""]))
    assert read_conll(path) == [MIA, MIA]


@pytest.mark.parametrize(
    "blank", ["", " ", "\t", "\xa0", "\u3000", "\ufeff", "\u200b", " \xa0\t", "\x0c", "\r", "\x1a", "\u200e"]
)
def test_blank_lines(write, blank):
    path = write("\n".join([blank, *LINES, blank, blank, *LINES, blank]))
    assert read_conll(path) == [MIA, MIA]


def test_white_space_around_cells_and_between_them(write):
    assert read_conll(write("Mia\tB-PER \nsah \t O\t\nKöln\tB-LOC\n")) == [MIA]
    assert read_conll(write("\n".join(LINES).replace(" ", "\xa0"))) == [MIA]
    assert read_conll(write("\xa0\n".join(LINES))) == [MIA]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "utf-8-sig", "utf-16-le", "utf-16", "mac-roman"])
def test_encoding_can_be_given(tmp_path, encoding):
    path = tmp_path / "data.txt"
    path.write_bytes("\n".join(LINES).encode(encoding))
    assert read_conll(path, encoding=encoding) == [MIA]


def test_encodings_that_mark_themselves_are_read(tmp_path):
    path = tmp_path / "data.txt"
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes("\r\n".join(LINES).encode(encoding))
        assert read_conll(path) == [MIA]


def test_other_encodings_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes("\n".join(LINES).encode("latin-1"))
    with pytest.raises(DataFormatError, match=r"line 3: expected text in UTF-8; .*pass encoding='latin-1'"):
        read_conll(path)
    path.write_bytes("\n".join(LINES).encode("utf-16-be"))
    with pytest.raises(DataFormatError, match="encoding='utf-16-le' or 'utf-16-be'"):
        read_conll(path, encoding="latin-1")
    with pytest.raises(ValueError, match="encoding='latin-eins': Python knows no encoding"):
        read_woz(path, encoding="latin-eins")


@pytest.mark.parametrize("encoding", ["hex", "base64", "rot13", "zlib", "a\0b", "", "latin-eins", "undefined"])
@pytest.mark.parametrize("reader", [read_conll, read_tagged_json, read])
def test_encodings_of_no_texts_are_refused(write, reader, encoding):
    with pytest.raises(ValueError, match=r"encoding=.*: Python knows no encoding of texts of this name"):
        reader(write("Mia B-PER\n"), encoding=encoding)
    with pytest.raises(TypeError, match="encoding=None: give the name of an encoding"):
        reader(write("Mia B-PER\n"), encoding=None)


def test_an_unknown_scheme_is_named_before_a_comment_is_read(write):
    with pytest.raises(ValueError, match="scheme='foo': choose one of conll, iob1"):
        read_conll(write("# B-PER\n"), scheme="foo")


def test_rows_without_an_id_are_named_after_their_place(write):
    rows = [{"id": None, "tokens": ["a"], "ner_tags": ["B-X"]}] * 2 + [{"id": "", "tokens": ["a"], "ner_tags": ["O"]}]
    assert [x.id for x in read_tagged_json(write(rows))] == ["data.txt:0", "data.txt:1", "data.txt:2"]


def test_a_span_with_a_blank_token_at_its_end_is_read_and_has_no_place_in_a_text(write):
    rows = [{"tokens": ["", "a", "b"], "ner_tags": ["O", "B-X", "O"]}]
    assert read_tagged_json(write(rows))[0].spans == (Span(1, 2, "X"),)
    for tokens, tags, place in ((["", "b"], ["B-X", "O"], 0), (["a", " "], ["B-X", "I-X"], 1)):
        found = read_tagged_json(write([*rows, {"tokens": tokens, "ner_tags": tags}]))[1]
        with pytest.raises(
            ValueError, match=rf"the record 'data.txt:1': .* token {place}, '{tokens[place]}', which is b"
        ):
            to_document(found)


def test_json_may_hold_any_character_raw(write):
    text = '[{"tokens": ["Mia\u2028Lee", "\x85"], "entities": [{"type": "P", "start": 0, "end": 1}], "relations": []}]'
    assert read_conll04(write(text))[0].tokens == ("Mia\u2028Lee", "\x85")
    with pytest.raises(DataFormatError, match="JSON that is not nested too deeply"):
        read_conll04(write("[" * 100_000))


def test_tags_in_json(write):
    rows = [{"id": 5, "tokens": ["Mia", "Lee", "left"], "ner_tags": [1, 2, 0]}, {"tokens": ["Hi"], "ner_tags": ["O"]}]
    for content in (rows, "\n".join(map(json.dumps, rows))):
        examples = read_tagged_json(write(content), names=["O", "B-PER", "I-PER"])
        assert examples == [NerExample(("Mia", "Lee", "left"), (Span(0, 2, "PER"),)), NerExample(("Hi",))]
        assert [example.id for example in examples] == ["5", "data.txt:1"]
    refused(read_tagged_json, write(rows), "item 0, token 0", "0 known tags: pass names=", "found 1")
    refused(read_tagged_json, write(rows), "item 0, token 1", "2 known tags", "found 2", names=["O", "B-PER"])
    refused(read_tagged_json, write([{"tokens": ["Hi"], "ner_tags": []}]), "item 0", "1 tags, one per token")


@pytest.mark.parametrize(
    "text",
    [
        "# newdoc\n# text = Mia\tsah\n1\tMia\tB-PER\n2\tsah\tO\n#\n3\tKöln\tB-LOC\n",
        "# id 7\tdomain=de\n1 Mia B-PER\n2 sah O\n3 Köln B-LOC\n\n# the end\n",
        "#\thttp://a.b\t[2009]\n1\tMia\tB-PER\n2\tsah\tO\n3\tKöln\tB-LOC\n",
    ],
)
def test_comments(write, text):
    path = write(text)
    assert read_conll(path, token=1) == [MIA]
    with pytest.raises(DataFormatError):
        read_conll(path, token=1, comments=False)


def test_a_hash_may_be_a_word(write):
    assert read_conll(write("#\tO\n# \tO\n#1\tB-X\n"))[0].tokens == ("#", "#", "#1")
    with pytest.raises(DataFormatError, match="line 2"):
        read_conll(write("Mia\tB-PER\n#now\n"))  # a word without a tag is no comment


def test_schemes_of_columns(write):
    assert read_conll(write("李 B-PER\n小 M-PER\n明 E-PER\n在 O\n京 S-LOC\n"))[0].spans == (
        Span(0, 3, "PER"),
        Span(4, 5, "LOC"),
    )
    assert read_conll(write("Mia person-artist\nLee person-artist\nin O\n"), scheme="io")[0].spans == (
        Span(0, 2, "person-artist"),
    )
    assert read_conll(write("BRCA1 B\ngene I\nis O\n"))[0].spans == (Span(0, 2, "entity"),)
    with pytest.raises(DataFormatError, match=r"line 2: .*one tag per token"):
        read_conll(write("in O\nBonn B-LOC|B-ORG\n"))


def test_a_file_without_any_span_warns(write):
    with pytest.warns(UserWarning, match="1 examples and no entity in any; the tags were read from column 1"):
        read_conll(write("Mia O B-PER\n"), tag=1)
    with pytest.warns(UserWarning, match="no proposition"):
        read_srl_columns(write("Mia NN - -\n"))


@pytest.mark.parametrize(
    "read_file", [read_conll, read_srl_columns, read_srl_lines, read_semeval2010, read_ace05, read]
)
@pytest.mark.parametrize("text", ["", "\ufeff", " \r\n\t\n"])
def test_a_file_without_any_text_is_refused(write, read_file, text):
    with pytest.raises(ValueError, match="the file is empty; give one with annotated texts"):
        read_file(write(text))


CONLL_2012 = """\
#begin document (a/b); part 000
a/b 0 0 They PRP (S* - - - Al * (ARG0* (ARG0*) (0)
a/b 0 1 both DT * - - - Al * *) * -
a/b 0 2 ran VBD (VP* run 02 1 Al * (V*) * -
a/b 0 3 and CC * - - - Al * * * -
a/b 0 4 hid VBD (VP* hide 01 - Al * * (V*) -
a/b 0 5 here RB *)) here - - Al (LOC) (ARGM-LOC*) (ARGM-LOC*) (1|(0)

a/b 0 0 Yes UH (S*) - - - Al * (4)

#end document
"""


def test_conll_2012_has_propositions_before_coreference(write):
    path = write(CONLL_2012)
    assert len(read_ontonotes(path)) == 2
    run, hide = read_srl_columns(path, word=3, predicate=7, arguments=11)
    assert (run.predicate, run.arguments) == (Span(2, 3, "V"), (Span(0, 2, "ARG0"), Span(5, 6, "ARGM-LOC")))
    assert (hide.predicate, hide.arguments) == (Span(4, 5, "V"), (Span(0, 1, "ARG0"), Span(5, 6, "ARGM-LOC")))
    # "here" has a lemma and no proposition
    assert read_srl_columns(path, word=3, predicate=6, arguments=11) == [run, hide]
    with pytest.raises(DataFormatError, match="one bracket column for each of the 0 predicates"):
        read_srl_columns(write(CONLL_2012.replace("(V*)", "*")), word=3, predicate=6, arguments=11)


def test_values_that_are_lists(write):
    def metadata(**values):
        return {"taxi": {"semi": values, "book": {"booked": []}}}

    log = [
        {"text": "a taxi", "metadata": {}},
        {"text": "when ?", "metadata": metadata(leaveAt=["9:00", "nine"], to=[])},
    ]
    (example,) = read_multiwoz(write({"D": {"log": log}}))
    assert example.state == (SlotValue("taxi", "leave at", "9:00"),)
    log[1]["metadata"] = metadata(leaveAt=[9])
    with pytest.raises(DataFormatError, match="a text as value of taxi leaveAt, or a list of texts"):
        read_multiwoz(write({"D": {"log": log}}))


def test_schema_guided_dialogues(write):
    def frame(service, **values):
        state = {
            "active_intent": "x",
            "slot_values": {slot.replace("__", "-"): value for slot, value in values.items()},
        }
        return {"service": service, "state": state, "slots": []}

    turns = [
        {
            "speaker": "USER",
            "utterance": "a cheap room",
            "frames": [frame("hotel", hotel__pricerange=["cheap", "low"])],
        },
        {"speaker": "SYSTEM", "utterance": "which day ?", "frames": []},
        {
            "speaker": "USER",
            "utterance": "friday , and a bus",
            "frames": [
                frame("hotel", hotel__pricerange=["cheap"], hotel__bookday=["friday"]),
                frame("Buses_1", to=["Ulm"]),
            ],
        },
        {"speaker": "SYSTEM", "utterance": "done", "frames": []},
        {"speaker": "USER", "utterance": "thanks", "frames": []},
    ]
    path = write([{"dialogue_id": "d7", "services": ["hotel"], "turns": turns}])
    cheap, friday = SlotValue("hotel", "price range", "cheap"), SlotValue("hotel", "book day", "friday")
    one, two, three = read_multiwoz(path)
    assert (one.state, two.state, three.state) == ((cheap,), (friday, cheap), (friday, cheap))
    assert two.turns == (Turn("user", "a cheap room"), Turn("agent", "which day ?"), Turn("user", "friday , and a bus"))
    assert (one.id, three.id) == ("d7:0", "d7:2")
    assert read_multiwoz(path, domains=["Buses_1"])[1].state == (SlotValue("Buses_1", "to", "Ulm"),)
    with pytest.raises(ValueError, match="has none of them, but Buses_1, hotel"):
        read_multiwoz(path, domains=["Buses_2"])
    turns[0]["speaker"] = "BOT"
    with pytest.raises(DataFormatError, match="d7, turn 0: expected USER or SYSTEM"):
        read_multiwoz(write([{"dialogue_id": "d7", "turns": turns}]))
