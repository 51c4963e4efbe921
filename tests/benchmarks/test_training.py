"""One run: what is trained on, what is scored, what is measured, and what the seed decides."""

import dataclasses
import json
import time

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from benchmarks import trained_model, training
from benchmarks.experiment import Experiment, load_experiments
from benchmarks.problems import Problem, Protocol, problem
from benchmarks.training import run, warm_up

from . import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type:UserWarning", "ignore:Sparse invariant checks:UserWarning"
)
CPU = torch.device("cpu")
TINY = {"steps": 2, "meta_steps": 2, "batch_size": 2, "max_length": 48}


def experiment(title, **changes) -> Experiment:
    (found,) = load_experiments([title], {**TINY, **changes})
    return found


def generated(seed=0, train=4) -> Problem:
    return problem("generated", None, Protocol(max_train=train, max_test=2), seed)


@pytest.fixture
def episodes(data_folder):
    """Of three episodes the last one repeats the first."""
    found = problem("fewrel", data_folder, Protocol(num_ways=2, num_episodes=2, max_train=6), 0)
    return dataclasses.replace(found, episodes=[*found.episodes, found.episodes[0]])


def spied(monkeypatch, place, name):
    """Arguments and results of each call."""
    calls, real = [], getattr(place, name)

    def spy(*args, **options):
        calls.append((args, options, real(*args, **options)))
        return calls[-1][-1]

    monkeypatch.setattr(place, name, spy)
    return calls


def test_test_examples_are_scored_and_training_examples_trained_on(base_model, monkeypatch):
    scored, trained = spied(monkeypatch, trained_model, "predict"), spied(monkeypatch, trained_model, "fit")
    features = spied(monkeypatch, trained_model, "to_features")
    part = generated()
    run(experiment("full/adamw"), part, base_model, 0, CPU)
    assert [args[3] for args, *_ in scored] == [part.test]
    assert [args[2] for args, *_ in features] == [part.train, part.test]  # the latter for the loss
    assert [args[1] for args, *_ in trained] == [features[0][-1]]


@pytest.fixture
def still_model(base_model, tmp_path):
    """Without dropout, so that the same training gives the same model; with the sentinel that a T5 fills."""
    tokenizer = tiny.tokenizer(sentinels=2)
    model = AutoModelForSeq2SeqLM.from_pretrained(base_model)
    model.resize_token_embeddings(len(tokenizer))
    model.config.dropout_rate = 0.0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_each_episode_begins_with_what_meta_training_left(still_model, episodes, monkeypatch):
    scores = spied(monkeypatch, training, "episode_scores")
    outcome = run(experiment("full/adamw", learning_rate=0.01), episodes, still_model, 0, CPU)
    first, second, again = (result for *_, result in scores)
    assert first["loss"] != second["loss"]
    assert first == again
    assert outcome.trace.begins == [0, 2, 4, 6]
    assert outcome.scores["loss"] == pytest.approx(sum(row["loss"] for row in (first, second, again)) / 3)


def test_a_fixed_mask_is_chosen_in_meta_training_alone_and_what_an_episode_learned_is_weighed(base_model, episodes):
    fixed = run(experiment("fish/density-1"), episodes, base_model, 0, CPU)
    assert [update["step"] for update in fixed.trace.updates] == [0]
    assert fixed.trace.updates[0]["mask_examples"] == 6
    moving = run(experiment("fishdip/density-1"), episodes, base_model, 0, CPU)
    assert [update["step"] for update in moving.trace.updates] == [0, 2, 4, 6]
    assert [update["mask_examples"] for update in moving.trace.updates] == [3, 2, 2, 2]
    sizes = 8 * moving.trace.updates[0]["mask_support"], 8 * moving.trace.updates[1]["mask_support"]
    assert sizes[1] - sizes[0] > 1000
    assert moving.file_size - fixed.file_size == pytest.approx(sizes[1] - sizes[0], rel=0.2)


def test_where_there_are_too_few_examples_all_of_them_score_the_parameters(base_model, episodes, tmp_path):
    fixed = run(experiment("fish/density-1"), generated(train=5), base_model, 0, CPU)
    assert (fixed.adapter_config["num_samples"], fixed.trace.updates[0]["mask_examples"]) == (5, 5)
    content = {"peft_type": "FISHDIP", "task_type": "SEQ_2_SEQ_LM", "num_samples": 4, "update_interval": 50}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    own = dataclasses.replace(experiment("fishdip/density-1"), adapter=tmp_path)
    moving = run(own, episodes, base_model, 0, CPU)  # 6 examples of meta-training, 2 in each episode
    assert [update["mask_examples"] for update in moving.trace.updates] == [2, 2, 2, 2]
    enough = run(own, generated(train=6), base_model, 0, CPU)
    assert [update["mask_examples"] for update in enough.trace.updates] == [4]


@pytest.mark.parametrize(("title", "field"), [("random_mask/density-1", "seed"), ("shira/rank-8", "random_seed")])
def test_the_seed_of_the_run_draws_the_mask(base_model, monkeypatch, title, field):
    made = spied(monkeypatch, training, "get_peft_model")
    seeds = [run(experiment(title), generated(), base_model, seed, CPU).adapter_config[field] for seed in (0, 0, 1)]
    assert seeds == [0, 0, 1]

    def places(model):
        if field == "seed":
            return [*model.base_model.mask().values()]
        layers = [module for module in model.modules() if hasattr(module, "shira_indices")]
        return [indices for layer in layers for indices in layer.shira_indices.values()]

    one, same, other = (places(model) for *_, model in made)
    assert one
    assert all(map(torch.equal, one, same))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_seed_of_the_run_decides_what_is_random_in_training(base_model):
    losses = [run(experiment("full/adamw"), generated(), base_model, seed, CPU).scores["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    part = dataclasses.replace(generated(), train=generated().train[:1])  # no order: dropout alone is random
    losses = [run(experiment("full/adamw"), part, base_model, seed, CPU).scores["loss"] for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_in_context_examples_fit_and_stand_before_a_slot(still_model, monkeypatch):
    shown = spied(monkeypatch, training, "InContextTask")
    part = generated(train=6)
    outcome = run(experiment("in_context"), part, still_model, 0, CPU)
    task = shown[0][-1]
    assert [len(task.demonstrations(query)) for query in part.test] == [4, 4]
    assert task.source(part.test[0]).endswith("<extra_id_0>")
    assert outcome.in_context_shown == 4
    shorter = run(experiment("in_context", in_context_length=64), part, still_model, 0, CPU)
    assert shorter.in_context_shown < 4
    assert (outcome.num_trainable_params, outcome.trace.step, outcome.file_size) == (0, 0, 0)


def test_in_context_sources_are_as_long_as_they_may_be(base_model, data_folder, monkeypatch):
    generated_texts, features = (
        spied(monkeypatch, trained_model, "predict"),
        spied(monkeypatch, trained_model, "to_features"),
    )
    candidates = spied(monkeypatch, trained_model, "candidate_losses")
    run(experiment("in_context"), generated(), base_model, 0, CPU)
    assert generated_texts[0][1]["max_source_length"] == features[0][1]["max_source_length"] == 1024
    assert generated_texts[0][1]["max_new_tokens"] == features[0][1]["max_target_length"] == 48
    part = problem("fewrel", data_folder, Protocol(num_ways=2, num_shots=3, num_episodes=1), 0)
    assert run(experiment("in_context"), part, base_model, 0, CPU).in_context_shown == 6  # all of the support
    assert candidates[0][1]["max_length"] == 1024


def test_the_seed_of_the_run_draws_the_in_context_examples(base_model, monkeypatch):
    shown = spied(monkeypatch, training, "InContextTask")
    part = generated(train=20)
    for seed in (0, 0, 1):
        run(experiment("in_context"), part, base_model, seed, CPU)
    one, same, other = (task.demonstrations(part.test[0]) for *_, task in shown)
    assert one == same != other
    assert shown[0][-1].slot == ""  # this model knows no sentinel


def test_what_is_measured(base_model, monkeypatch):
    """The memory of a run grows by what the evaluation holds on to."""
    held, real = [], trained_model.predict

    def predict(*args, **options):
        held.append(torch.ones(25_000_000))  # 100 MB
        time.sleep(0.2)
        return real(*args, **options)

    monkeypatch.setattr(trained_model, "predict", predict)
    outcome = run(experiment("lora"), generated(), base_model, 0, CPU)
    model = AutoModelForSeq2SeqLM.from_pretrained(base_model)
    assert outcome.num_base_params == sum(x.numel() for x in model.parameters())
    assert outcome.num_total_params == outcome.num_base_params + outcome.num_trainable_params
    assert 0.2 < outcome.eval_time < 60
    assert 1e6 < outcome.fit_memory < outcome.peak_memory - 90e6
    assert outcome.peak_memory < 2e9


def test_the_memory_of_training_is_what_it_was_before_any_evaluation(base_model, episodes, monkeypatch):
    class Meter:
        """The number of looks at it."""

        def __init__(self, _):
            self.looks = 0

        def growth(self):
            self.looks += 1
            return self.looks

    monkeypatch.setattr(training, "MemoryMeter", Meter)
    outcome = run(experiment("full/adamw"), episodes, base_model, 0, CPU)
    assert (outcome.fit_memory, outcome.peak_memory) == (2, 3)  # after meta-training and after the first episode


def test_a_warm_up_is_short_and_never_fails(base_model, monkeypatch):
    runs = spied(monkeypatch, training, "run")
    warm_up(experiment("lora", steps=1000), base_model, CPU)
    ((args, _, outcome),) = runs
    assert outcome.trace.step == 2
    assert args[0].adapter is not None
    warm_up(experiment("lora"), "no/such/model", CPU)
    assert len(runs) == 1
