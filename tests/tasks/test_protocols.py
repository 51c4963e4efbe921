"""Protocols follow from the seed alone and draw what the reference draws."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    DataFormatError,
    NerExample,
    RelationExample,
    Span,
    fraction_indices,
    meta_split,
    sample_episode,
    select_ids,
    write_ids,
)

FEWREL = [
    RelationExample(("a", "b"), Span(0, 1), Span(1, 2), label, f"{label}:{number}")
    for label in ("P1", "P2", "P3", "P4")
    for number in range(9)
]


@given(st.integers(1, 500), st.integers(0, 10))
def test_fractions_are_nested_and_repeatable(size, seed):
    state = random.getstate()
    drawn = [fraction_indices(size, f, seed) for f in (0.01, 0.05, 0.1, 1.0) if round(f * size)]
    for smaller, larger in itertools.pairwise(drawn):
        assert larger[: len(smaller)] == smaller
    assert sorted(drawn[-1]) == list(range(size))
    assert fraction_indices(size, 1.0, seed) == drawn[-1]
    assert random.getstate() == state  # the global generator is left alone


def test_fractions_are_those_of_the_reference():
    random.seed(3)
    indices = list(range(922))
    random.shuffle(indices)
    assert fraction_indices(922, 0.01, 3) == indices[:9]
    assert len(fraction_indices(922, 0.05, 3)) == 46


@pytest.mark.parametrize(("fraction", "match"), [(0.0, "above 0"), (1.5, "up to 1"), (0.001, "rounds to none")])
def test_fractions_that_make_no_sense(fraction, match):
    with pytest.raises(ValueError, match=match):
        fraction_indices(100, fraction, 0)


def test_seeds_are_integers():
    with pytest.raises(TypeError, match="seed=None: give an integer"):
        fraction_indices(100, 0.1, None)
    with pytest.raises(TypeError, match="seed=None: give an integer"):
        sample_episode(FEWREL, num_ways=1, num_shots=1, seed=None)


def test_episode():
    episode = sample_episode(FEWREL, num_ways=3, num_shots=2, num_queries=4, seed=1)
    assert len(set(episode.labels)) == 3
    for part, count in ((episode.support, 2), (episode.query, 4)):
        assert [x.label for x in part] == [label for label in episode.labels for _ in range(count)]
    ids = [x.id for x in (*episode.support, *episode.query)]
    assert len(set(ids)) == 18
    assert sample_episode(iter(FEWREL), num_ways=3, num_shots=2, num_queries=4, seed=1) == episode
    assert sample_episode(FEWREL, num_ways=3, num_shots=2, num_queries=4, seed=2) != episode


def test_episode_is_that_of_the_reference():
    random.seed(5)
    labels = random.sample(["P1", "P2", "P3", "P4"], 2)
    drawn = [random.sample([x for x in FEWREL if x.label == label], 1 + 5) for label in labels]
    episode = sample_episode(FEWREL, num_ways=2, num_shots=1, seed=5)
    assert list(episode.labels) == labels
    assert [x.id for x in episode.support] == [d[0].id for d in drawn]
    assert [x.id for x in episode.query] == [x.id for d in drawn for x in d[1:]]


def test_episodes_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="num_ways=5, but the examples have only 4"):
        sample_episode(FEWREL, num_ways=5, num_shots=1, seed=0)
    with pytest.raises(ValueError, match=r"num_shots=5 and num_queries=5, but the relation 'P\d' has only 9"):
        sample_episode(FEWREL, num_ways=1, num_shots=5, seed=0)
    for wrong in ({"num_ways": 0}, {"num_shots": 0}, {"num_queries": -1}):
        (name, value), *_ = wrong.items()
        with pytest.raises(ValueError, match=f"{name}={value}: must be a whole number of at least"):
            sample_episode(FEWREL, **{"num_ways": 2, "num_shots": 2, "seed": 0} | wrong)


def test_meta_split_shares_no_relation():
    train, test = meta_split(FEWREL, num_test_relations=1, seed=0)
    assert {x.label for x in train} | {x.label for x in test} == {"P1", "P2", "P3", "P4"}
    assert not {x.label for x in train} & {x.label for x in test}
    assert (len(train), len(test)) == (27, 9)
    assert (train, test) == meta_split(FEWREL, num_test_relations=1, seed=0)
    with pytest.raises(ValueError, match="num_test_relations=4"):
        meta_split(FEWREL, num_test_relations=4, seed=0)


def test_chosen_ids_can_be_written_and_read(tmp_path):
    examples = [NerExample((str(i),), (), f"ü:{i}") for i in range(5)]
    path = tmp_path / "ids.json"
    chosen = [examples[3], examples[1]]
    write_ids(path, chosen)
    assert [x.id for x in select_ids(path, examples)] == ["ü:3", "ü:1"]
    with pytest.raises(ValueError, match="1 ids are not among the examples, the first is 'ü:3'"):
        select_ids(path, examples[:3])
    for content in ("{}", "[1]", "["):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataFormatError, match=r"ids\.json, (top level: expected a list of ids|line 1)"):
            select_ids(path, examples)
    path.write_text('["ü:1", "ü:1"]', encoding="utf-8")
    with pytest.raises(ValueError, match="'ü:1' is given twice"):
        select_ids(path, examples)
    with pytest.raises(ValueError, match="'ü:1' is given twice"):
        write_ids(path, [examples[1], examples[1]])
    with pytest.raises(ValueError, match="empty"):
        write_ids(path, [NerExample(("a",))])
