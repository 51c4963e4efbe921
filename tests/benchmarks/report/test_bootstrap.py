"""Draws of seeds and test examples, against all draws there are, and against what is known of invented methods."""

import itertools
from statistics import mean

import numpy as np
import pytest

from benchmarks.report.bootstrap import DRAWS, draws_of_episodes, draws_of_test_set, interval

COUNTS = {  # numerators and denominators of three examples, for two seeds
    0: np.array([[2.0, 2.0], [0.0, 3.0], [2.0, 5.0]]),
    1: np.array([[0.0, 1.0], [4.0, 4.0], [2.0, 3.0]]),
}


def score(rows):
    return 100 * sum(row[0] for row in rows) / sum(row[1] for row in rows)


def all_draws():
    """The mean over seeds, of each draw of examples and each draw of seeds."""
    for examples in itertools.product(range(3), repeat=3):
        for seeds in itertools.product(COUNTS, repeat=2):
            yield mean(score([COUNTS[seed][i] for i in examples]) for seed in seeds)


def all_draws_of_episodes(episodes):
    """The mean over the drawn episodes of one seed, each with its own drawn examples."""
    draws_of = [[*itertools.product(episode, repeat=len(episode))] for episode in episodes]
    for examples in itertools.product(*draws_of):
        for chosen in itertools.product(range(len(episodes)), repeat=len(episodes)):
            yield mean(score(examples[i]) for i in chosen)


def assert_percentiles(found, every):
    """The ends of the interval are where the exact distribution has 2.5 and 97.5 %, up to chance."""
    every = np.array(every)
    slack = 4 * (0.025 * 0.975 / DRAWS) ** 0.5
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        assert (every < end - 1e-9).mean() <= share + slack
        assert (every <= end + 1e-9).mean() >= share - slack


def test_the_interval_is_that_of_all_draws_of_seeds_and_examples():
    every = [*all_draws()]
    assert len(every) == 3**3 * 2**2
    measured = mean(score(rows) for rows in COUNTS.values())
    draws = draws_of_test_set({"a": COUNTS})["a"]
    assert draws.shape == (DRAWS, 2)
    found = interval(draws, measured)
    assert found.value == measured
    assert_percentiles(found, every)
    assert draws.mean() == pytest.approx(mean(every), abs=4 * np.std(every) / DRAWS**0.5)


def test_a_draw_of_examples_is_the_same_for_all_seeds_and_all_methods():
    same = {0: COUNTS[0], 7: COUNTS[0]}
    draws = draws_of_test_set({"a": same, "b": {3: COUNTS[0]}, "c": COUNTS})
    assert len(np.unique(draws["a"][:, 0])) > 5
    np.testing.assert_array_equal(draws["a"], np.repeat(draws["b"], 2, axis=1))
    np.testing.assert_array_equal(draws["c"], draws_of_test_set({"c": COUNTS})["c"])


def test_the_interval_of_episodes_is_that_of_all_draws_of_episodes_and_their_examples():
    episodes = [np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])]
    every = [*all_draws_of_episodes(episodes)]
    assert len(every) == 2**2 * 3**3 * 2**2
    draws = draws_of_episodes({"a": {5: episodes}})["a"]
    found = interval(draws, mean(map(score, episodes)))
    assert_percentiles(found, every)
    assert draws.mean() == pytest.approx(mean(every), abs=4 * np.std(every) / DRAWS**0.5)


def test_episodes_are_drawn_anew_for_each_seed_and_are_the_same_for_all_methods():
    episodes = [np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])] * 2
    draws = draws_of_episodes({"a": {0: episodes, 1: episodes}, "b": {1: episodes}})
    np.testing.assert_array_equal(draws["a"][:, 1], draws["b"][:, 0])
    assert abs(np.corrcoef(draws["a"].T)[0, 1]) < 0.1


def test_seeds_and_examples_are_drawn_independently():
    examples = np.array([[1.0, 1.0], [0.0, 1.0]])
    draws = draws_of_test_set({"a": {0: examples, 1: examples}})["a"]
    shifted = draws + np.array([0.0, 1000.0])  # which seeds were drawn shows in the thousands
    found = interval(shifted, 0.0)
    assert (found.low, found.high) == pytest.approx((0.0, 1100.0))


def test_examples_without_anything_to_count_score_0():
    draws = draws_of_test_set({"a": {0: np.array([[0.0, 0.0], [2.0, 2.0]])}})["a"]
    assert set(np.unique(draws)) == {0.0, 100.0}
    assert (draws == 0).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("advantage", [0.0, 0.15])
def test_intervals_cover_what_is_true_of_invented_methods(advantage):
    """Sentences differ in how hard they are, and seeds in what they learn; the true difference is known."""
    chance = np.random.default_rng(0)
    seeds, examples, trials = 10, 80, 150
    covered = {"score": 0, "difference": 0}
    apart = 0
    for _ in range(trials):
        hard = chance.normal(0, 0.1, examples)
        made = {}
        for name, level in (("a", 0.5 + advantage), ("b", 0.5)):
            shares = level + hard + chance.normal(0, 0.05, (seeds, 1))
            answers = (chance.random((seeds, examples)) < shares).astype(float)
            made[name] = {s: np.stack([answers[s], np.ones(examples)], axis=1) for s in range(seeds)}
        draws = draws_of_test_set(made)
        own = interval(draws["a"], 0.0)
        found = interval(draws["a"] - draws["b"], 0.0)
        covered["score"] += own.low <= 100 * (0.5 + advantage) <= own.high
        covered["difference"] += found.low <= 100 * advantage <= found.high
        apart += not found.contains_zero
    assert covered["score"] / trials > 0.89
    assert covered["difference"] / trials > 0.89
    assert (apart > 0.9 * trials) if advantage else (apart < 0.12 * trials)
