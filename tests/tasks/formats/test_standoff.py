"""brat and PubTator."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import Relation, Span, read, read_brat, read_pubtator

from ..files import refused

TEXT = "Mia works at Acme\nLtd in Oslo and Turku.\n"
ANN = """\
T1\tPerson 0 3\tMia
T2\tCompany 13 17;18 21\tAcme Ltd
R1\tWorks_for Arg1:T1 Arg2:T2\t
#1\tAnnotatorNotes T1\twho is she?
"""
MIA, ACME = Span(0, 3, "Person"), Span(13, 21, "Company")


@pytest.fixture
def brat(write):
    def files(ann, text=TEXT, name="doc-1"):
        write(text, f"{name}.txt")
        return write(ann, f"{name}.ann")

    return files


def test_brat(brat):
    path = brat(ANN)
    brat("T1\tPerson 0 2\tBo\n", "Bo left.", "doc-2")
    (document,) = read_brat(path)
    assert (document.id, document.text) == ("doc-1", TEXT)
    assert document.spans == (MIA, ACME)  # the span goes on after the line break
    assert document.relations == (Relation(MIA, ACME, "Works_for"),)
    assert read_brat(path.with_suffix(".txt")) == [document]
    assert [d.id for d in read_brat(path.parent)] == ["doc-1", "doc-2"]


def test_texts_without_annotations_are_counted(brat, write):
    folder = brat(ANN).parent
    write("Nobody.", "other.txt")
    with pytest.warns(UserWarning, match="1 records left out, texts without a file .ann beside them"):
        assert len(read_brat(folder)) == 1


def test_subfolders_are_read_with_their_names_in_the_ids(brat, tmp_path):
    for name in ("news/2024", "news/.ipynb_checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("doc-1", "news/doc-1", "news/2024/ü", "news/.ipynb_checkpoints/doc-1"):
        brat(ANN, name=name)
    (tmp_path / "news" / "other.txt").write_text("Nobody.")
    with pytest.warns(UserWarning, match="1 records left out, texts without a file .ann beside them"):
        found = read_brat(tmp_path)
    assert sorted(document.id for document in found) == ["doc-1", "news/2024/ü", "news/doc-1"]
    assert read_brat(tmp_path / "news" / "doc-1.ann")[0].id == "doc-1"
    (tmp_path / "news" / "doc-1.txt").unlink()
    refused(read_brat, tmp_path, "news/doc-1.ann", "no file doc-1.txt")


@pytest.mark.parametrize("reader", [read, read_brat])
def test_a_folder_of_other_files_is_refused(reader, write, tmp_path):
    refused(reader, tmp_path, "files .ann with their .txt beside them", "found []")
    write("Mia B-PER\n", "train.conll")
    write("Nobody.", "other.txt")
    refused(reader, tmp_path, "as brat has them; give the file itself", "['.conll', '.txt']")


def test_pieces_of_a_span_in_any_order(brat):
    (document,) = read_brat(brat("T1\tCompany 18 21;13 17\tAcme Ltd\n"))
    assert document.spans == (ACME,)


def test_brat_roles_in_any_order(brat):
    (document,) = read_brat(brat(ANN.replace("Arg1:T1 Arg2:T2", "Arg2:T2 Arg1:T1")))
    assert document.relations == (Relation(MIA, ACME, "Works_for"),)


def test_brat_counts_characters_of_the_file(brat):
    # a carriage return counts; code points are usual, but the words decide
    assert read_brat(brat("T1\tLOC 3 7\tOslo\n", "a\r\nOslo"))[0].spans == (Span(3, 7, "LOC"),)
    for offset, kinds in ((2, []), (3, ["offsets_converted"]), (5, ["offsets_converted"])):
        (document,) = read_brat(brat(f"T1\tLOC {offset} {offset + 4}\tOslo\n", "😀 Oslo"))
        assert document.spans == (Span(2, 6, "LOC"),)
        assert [problem.kind for problem in document.problems] == kinds


@pytest.mark.parametrize(
    ("offset", "counted"),
    [
        (6, "the offsets count a line end of two characters as one"),
        (7, "mark, a line end of two"),
        (8, ""),
        (9, "mark"),
    ],
)
def test_brat_counts_line_ends_and_byte_order_marks_as_the_words_say(brat, offset, counted):
    text = "\ufeffHi\r\nHo\r\nAnn left"
    (document,) = read_brat(brat(f"T1\tPER {offset} {offset + 3}\tAnn\n", text))
    assert document.spans == (Span(8, 11, "PER"),)
    assert [problem.kind for problem in document.problems] == ["offsets_converted"] * bool(counted)
    assert all(counted in problem.message for problem in document.problems)
    if "mark" in counted:
        refused(read_brat, brat(f"T1\tPER {offset} {offset + 3}\tAnn\n", text[1:]), "annotations", "that stand at")


@pytest.mark.parametrize(("first", "second"), [((5, 8), (10, 13)), ((9, 12), (14, 17))])
def test_white_space_between_pieces_whatever_the_unit(brat, first, second):
    places = ";".join(f"{start} {end}" for start, end in (first, second))
    (document,) = read_brat(brat(f"T1\tPER {places}\tAnn Lee\n", "😀😀 Ann  Lee left"))
    assert document.spans == (Span(3, 11, "PER"),)
    assert [problem.kind for problem in document.problems] == ["offsets_converted"]
    with pytest.warns(UserWarning, match="1 x discontinuous_span"):
        (document,) = read_brat(brat("T1\tPER 5 8;11 14\tAnn Lee\nT2\tX 3 4\tB\n", "😀 BxAnn - Lee left"))
    assert document.spans == (Span(2, 3, "X"),)


def test_brat_leaves_out_what_is_no_span_or_relation(brat):
    lost = """\
T3\tPlace 25 29;34 39\tOslo Turku
R2\tIn Arg1:T1 Arg2:T3
T4\tHire 4 9\tworks
E1\tHire:T4 Who:T1
R3\tAfter Arg1:E1 Arg2:T1
A1\tNegated T1
N1\tReference T1 Wikidata:Q1\tMia
*\tEquiv T1 T2
"""
    with pytest.warns(UserWarning, match="1 x discontinuous_span"):
        (document,) = read_brat(brat(ANN + lost))
    assert document.spans == (MIA, Span(4, 9, "Hire"), ACME)
    assert document.relations == (Relation(MIA, ACME, "Works_for"),)
    kinds = sorted(problem.kind for problem in document.problems)
    assert kinds == ["annotation_left_out"] * 4 + ["discontinuous_span"] + ["relation_of_lost_span"] * 2


@pytest.mark.parametrize(
    ("ann", "parts"),
    [
        ("T1\tPerson 0 3\tMax\n", ["'Mia'", "stand at 0 to 3", "'Max'"]),
        ("T1\tPerson 38 99\tMia\n", ["0 <= start < end <= 41", "99"]),
        ("T1\tPerson 3 0\tMia\n", ["0 <= start < end", "(3, 0, 'Person')"]),
        ("T1 Person 0 3 Mia\n", ["line 1", "and a tab"]),
        ("T1\tPerson 0\tMia\n", ["line 1", "start and end"]),
        ("T1\tPerson 0 3\tMia\nT1\tPerson 0 3\tMia\n", ["line 2", "an id that no other", "'T1'"]),
        ("T1\tPerson 0 3\tMia\nR1\tX Arg1:T1 Arg2:T9\n", ["'T9'", "'X'"]),
        ("T1\tPerson 0 3\tMia\nR1\tX T1 T1\n", ["line 2", "Lives_in Arg1:T1 Arg2:T2"]),
        ("Mia\tB-PER\n", ["line 1", "such as T1, R1"]),
    ],
)
def test_wrong_brat_is_named(brat, ann, parts):
    path = brat(ann)
    refused(read_brat, path, *parts)


def test_brat_needs_the_text(write):
    refused(read_brat, write(ANN, "x.ann"), "x.ann", "no file x.txt")


PUBTATOR = """\
101|t|Aspirin and headache.
101|a|We gave aspirin to 😀 Mia Lee.
101\t0\t7\tAspirin\tChemical\tD001241
101\t12\t20\theadache\tDisease\tD006261
101\t43\t50\tMia Lee\tPatient

102|t|No abstract: asthma.
102|a|
102\t13\t19\tasthma\tDisease\tD001249
"""
SPANS = (Span(0, 7, "Chemical"), Span(12, 20, "Disease"), Span(43, 50, "Patient"))


def test_pubtator(write):
    first, second = read_pubtator(write(PUBTATOR))
    assert (first.id, first.text) == ("101", "Aspirin and headache.\nWe gave aspirin to 😀 Mia Lee.")
    assert first.spans == SPANS
    assert (second.id, second.text, second.spans) == ("102", "No abstract: asthma.", (Span(13, 19, "Disease"),))


def test_pubtator_offsets_are_checked_against_the_words(write):
    (first, _) = read_pubtator(write(PUBTATOR.replace("43\t50", "44\t51")))  # UTF-16 units
    assert first.spans == SPANS
    assert [problem.kind for problem in first.problems] == ["offsets_converted"]
    refused(read_pubtator, write(PUBTATOR.replace("43\t50", "42\t49")), "document 101", "stand at 42 to 49", "Mia Lee")


def test_pubtator_relations_hold_between_concepts(write):
    path = write(PUBTATOR.replace("\n\n", "\n101\tCID\tD001241\tD006261\n\n"))
    with pytest.warns(UserWarning, match="the relation CID between the concepts D001241 and D006261"):
        first, _ = read_pubtator(path)
    assert first.spans == SPANS


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1\t0\t3\tMia\tPER\n", ["line 1", "a title"]),
        ("1|t|Mia\n2\t0\t3\tMia\tPER\n", ["line 2", "'1'"]),
        ("1|t|Mia\n2|a|left\n", ["line 2", "of the document '1'"]),
        ("1|t|Mia\n1|a|left\n1|a|left\n", ["line 3", "one abstract"]),
        ("1|t|Mia\n1\t0\t3\tMia\n", ["line 2", "mention and type"]),
        ("1|t|Mia\n1\t0\t9\tMia\tPER\n", ["document 1", "<= 3", "9"]),
        ("1|t|Mia\n\n1|t|Mia\n", ["an id that no other record", "'1'"]),
    ],
)
def test_wrong_pubtator_is_named(write, text, parts):
    refused(read_pubtator, write(text), *parts)
