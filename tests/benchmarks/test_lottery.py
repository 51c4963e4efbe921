"""Lottery-ticket sparse fine-tuning as a method of the comparison."""

import math

import pytest
import torch

from benchmarks import lottery, training
from benchmarks.experiment import load_experiments
from benchmarks.problems import Protocol, problem
from benchmarks.settings import SettingsError

TINY = {"meta_steps": 6, "batch_size": 2, "max_length": 48, "early_stop_loss": 0.0, "log_every": 1}


def run_of(base_model, monkeypatch, title="lt_sft/density-1", dataset="generated", data=None, **changes):
    """What a run came to, its experiment and problem, and the model after each fit."""
    models, real = [], training.TrainedModel.fit

    def fit(self, examples, steps):
        before = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        real(self, examples, steps)
        models.append((self.model, steps, before))
        return

    monkeypatch.setattr(training.TrainedModel, "fit", fit)
    (experiment,) = load_experiments([title], TINY | changes)
    part = problem(dataset, data, Protocol(max_train=6, max_test=2, num_ways=2, num_episodes=1), 0)
    outcome = training.run(experiment, part, base_model, 0, torch.device("cpu"))
    return outcome, models


def test_the_mask_is_found_and_trained_with_the_steps_of_all_methods(base_model, monkeypatch):
    changes, real = [], lottery.lottery_mask

    def lottery_mask(model, train, config):
        def watched(model):
            before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            train(model)
            changes.append({name: (p.detach() - before[name]).abs() for name, p in model.named_parameters()})

        return real(model, watched, config)

    monkeypatch.setattr(lottery, "lottery_mask", lottery_mask)
    outcome, models = run_of(base_model, monkeypatch, steps=7)
    assert [steps for _, steps, _ in models] == [3, 4]
    trace = outcome.trace
    assert (trace.step, trace.samples, len(trace.metrics), trace.begins) == (7, 14, 7, [3])
    (update,) = trace.updates
    assert (update["step"], update["mask_examples"]) == (3, 0)
    assert outcome.num_trainable_params == math.floor(0.01 * outcome.num_base_params) == update["mask_active"]
    (moved,), mask = changes, models[1][0].base_model.mask()
    chosen = torch.cat([moved[name].flatten()[places] for name, places in mask.items()])
    every = torch.cat([change.flatten() for change in moved.values()])
    assert torch.equal(chosen.sort(descending=True).values, every.topk(chosen.numel()).values)
    assert outcome.file_size > 0
    assert outcome.scores["loss"] > 0


def test_the_second_half_starts_from_the_base_model(base_model, monkeypatch):
    _, models = run_of(base_model, monkeypatch, steps=2)
    first, second = models[0][2], models[1][2]
    for name, values in second.items():
        if ".fishdip_values." in name:
            assert not values.any()
        else:
            plain = name.replace("base_model.model.", "").replace(".base_layer", "")
            assert torch.equal(values, first[plain])


def test_the_mask_is_found_in_meta_training_and_kept_in_episodes(base_model, data_folder, monkeypatch):
    outcome, models = run_of(base_model, monkeypatch, dataset="fewrel", data=data_folder, steps=2)
    assert [steps for _, steps, _ in models] == [3, 3, 2]
    masks = [model.base_model.mask() for model, _, _ in models[1:]]
    assert all(torch.equal(places, masks[1][name]) for name, places in masks[0].items())
    assert outcome.trace.begins == [3, 6]
    assert len(outcome.trace.updates) == 1


def test_both_halves_have_one_unit_and_one_rate():
    (experiment,) = load_experiments(["lt_sft/density-1"], {})
    assert experiment.adapter_settings["delta_scale"] == "none"
    assert experiment.adapter_settings["update_interval"] is None
    assert experiment.params.learning_rate == 0.001
    assert not experiment.moves


@pytest.mark.filterwarnings("error")
def test_one_step_is_too_few(base_model, monkeypatch):
    with pytest.raises(SettingsError, match=r"mask='lottery' needs .* at least 2 steps, half of which find the mask"):
        run_of(base_model, monkeypatch, steps=1)
