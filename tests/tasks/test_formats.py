"""Source and target texts, by example."""

from __future__ import annotations

import pytest

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
)

TOKENS = ("John", "Smith", "works", "for", "Acme", "in", "Paris", ".")
JOHN, ACME, PARIS = Span(0, 2, "Peop"), Span(4, 5, "Org"), Span(6, 7, "Loc")
NAMES = {"Peop": "person", "Org": "organization", "Loc": "location"}


def test_ner():
    source, target, problems = NerTask(NAMES).encode(NerExample(TOKENS, (ACME, PARIS, JOHN)))
    assert source == "John Smith works for Acme in Paris ."
    assert target == "[ John Smith | person ] works for [ Acme | organization ] in [ Paris | location ] ."
    assert problems == ()


def test_joint():
    task = JointTask(NAMES, {"Work": "works for", "Live": "lives in"})
    relations = (Relation(JOHN, PARIS, "Live"), Relation(JOHN, ACME, "Work"))
    source, target, problems = task.encode(JointExample(TOKENS, (JOHN, ACME, PARIS), relations))
    assert source == "John Smith works for Acme in Paris ."
    assert target == (
        "[ John Smith | person | works for = Acme | lives in = Paris ] works for [ Acme | organization ] "
        "in [ Paris | location ] ."
    )
    assert problems == ()


def test_nesting_sorts_outer_before_inner():
    spans = (Span(0, 1, "Org"), Span(0, 2, "Peop"), Span(1, 2, "Loc"))
    target = NerTask(NAMES).encode(NerExample(("Texas", "Tech", "wins"), spans)).target
    assert target == "[ [ Texas | organization ] [ Tech | location ] | person ] wins"


def test_srl():
    tokens = ("The", "maker", "last", "year", "sold", "1,214", "cars", "in", "the", "U.S.")
    arguments = (Span(0, 2, "A0"), Span(2, 4, "AM-TMP"), Span(5, 7, "A1"), Span(7, 10, "AM-LOC"))
    source, target, _ = SrlTask(["A0", "A1", "AM-TMP", "AM-LOC"]).encode(SrlExample(tokens, Span(4, 5, "V"), arguments))
    assert source == "The maker last year [ sold ] 1,214 cars in the U.S."
    assert target == ("[ The maker | A0 ] [ last year | AM-TMP ] sold [ 1,214 cars | A1 ] [ in the U.S. | AM-LOC ]")


def test_relation_names_the_head_first():
    tokens = ("Born", "Bright", "was", "a", "Dido", "film", ".")
    source, target, _ = RelationTask({"P57": "director"}).encode(
        RelationExample(tokens, head=Span(4, 5), tail=Span(0, 2), label="P57")
    )
    assert source == ("[ Born Bright ] was a [ Dido ] film . The relationship between [ Dido ] and [ Born Bright ] is")
    assert target == "relationship between [ Dido ] and [ Born Bright ] = director"


def test_relation_with_nested_head_and_tail():
    example = RelationExample(("University", "of", "Texas"), Span(0, 3), Span(2, 3), "in")
    assert RelationTask(["in"]).encode(example).source == (
        "[ University of [ Texas ] ] The relationship between [ University of Texas ] and [ Texas ] is"
    )


SLOTS = {"hotel": ("price range", "area", "book day"), "taxi": ("leave at",)}


def test_dst():
    turns = (Turn("user", "A hotel  in the north"), Turn("agent", "Any price ?"), Turn("user", "no"))
    state = (SlotValue("taxi", "leave at", "17:15"), SlotValue("hotel", "area", "north"))
    source, target, problems = DstTask(SLOTS).encode(DstExample(turns, state))
    assert source == "[User]: A hotel in the north ; [Agent]: Any price ? ; [User]: no ;"
    assert target == (
        "[belief] hotel area north , hotel book day not given , hotel price range not given , "
        "taxi leave at 17:15 [belief]"
    )
    assert problems == ()


def test_dst_empty_state():
    task = DstTask(SLOTS)
    example = DstExample((Turn("user", "hi"),))
    assert task.encode(example).target == "[belief] [belief]"
    decoded = task.decode(example, "[belief] [belief]")
    assert decoded.prediction == example
    assert decoded.problems == ()


@pytest.mark.parametrize(
    ("text", "state", "kinds"),
    [
        ("[belief] hotel area north [belief]", [("hotel", "area", "north")], []),
        (
            "[belief] hotel area north , hotel price ra",
            [("hotel", "area", "north")],
            ["format_error", "label_error"],
        ),
        ("[ belief] hotel area north[ belief ]", [("hotel", "area", "north")], []),
        ("hotel area north", [("hotel", "area", "north")], ["format_error"]),
        ("[belief] hotel area [belief]", [], ["format_error"]),
        ("[belief] hotel pool yes [belief]", [], ["label_error"]),
        (
            "[belief] hotel area north , hotel area south [belief]",
            [("hotel", "area", "north")],
            ["format_error"],
        ),
        ("[belief] hotel area north , hotel area north [belief]", [("hotel", "area", "north")], []),
        ("[belief] hotel area a&comma; b , , [belief]", [("hotel", "area", "a, b")], []),
        ("", [], ["format_error"]),
    ],
)
def test_dst_decodes_what_a_model_may_write(text, state, kinds):
    decoded = DstTask(SLOTS).decode("hi", text)
    assert decoded.prediction.state == tuple(SlotValue(*entry) for entry in state)
    assert [problem.kind for problem in decoded.problems] == kinds


def test_dst_reports_values_it_cannot_carry():
    task = DstTask({"x": ("price", "price range")})
    state = (SlotValue("x", "price", "range high"), SlotValue("x", "price range", "not given"))
    kinds = [problem.kind for problem in task.encode(DstExample((), state)).problems]
    assert kinds == ["ambiguous_slot", "reserved_value"]


def test_unknown_labels_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown entity type 'Car'; this task knows 'Peop', 'Org', 'Loc'"):
        NerTask(NAMES).encode(NerExample(("a",), (Span(0, 1, "Car"),)))
    with pytest.raises(ValueError, match="unknown slot 'pool' of domain 'hotel'"):
        DstTask(SLOTS).encode(DstExample((), (SlotValue("hotel", "pool", "yes"),)))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"a": "x", "b": "x"}, "'a' and 'b' have the same name 'x'"),
        ({"a": "x | y"}, "its name 'x | y' must be words"),
        ({"a": ""}, "its name '' must be words"),
        ({"a": "x  y"}, "separated by single spaces"),
        ("person", "pass a list or a mapping"),
        ([1], "its name 1 must be words"),
    ],
)
def test_unusable_label_names_are_refused(labels, match):
    with pytest.raises(ValueError, match=match):
        NerTask(labels)


def test_slots_are_lists():
    with pytest.raises(ValueError, match="domain 'hotel': got the text 'area'; pass a list"):
        DstTask({"hotel": "area"})


def test_records_of_another_task_are_refused():
    with pytest.raises(TypeError, match="'joint' encodes JointExample records, got NerExample"):
        JointTask(NAMES, ["in"]).encode(NerExample(("a",)))
    with pytest.raises(TypeError, match="'ner' takes NerExample records, raw texts or tokens, got JointExample"):
        NerTask(NAMES).decode(JointExample(("a",)), "a")


def test_raw_texts():
    assert NerTask(NAMES).as_example("Ann met Bo.").tokens == ("Ann", "met", "Bo", ".")
    assert NerTask(NAMES).as_example(["Ann", "met"]).tokens == ("Ann", "met")
    assert SrlTask(["A0"]).as_example("She [ sold ] it.") == SrlExample(("She", "sold", "it", "."), Span(1, 2))
    assert RelationTask(["in"]).as_example("[Ann Lee] lives in [Oslo].") == RelationExample(
        ("Ann", "Lee", "lives", "in", "Oslo", "."), Span(0, 2), Span(4, 5)
    )
    for text in ("She sold it.", "She [ ] it.", "She [ [ sold ] ] it."):
        with pytest.raises(ValueError, match="put brackets around the predicate"):
            SrlTask(["A0"]).as_example(text)
    with pytest.raises(TypeError, match="'srl' needs a SrlExample or a raw text, got list"):
        SrlTask(["A0"]).as_example(["She", "sold"])
