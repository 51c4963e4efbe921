"""The parser's behaviour table: what the reference does with well and badly formed text."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import JointTask, NerTask, Relation, RelationExample, RelationTask, Span, SrlExample, SrlTask
from peft_fishdip.tasks.brackets import Bracket, parse

TOKENS = ["John", "Smith", "works", "for", "Acme", "in", "Paris", "."]
TASK = JointTask(["person", "organization", "location"], ["works for", "lives in"])
JOHN, ACME, PARIS = Span(0, 2, "person"), Span(4, 5, "organization"), Span(6, 7, "location")
REST = "works for [ Acme | organization ] in [ Paris | location ] ."


@pytest.mark.parametrize(
    ("text", "spans", "relations", "errors"),
    [
        pytest.param(f"[ John Smith | person ] {REST}", {JOHN, ACME, PARIS}, set(), set(), id="well formed"),
        pytest.param(
            "[ John Smith | person works for Acme in [ Paris | location ] .",
            set(),
            set(),
            {"format_error", "wrong_reconstruction"},
            id="unclosed bracket swallows the rest",
        ),
        pytest.param(
            "John Smith ] works for [ Acme | organization ] in Paris .",
            {ACME},
            set(),
            {"format_error", "wrong_reconstruction"},
            id="closing bracket without opening is a word",
        ),
        pytest.param(f"[ John Smith | persn ] {REST}", {ACME, PARIS}, set(), {"label_error"}, id="unknown label"),
        pytest.param(
            f"[ John Smith | person | works for = Acme Corp ] {REST}",
            {JOHN, ACME, PARIS},
            set(),
            {"entity_error"},
            id="tail that is no entity",
        ),
        pytest.param(
            f"[ John Smith | person | employed by = Acme ] {REST}",
            {JOHN, ACME, PARIS},
            set(),
            {"label_error"},
            id="unknown relation",
        ),
        pytest.param(
            f"[ Jon Smith | person ] {REST}",
            {JOHN, ACME, PARIS},
            set(),
            {"wrong_reconstruction"},
            id="misspelt words are aligned",
        ),
        pytest.param(
            "[John Smith|person] works for [Acme|organization] in Paris.",
            {JOHN, ACME},
            set(),
            set(),
            id="spacing does not matter",
        ),
        pytest.param(
            f"[ John Smith | person | organization ] {REST}",
            {JOHN, ACME, PARIS},
            set(),
            {"format_error"},
            id="second label without relation",
        ),
        pytest.param(
            f"[ John Smith | person | works for = Acme | lives in = Paris ] {REST}",
            {JOHN, ACME, PARIS},
            {Relation(JOHN, ACME, "works for"), Relation(JOHN, PARIS, "lives in")},
            set(),
            id="relations",
        ),
        pytest.param(f"[ John Smith ] {REST}", {ACME, PARIS}, set(), {"format_error"}, id="no label"),
        pytest.param(
            f"[ John Smith | works for = Acme ] {REST}",
            {ACME, PARIS},
            set(),
            {"format_error"},
            id="relation where the label belongs",
        ),
        pytest.param(
            f"[ John Smith | person | works for = Acme = Paris ] {REST}",
            {JOHN, ACME, PARIS},
            set(),
            {"format_error"},
            id="two equals signs",
        ),
        pytest.param("", set(), set(), {"wrong_reconstruction"}, id="empty"),
        pytest.param("[ ] | = [ | ]", set(), set(), {"wrong_reconstruction"}, id="nothing but structure"),
        pytest.param(
            "[ [ John | person ] Smith | person ] works",
            {JOHN, Span(0, 1, "person")},
            set(),
            {"wrong_reconstruction"},
            id="nested",
        ),
    ],
)
def test_behaviour_table(text, spans, relations, errors):
    decoded = TASK.decode(TOKENS, text)
    assert set(decoded.prediction.spans) == spans
    assert set(decoded.prediction.relations) == relations
    assert {problem.kind for problem in decoded.problems} == errors
    assert decoded.text == text


def test_every_problem_says_what_it_is_about():
    text = "[ John Smith | persn ] works for [ Acme | organization | rival of = x | works for = Initech | y ]"
    messages = [problem.message for problem in TASK.decode(TOKENS, text).problems]
    assert any("'persn'" in m for m in messages)
    assert any("'rival of'" in m for m in messages)
    assert any("'Initech'" in m for m in messages)
    assert any("'y'" in m for m in messages)


def test_parse_keeps_words_in_tags_out_of_the_sentence():
    parsed = parse("a [ b [ c | X ] d | Y | r = [ e | Z ] f ] g | h")
    assert parsed.tokens == ("a", "b", "c", "d", "g", "|", "h")
    assert parsed.brackets == (
        Bracket("c", (("X",),), 2, 3),
        Bracket("e", (("Z",),), 4, 4),
        Bracket("b c d", (("Y",), ("r", "e f")), 1, 4),
    )


def test_empty_tags_collapse():
    assert parse("[ a | | X | ]").brackets == (Bracket("a", (("X",),), 0, 1),)


def test_nearest_tail_and_then_the_next():
    tokens = ["Bo", "met", "Al", "and", "Al", "."]
    task = JointTask(["P"], ["knows"])
    bo, al, other = Span(0, 1, "P"), Span(2, 3, "P"), Span(4, 5, "P")
    one = task.decode(tokens, "[ Bo | P | knows = Al ] met [ Al | P ] and [ Al | P ] .").prediction
    assert one.relations == (Relation(bo, al, "knows"),)
    two = task.decode(tokens, "[ Bo | P | knows = Al | knows = Al ] met [ Al | P ] and [ Al | P ] .").prediction
    assert set(two.relations) == {Relation(bo, al, "knows"), Relation(bo, other, "knows")}


@pytest.mark.parametrize(
    ("tag", "error"),
    [("works for = Acme", "label_error"), ("organization", "format_error"), ("a = b = c", "format_error")],
)
def test_tasks_without_relations_report_further_tags(tag, error):
    text = f"[ John Smith | person | {tag} ] works for Acme in Paris ."
    for decoded in (
        NerTask(["person"]).decode(TOKENS, text),
        SrlTask(["person"]).decode(SrlExample(tuple(TOKENS), Span(2, 3)), text),
    ):
        assert [problem.kind for problem in decoded.problems] == [error]
    assert NerTask(["person"]).decode(TOKENS, text).prediction.spans == (JOHN,)


@pytest.mark.parametrize(
    ("text", "label", "errors"),
    [
        ("relationship between [ a ] and [ b ] = director", "P57", set()),
        ("a = b = director", "P57", set()),
        ("director", "P57", {"format_error"}),
        ("garbage", None, {"format_error", "label_error"}),
        ("relationship between [ a ] and [ b ] = directr", None, {"label_error"}),
        ("", None, {"format_error", "label_error"}),
    ],
)
def test_relation_is_the_text_after_the_last_equals_sign(text, label, errors):
    example = RelationExample(("a", "b"), Span(0, 1), Span(1, 2))
    decoded = RelationTask({"P57": "director", "P1": "x"}).decode(example, text)
    assert decoded.prediction.label == label
    assert {problem.kind for problem in decoded.problems} == errors


@pytest.mark.parametrize(
    ("tokens", "text", "span", "kind"),
    [
        # the text is the same but for its spaces
        (["Mia", "'s", "cat"], "[ Mia's | P ] cat", (0, 2), None),
        (["Mia", "'s", "cat"], "[ Mia | P ]'s cat", (0, 1), None),
        (["New", "York", "-", "based"], "[ NewYork | P ] -based", (0, 2), None),
        (["15", "kg", "of", "it"], "[ 15kg | P ] of it", (0, 2), None),
        (["王", "芳", "住", "上", "海"], "[ 王芳 | P ] 住上海", (0, 2), None),
        (["王", "芳", "住", "上", "海"], "王芳住 [ 上海 | P ]", (3, 5), None),
        # ... beside other mistakes, too
        (["Mia", "'s", "sister", "left"], "[ Mia's | P ] sistr left", (0, 2), "wrong_reconstruction"),
        (["a", "tall", "New", "York", "tower"], "a tal [ NewYork | P ] tower", (2, 4), "wrong_reconstruction"),
        (["in", "Bern", ",", "we", "ate"], "we [ Bern | P ], we ate", (1, 2), "wrong_reconstruction"),
        (["Bern.", "It"], "[ Bern | P ] It", (0, 1), "wrong_reconstruction"),
        # the boundary lies inside a token
        (["Mia's", "cat"], "[ Mia | P ] 's cat", None, "partial_token"),
        (["a", "Bonn-born", "poet"], "a [ Bonn | P ] -born poet", None, "partial_token"),
        (["15kg", "of"], "15 [ kg | P ] of", None, "partial_token"),
        (["王芳住上海"], "王芳住 [ 上海 | P ]", None, "partial_token"),
        (["New York", "calls"], "New [ York | P ] calls", None, "partial_token"),
        (["re-elected", "Mia", "Lee-Cox"], "re-elected [ Mia Lee | P ] -Cox", None, "partial_token"),
        # nothing is aligned
        (["cat"], "the cat [ sat | P ]", None, "alignment_error"),
    ],
)
def test_boundaries_and_spaces(tokens, text, span, kind):
    decoded = NerTask(["P"]).decode(tokens, text)
    assert [(s.start, s.end) for s in decoded.prediction.spans] == ([span] if span else [])
    assert decoded.prediction.tokens == tuple(tokens)
    kinds = [problem.kind for problem in decoded.problems]
    assert (kind in kinds) if kind else not kinds
    # whatever is written, a bracket with a known label is a span or a problem that names it
    assert span or any("bracket around" in problem.message for problem in decoded.problems)


@pytest.mark.parametrize(
    ("raw", "text", "tokens", "spans"),
    [
        ("A Bonn-born poet", "A [ Bonn | P ] -born poet", "A Bonn -born poet", [(1, 2)]),
        ("the MiaLee2 robot", "the [ Mia | P ] [ Lee | P ] 2 robot", "the Mia Lee 2 robot", [(1, 2), (2, 3)]),
        ("서울에서 산다", "[ 서울 | P ] 에서 산다", "서울 에서 산다", [(0, 1)]),
        ("x=Bonn1|y", "x&equals; [ Bonn | P ] 1&vert; y", "x = Bonn 1 | y", [(2, 3)]),
        ("Cafe\u0301bar", "[ Café | P ] bar", "Cafe\u0301 bar", [(0, 1)]),
        ("½m wide", "[ 1⁄2 | P ] m wide", "½ m wide", [(0, 1)]),
    ],
)
def test_tokens_of_a_raw_text_are_split_where_a_prediction_ends(raw, text, tokens, spans):
    for task in (NerTask(["P"]), JointTask(["P"], ["r"])):
        decoded = task.decode(raw, text)
        assert decoded.prediction.tokens == tuple(tokens.split(" "))
        assert [(s.start, s.end) for s in decoded.prediction.spans] == spans
        assert decoded.problems == ()


def test_a_tail_with_the_words_of_its_head_is_the_other_entity():
    tokens = ["Bo", "met", "his", "friend", "Bo"]
    task = JointTask(["P"], ["knows"])
    decoded = task.decode(tokens, "[ Bo | P | knows = Bo ] met his friend [ Bo | P ]")
    assert decoded.prediction.relations == (Relation(Span(0, 1, "P"), Span(4, 5, "P"), "knows"),)
    alone = task.decode(tokens[:2], "[ Bo | P | knows = Bo ] met")
    assert alone.prediction.relations == (Relation(Span(0, 1, "P"), Span(0, 1, "P"), "knows"),)
