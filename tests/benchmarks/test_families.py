"""A comparison with a causal LM and with an encoder as the base model."""

import json
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from benchmarks.__main__ import main, parse, rates
from benchmarks.adaptation import adapted_config, impossible
from benchmarks.experiment import folders, load_experiments
from benchmarks.optimizers import HEAD_RATE, make_optimizer
from benchmarks.pretrained import load_model
from benchmarks.problems import METRICS, Protocol, problem
from benchmarks.rates import LOW_RATES, RATES
from benchmarks.results import read_result, read_results, write_result
from benchmarks.settings import SettingsError
from benchmarks.training import run
from peft_fishdip.tasks import Decoded, NerTask, RelationTask, task_type

from . import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type:UserWarning", "ignore:Sparse invariant checks:UserWarning"
)
CPU = torch.device("cpu")
SIZE = ["--steps", "2", "--meta-steps", "2", "--batch-size", "2", "--max-length", "64", "--max-test", "2"]
FEW = ["--fractions", "0.5", "--max-train", "5", "--ways", "3", "--episodes", "1", "--rates", "own"]
ONLY_T5 = {"compacter/reduction-32", "houlsby/reduction-16", "prefix/full-30"}
UNLABELLED = {"self_training/plain", "self_training/reweighted"}
NOT_OF_TAGGERS = {*ONLY_T5, "in_context/4-examples", "prompt/tokens-50"}
MAKERS = {"CAUSAL_LM": tiny.llama, "TOKEN_CLS": tiny.bert}
TASK = NerTask({"PER": "person"})


@pytest.fixture(scope="module")
def models(tmp_path_factory, base_model):
    words = tiny.tokenizer()
    made = {kind: tiny.saved(tmp_path_factory.mktemp("base"), make, words) for kind, make in MAKERS.items()}
    return {"SEQ_2_SEQ_LM": base_model, **made}


def compare(model, output, *more):
    return main(["compare", "--model", model, "--output", str(output), *SIZE, *FEW, *more])


def statuses(output):
    return {r["run_info"]["experiment_name"]: r["train_info"]["status"] for r in read_results(output)}


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("SEQ_2_SEQ_LM", set()), ("CAUSAL_LM", ONLY_T5 | UNLABELLED), ("TOKEN_CLS", NOT_OF_TAGGERS | UNLABELLED)],
)
def test_each_family_runs_what_it_can_and_the_rest_is_named(models, tmp_path, capsys, kind, refused):
    methods = folders() if kind != "SEQ_2_SEQ_LM" else ["fishdip/density-5", "lora/rank-8", "full/adamw", "ia3/all"]
    assert compare(models[kind], tmp_path, "--methods", *methods) == 0
    told = capsys.readouterr()
    expected = {title: "not possible" if title in refused else "success" for title in methods}
    assert statuses(tmp_path) == expected
    report = (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")
    for title in refused:
        assert f"not possible: {title} on generated: " in told.err
        assert f"- {title} is not possible on Generated sentences" in report
    assert "failed" not in report.split("## What was run")[0]
    for result in read_results(tmp_path):
        info = result["train_info"]
        if info["status"] == "success":
            assert result["run_info"]["train_config"]["task_type"] == kind
            assert 0 <= info["metrics"][-1]["test f1"] <= 1
            assert info["metrics"][-1]["test loss"] > 0
            assert (info["file_size"] == 0) == result["run_info"]["experiment_name"].startswith("in_context")
        else:
            assert result["run_info"]["error_msg"]
            assert not result["run_info"]["rate_choice"]
    assert len(list(tmp_path.glob("rates/**/*.json"))) == 0


def test_an_encoder_does_tags_and_relations_and_refuses_other_tasks(models, data_folder, tmp_path, capsys):
    data = ["--data", str(data_folder), "--methods", "fishdip/density-5", "lora", "full/adamw", "prompt"]
    assert compare(models["TOKEN_CLS"], tmp_path / "runs", *data, "--tasks", "ner", "relation", "srl", "dst") == 0
    capsys.readouterr()
    results = read_results(tmp_path / "runs")
    assert {r["run_info"]["train_config"]["task"] for r in results} == {"ner", "relation", "srl", "dst"}
    for result in results:
        config, info = result["run_info"]["train_config"], result["train_info"]
        relation = config["task"] == "relation"
        if result["run_info"]["experiment_name"] == "prompt/tokens-50" and not relation:
            assert info["status"] == "not possible"
            continue
        assert info["status"] == "success"
        assert config["task_type"] == ("SEQ_CLS" if relation else "TOKEN_CLS")
        assert all(0 <= info["metrics"][-1][f"test {metric}"] <= 1 for metric in METRICS[config["task"]])
    report = (tmp_path / "runs" / "report.md").read_text(encoding="utf-8")
    assert "in nats per word or text" in report

    assert compare(models["TOKEN_CLS"], tmp_path / "no", *data, "--tasks", "ner", "joint") == 2
    error = capsys.readouterr().err
    assert "data set 'conll04' with --model" in error
    assert "cannot be written as tags of words" in error
    assert not (tmp_path / "no").exists()


def test_a_causal_lm_does_all_tasks(models, data_folder, tmp_path):
    data = ["--data", str(data_folder), "--methods", "fishdip/density-5", "in_context", "--max-length", "100"]
    assert compare(models["CAUSAL_LM"], tmp_path, *data) == 0
    results = read_results(tmp_path)
    assert len(results) == 2 * 5
    assert {r["train_info"]["status"] for r in results} == {"success"}
    for result in results:
        if result["run_info"]["experiment_name"].startswith("in_context"):
            assert result["train_info"]["in_context_shown"] > 0


def test_what_has_become_possible_is_run(models, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.comparison.impossible", lambda *_: {"lora/rank-8": "there was no LoRA"})
    assert compare(models["TOKEN_CLS"], tmp_path, "--methods", "lora", "full/adamw") == 0
    assert statuses(tmp_path) == {"lora/rank-8": "not possible", "full/adamw": "success"}
    monkeypatch.undo()
    assert compare(models["TOKEN_CLS"], tmp_path, "--methods", "lora", "full/adamw") == 0
    assert statuses(tmp_path) == {"lora/rank-8": "success", "full/adamw": "success"}


def test_where_no_method_is_possible_nothing_is_run(models, tmp_path, capsys):
    assert compare(models["TOKEN_CLS"], tmp_path / "runs", "--methods", "houlsby", "in_context") == 2
    error = capsys.readouterr().err
    assert "no method is possible: houlsby/reduction-16 on generated: it is made for T5" in error
    assert "in_context/4-examples on generated: an encoder writes no text" in error
    assert not (tmp_path / "runs").exists()


def test_a_length_that_leaves_no_room_in_a_row_is_refused(models, tmp_path, capsys):
    assert compare(models["CAUSAL_LM"], tmp_path / "runs", "--max-length", "512") == 2
    assert "leaves none for a source beside 512" in capsys.readouterr().err


def own_experiment(folder, **content):
    folder = folder / "lora" / "mine"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **content}), encoding="utf-8")
    return load_experiments(["lora/mine"], {}, [folder.parent.parent])[0]


def test_target_modules_that_a_model_lacks_are_those_of_peft(models, tmp_path):
    base = load_model(models["TOKEN_CLS"], TASK)
    (ia3,) = load_experiments(["ia3"], {})
    config, notes = adapted_config(ia3, base)
    assert (config.task_type, config.target_modules) == ("TOKEN_CLS", None)
    assert notes == ["the model has no modules k, v, wo; targets are PEFT's own for bert: key, value, output.dense"]
    (norms,) = load_experiments(["ln_tuning"], {})
    config, notes = adapted_config(norms, base)
    assert len(config.target_modules) == 5
    assert all(name.endswith("LayerNorm") for name in config.target_modules)
    foreign = own_experiment(tmp_path / "foreign", task_type="CAUSAL_LM", target_modules=["c_attn"])
    assert adapted_config(foreign, base)[0].target_modules is None
    taken = own_experiment(tmp_path / "taken", task_type="CAUSAL_LM", target_modules=["query"])
    config, notes = adapted_config(taken, base)
    assert (config.target_modules, notes) == ({"query"}, [])


def test_names_in_a_config_for_such_models_are_taken_at_their_word(models, tmp_path):
    base = load_model(models["TOKEN_CLS"], TASK)
    for number, own in enumerate(({}, {"task_type": "TOKEN_CLS"})):
        wrong = own_experiment(tmp_path / str(number), target_modules=["kwery"], **own)
        with pytest.raises(SettingsError, match=r"adapter_config.json does not fit the model: .*kwery"):
            impossible([wrong], base, TASK, problem("generated", None, Protocol(), 0).train[0])


def test_a_new_classifier_is_trained_whole_beside_every_adapter_and_is_no_target(models):
    part = problem("generated", None, Protocol(max_train=4, max_test=2), 0)
    base = load_model(models["TOKEN_CLS"], part.task)
    assert base.new == ["classifier"]
    size = sum(parameter.numel() for parameter in base.model.classifier.parameters())
    counts = {}
    for title in ("lora", "ia3", "ln_tuning", "fishdip/density-1", "prefix/peft-30"):
        (experiment,) = load_experiments([title], {"steps": 1, "batch_size": 2, "max_length": 48})
        outcome = run(experiment, part, models["TOKEN_CLS"], 0, CPU)
        counts[title] = outcome.num_trainable_params - size
        if title == "lora":
            assert len(outcome.adapter_config["target_modules"]) == 2 * 6
    linear = [m for m in base.model.bert.encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert counts["lora"] == sum(8 * (m.in_features + m.out_features) for m in linear)
    assert counts["ln_tuning"] == 5 * 2 * 64
    assert counts["ia3"] == 2 * (64 + 64 + 64 + 96)
    assert counts["prefix/peft-30"] == 30 * 2 * 2 * 64
    body = base.model.num_parameters() - size
    assert counts["fishdip/density-1"] == pytest.approx(0.01 * body, rel=0.02)


def test_causal_lms_and_encoders_choose_from_lower_rates(models):
    chosen = {kind: rates(parse(["compare", "--model", name])) for kind, name in models.items()}
    assert chosen == {"SEQ_2_SEQ_LM": [*RATES], "CAUSAL_LM": [*LOW_RATES], "TOKEN_CLS": [*LOW_RATES]}
    assert rates(parse(["compare", "--model", models["TOKEN_CLS"], "--rates", "0.5"])) == [0.5]


def test_a_classifier_has_a_rate_of_its_own_with_adamw(models):
    (experiment,) = load_experiments(["ia3"], {})
    base = load_model(models["TOKEN_CLS"], TASK)
    model = get_peft_model(base.model, adapted_config(experiment, base)[0])
    own, head = make_optimizer(model, experiment.params).param_groups
    assert (own["lr"], head["lr"]) == (experiment.params.learning_rate, HEAD_RATE)
    assert {tuple(x.shape) for x in head["params"]} == {(3, 64), (3,)}


def test_in_full_fine_tuning_a_classifier_has_a_rate_of_its_own_if_one_is_given(models):
    (experiment,) = load_experiments(["full/adamw"], {"head_rate": 0.25})
    model = load_model(models["TOKEN_CLS"], TASK).model
    own, head = make_optimizer(model, experiment.params).param_groups
    assert (own["lr"], head["lr"]) == (experiment.params.learning_rate, 0.25)
    assert {id(x) for x in head["params"]} == {id(x) for x in model.classifier.parameters()}
    assert len(own["params"]) + len(head["params"]) == len([*model.parameters()])
    (alone,) = make_optimizer(model, replace(experiment.params, head_rate=0.0)).param_groups
    assert alone["lr"] == experiment.params.learning_rate
    with pytest.raises(SettingsError, match=r"head_rate=-1.0 must not be negative"):
        replace(experiment.params, head_rate=-1.0)


def test_weights_that_an_encoder_lacks_are_named_but_for_what_is_new_on_top(tmp_path):
    words = tiny.tokenizer()
    whole = tiny.saved(tmp_path / "a", lambda size: BertForMaskedLM(tiny.bert(size).config), words)
    assert load_model(whole, TASK).new == ["classifier"]
    relations = RelationTask({"P1": "author", "P2": "director"})
    assert load_model(whole, relations).new == ["bert.pooler.dense", "classifier"]
    made = RobertaConfig(vocab_size=len(words), pad_token_id=0, max_position_embeddings=64, **tiny.SIZES)
    roberta = tiny.saved(tmp_path / "b", lambda _: RobertaForMaskedLM(made), words)
    assert load_model(roberta, relations).new == ["classifier.dense", "classifier.out_proj"]
    model = tiny.bert(len(words))
    state = {k: v for k, v in model.state_dict().items() if k != "encoder.layer.0.attention.self.query.weight"}
    model.save_pretrained(tmp_path / "c", state_dict=state)
    words.save_pretrained(tmp_path / "c")
    with pytest.raises(SettingsError, match=r"its weights lack bert\.encoder\.layer\.0\.attention"):
        load_model(str(tmp_path / "c"), TASK)


@pytest.mark.parametrize("kind", MAKERS)
def test_training_lowers_the_loss(models, kind):
    part = problem("generated", None, Protocol(max_train=40, max_test=20), 0)
    assert task_type(load_model(models[kind], part.task).model) == kind
    losses = []
    for steps in (1, 30):
        (experiment,) = load_experiments(["fishdip/density-5"], {"steps": steps, "batch_size": 8, "max_length": 64})
        losses.append(run(experiment, part, models[kind], 0, CPU).scores["loss"])
    assert losses[1] < 0.9 * losses[0]


def test_a_result_says_how_far_scores_are_from_the_share_of_right_answers(models, tmp_path, monkeypatch):
    """Answers of 0.95, of which one of two is right, and of 0.25, of which none of one is."""
    name, part = models["TOKEN_CLS"], problem("generated", None, Protocol(max_train=4, max_test=2), 0)
    _, there = (replace(example, spans=example.spans[:1]) for example in part.test)
    label = next(label for label in part.task.labels if label != there.spans[0].label)
    wrong = replace(there, spans=(there.spans[0], replace(there.spans[0], start=4, end=6)))
    other = replace(part.test[0], spans=(replace(part.test[0].spans[0], label=label),))
    given = [Decoded(other, (), "", (0.25,)), Decoded(wrong, (), "", (0.95, 0.95))]
    monkeypatch.setattr("benchmarks.trained_model.predict", lambda *_, **__: given)
    (experiment,) = load_experiments(["full/adamw"], {"steps": 1, "batch_size": 2, "max_length": 48})
    outcome = run(experiment, part, name, 0, CPU)
    assert outcome.calibration_error == pytest.approx((1 * 0.25 + 2 * 0.45) / 3)
    write_result(tmp_path / "result.json", experiment, part, outcome, name)
    assert read_result(tmp_path / "result.json")["train_info"]["metrics"][-1]["calibration error"] == pytest.approx(
        outcome.calibration_error
    )
    monkeypatch.setattr("benchmarks.trained_model.predict", lambda *_, **__: [replace(x, scores=()) for x in given])
    assert run(experiment, part, name, 0, CPU).calibration_error is None
