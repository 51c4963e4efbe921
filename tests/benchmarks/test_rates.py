"""Which learning rate is taken."""

import pytest

from benchmarks.comparison import Comparison
from benchmarks.experiment import load_experiments
from benchmarks.rates import RATES, best_rate, trial_row


def row(rate, f1, loss, error="", held_out=20):
    return {"learning_rate": rate, "held_out": held_out, "scores": {"f1": f1}, "loss": loss, "error": error}


def test_the_grid_has_a_rate_per_decade():
    assert RATES == (1e-3, 1e-2, 1e-1, 1.0)


def test_every_method_chooses_but_those_with_a_rate_of_their_own_or_none(tmp_path):
    experiments = load_experiments(["all"], {})
    comparison = Comparison(tmp_path, "model", experiments, [], [], [0], RATES)
    own = [experiment.title for experiment in experiments if not comparison.rates_of(experiment)]
    assert own == ["fishdip/paper", "in_context/4-examples"]
    assert {comparison.rates_of(experiment) for experiment in experiments} == {RATES, ()}


def test_the_metrics_count_then_the_loss():
    assert best_rate([row(1, 0.1, 9.0), row(2, 0.0, 2.0)]) == 1
    assert best_rate([row(1, 0.0, 3.0), row(2, 0.0, 2.0), row(3, 0.0, 4.0)]) == 2


def test_of_few_held_out_examples_the_loss_alone_counts():
    assert best_rate([row(1, 0.9, 9.0, held_out=19), row(2, 0.0, 2.0, held_out=19)]) == 2


def test_rates_that_failed_or_diverged_are_not_taken():
    rows = [row(1, None, None, "OutOfMemoryError: x"), row(2, 0.9, None), row(3, 0.0, 9.0)]
    assert best_rate(rows) == 3
    with pytest.raises(ValueError, match=r"loss \(1: OutOfMemoryError: x; 2: the loss is not finite\)"):
        best_rate(rows[:2])


def test_a_row_tells_what_a_trial_came_to():
    trial = {
        "run_info": {"train_config": {"task": "joint", "num_test_examples": 7}, "error_msg": ""},
        "train_info": {
            "metrics": [{}, {"test entity_f1": 0.5, "test relation_f1": 0.25, "test x": 1, "test loss": 2.0}]
        },
    }
    assert trial_row(0.1, trial) == {
        "learning_rate": 0.1,
        "held_out": 7,
        "scores": {"entity_f1": 0.5, "relation_f1": 0.25},
        "loss": 2.0,
        "error": "",
    }
