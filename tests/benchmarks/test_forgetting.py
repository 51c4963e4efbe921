"""Loss on plain text before and after training, against losses that are computed by hand."""

import copy
import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from benchmarks import training
from benchmarks.__main__ import main
from benchmarks.experiment import load_experiments
from benchmarks.forgetting import ForgettingMeter
from benchmarks.plain_text import DEFAULT, PlainText, read_plain_text
from benchmarks.pretrained import load_model
from benchmarks.problems import Protocol, problem
from benchmarks.results import read_results
from benchmarks.settings import SettingsError
from benchmarks.training import run
from peft_fishdip import FishDipConfig
from peft_fishdip.tasks import NerTask, RelationTask

from . import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type:UserWarning", "ignore:Sparse invariant checks:UserWarning"
)
CPU = torch.device("cpu")
TASK = NerTask({"PER": "person"})
PLAIN = PlainText(("Mira left Oslo and met nobody there .", "It rained all day in Tomu .", "no"), "texts.txt")


@pytest.fixture(scope="module")
def words():
    made = tiny.tokenizer(sentinels=8)
    made.add_special_tokens({"mask_token": "<mask>"})
    return made


@pytest.fixture(scope="module")
def models(words, tmp_path_factory):
    def folder(make):
        return tiny.saved(tmp_path_factory.mktemp("base"), make, words)

    return {
        "SEQ_2_SEQ_LM": folder(lambda size: tiny.t5(vocab_size=size, d_model=128, d_kv=64, d_ff=64)),
        "CAUSAL_LM": folder(tiny.llama),
        "TOKEN_CLS": folder(lambda size: masked_lm(size)),
        "no head": folder(tiny.bert),
    }


def masked_lm(size):
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny.bert(size).config)
    model.cls.predictions.bias.data.normal_()
    return model


def meter_for(name, task=TASK, plain=PLAIN):
    base = load_model(name, task)
    meter = ForgettingMeter(plain, name, CPU)
    meter.before(base)
    return meter, base


@torch.no_grad()
def loss_by_hand(model, rows, shift):
    """-log p of each label, by its definition, over all labels of all rows."""
    model.eval()
    losses = []
    for row in rows:
        inputs = {key: torch.tensor([row[key]]) for key in ("input_ids", "attention_mask")}
        labels = torch.tensor(row["labels"])
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            inputs["decoder_input_ids"] = torch.tensor([[start, *row["labels"][:-1]]])
        logits = model(**inputs).logits[0]
        if shift:
            logits, labels = logits[:-1], labels[1:]
        losses += [cross_entropy(logits[i], labels[i]).item() for i in range(len(labels)) if labels[i] != -100]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["SEQ_2_SEQ_LM", "CAUSAL_LM"])
def test_the_loss_is_the_mean_over_all_predicted_tokens(models, kind):
    meter, base = meter_for(models[kind])
    own = loss_by_hand(base.model, meter.features, kind == "CAUSAL_LM")
    assert meter.found.loss_before == pytest.approx(own, rel=1e-5)
    ids = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in PLAIN.texts]
    if kind == "CAUSAL_LM":
        assert meter.found.num_tokens == sum(len(row) - 1 for row in ids)  # this tokenizer has no beginning mark
    else:
        assert meter.found.num_tokens < sum(map(len, ids))
    assert (meter.found.num_texts, meter.found.num_cut, meter.found.reason) == (3, 0, "")


def test_an_encoder_is_asked_by_its_pretrained_masked_lm_head(models):
    meter, base = meter_for(models["TOKEN_CLS"])
    whole = AutoModelForMaskedLM.from_pretrained(models["TOKEN_CLS"])
    assert meter.found.loss_before == pytest.approx(loss_by_hand(whole, meter.features, False), rel=1e-5)
    assert sum(label != -100 for label in meter.features[0]["labels"]) >= 1
    assert type(base.model).__name__ == "BertForTokenClassification"


@pytest.mark.parametrize("task", [TASK, RelationTask({"P1": "author", "P2": "director"})], ids=["words", "texts"])
@pytest.mark.parametrize(
    "config",
    [LoraConfig(target_modules=["query", "dense"], init_lora_weights=False), FishDipConfig(density=0.05), None],
    ids=["lora", "fishdip", "full"],
)
def test_after_training_the_head_stands_on_the_trained_layers(models, task, config):
    meter, base = meter_for(models["TOKEN_CLS"], task)
    model = get_peft_model(base.model, copy.deepcopy(config)) if config else base.model
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.train()
    meter.after(model)
    assert model.training
    merged = copy.deepcopy(model).merge_and_unload() if config else model
    whole = AutoModelForMaskedLM.from_pretrained(models["TOKEN_CLS"])
    head = copy.deepcopy(whole.cls)  # its output matrix is the pretrained one
    own, trained = whole.bert.state_dict(), merged.bert.state_dict()
    whole.bert.load_state_dict({key: trained[key] for key in own})
    whole.cls = head
    assert meter.found.losses_after == [pytest.approx(loss_by_hand(whole, meter.features, False), rel=1e-5)]
    assert abs(meter.found.value) > 0.01
    assert meter.found.value == meter.found.losses_after[0] - meter.found.loss_before


def test_what_cannot_be_measured_has_a_reason(models, base_model):
    assert meter_for(models["no head"])[0].found.reason == "the checkpoint has no masked-LM head"
    assert "the tokenizer has no <extra_id_0>" in meter_for(base_model)[0].found.reason
    assert "has two tokens" in meter_for(models["CAUSAL_LM"], plain=PlainText(("",), "x"))[0].found.reason
    relations = RelationTask({"P1": "author", "P2": "director"})
    meter, base = meter_for(models["TOKEN_CLS"], relations)
    meter.after(get_peft_model(base.model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)))
    assert "its virtual tokens stand before" in meter.found.reason
    assert meter.found.value is None


def test_long_texts_are_cut_and_short_ones_left_out_and_both_are_counted(models, words):
    long = " ".join(["Mira left Oslo ."] * 100)
    meter, _ = meter_for(models["CAUSAL_LM"], plain=PlainText((long, "", "Mira left"), "x"))
    found = meter.found
    assert (found.num_texts, found.num_cut, found.num_short) == (2, 1, 1)
    assert found.num_tokens == 127 + len(words("Mira left", add_special_tokens=False)["input_ids"]) - 1
    assert meter.features[0]["input_ids"][:128] == words(long)["input_ids"][:128]


def experiment(title, **changes):
    (found,) = load_experiments([title], {"steps": 3, "meta_steps": 2, "batch_size": 2, "max_length": 48, **changes})
    return found


def generated(seed=0):
    return problem("generated", None, Protocol(max_train=4, max_test=2), seed)


@pytest.mark.parametrize("title", ["full/adamw", "lora", "fishdip/density-5", "prompt", "prefix/full-30", "houlsby"])
def test_a_run_measures_the_base_before_and_the_trained_model_after(models, title, monkeypatch):
    trained = []
    real = training.TrainedModel.scores

    def scores(self, examples):
        trained.append(self.model)
        return real(self, examples)

    monkeypatch.setattr(training.TrainedModel, "scores", scores)
    name = models["SEQ_2_SEQ_LM"]
    found = run(experiment(title, learning_rate=0.05), generated(), name, 0, CPU, PLAIN).forgetting
    meter, _ = meter_for(name)
    assert found.loss_before == meter.found.loss_before  # the same for all methods
    meter.after(trained[0])
    assert found.losses_after == meter.found.losses_after
    assert found.value == found.losses_after[0] - found.loss_before != 0


@pytest.mark.parametrize("kind", ["SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS"])
def test_a_run_is_the_same_whether_it_is_measured_or_not(models, kind):
    one, other = (
        run(experiment("fishdip/density-5"), generated(), models[kind], 0, CPU, plain) for plain in (None, PLAIN)
    )
    assert one.scores == other.scores
    assert [row["train loss"] for row in one.trace.metrics] == [row["train loss"] for row in other.trace.metrics]
    assert one.forgetting is None
    assert other.forgetting.value is not None


def test_each_episode_is_measured_and_nothing_changes_without_training(models, data_folder):
    part = problem("fewrel", data_folder, Protocol(num_ways=2, num_episodes=2, max_train=6), 0)
    outcome = run(experiment("full/adamw"), part, models["SEQ_2_SEQ_LM"], 0, CPU, PLAIN)
    assert len(outcome.forgetting.losses_after) == 2
    assert outcome.forgetting.value == sum(outcome.forgetting.losses_after) / 2 - outcome.forgetting.loss_before
    shown = run(experiment("in_context"), generated(), models["SEQ_2_SEQ_LM"], 0, CPU, PLAIN).forgetting
    assert (shown.value, shown.losses_after) == (0.0, [shown.loss_before])


def test_texts_are_the_lines_of_a_file_and_the_same_each_time(tmp_path):
    path = tmp_path / "wiki.txt"
    lines = [f"text {i}" for i in range(100)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    some = read_plain_text(path, 10)
    assert some == read_plain_text(path, 10)
    assert len(set(some.texts)) == 10 < 64 == len(read_plain_text(path).texts)
    assert set(some.texts) <= set(lines)
    assert some.origin == "wiki.txt"
    assert some.digest != read_plain_text(path, 11).digest
    path.write_text("  \n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"wiki\.txt has no text"):
        read_plain_text(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="give a text file in UTF-8"):
        read_plain_text(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_plain_text(tmp_path / "none")


def test_the_default_has_64_texts_none_of_which_is_cut():
    texts = read_plain_text().texts
    assert len(set(texts)) == 64 == len(DEFAULT.read_text(encoding="utf-8").splitlines())
    assert all(15 <= len(text.split()) <= 40 and text.isascii() for text in texts)


SIZE = ["--steps", "2", "--batch-size", "2", "--max-length", "48", "--max-test", "2", "--fractions", "0.5"]


def compare(models, output, *more):
    methods = ["--methods", "lora", "in_context", "--rates", "own", "--max-train", "4", "--output", str(output)]
    return main(["compare", "--model", models["SEQ_2_SEQ_LM"], *methods, *SIZE, *more])


def test_the_command_line_measures_forgetting_and_shows_it(models, tmp_path, capsys):
    plain = tmp_path / "mine.txt"
    plain.write_text("\n".join(PLAIN.texts), encoding="utf-8")
    output = tmp_path / "runs"
    assert compare(models, output, "--plain-text", str(plain), "--max-plain", "2") == 0
    for result in read_results(output):
        found = result["train_info"]["plain_text"]
        assert (found["origin"], found["num_texts"]) == ("mine.txt", 2)
        assert result["train_info"]["metrics"][-1]["forgetting"] == found["losses_after"][0] - found["loss_before"]
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "| forgetting " in text
    assert "2 texts of mine.txt.\n" in text
    capsys.readouterr()
    assert compare(models, output, "--max-plain", "2") == 2
    assert "plain text was '" in capsys.readouterr().err
    assert compare(models, output, "--plain-text", str(tmp_path / "none")) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_forgetting_can_be_left_out(models, tmp_path, capsys):
    assert compare(models, tmp_path, "--max-plain", "0") == 0
    for result in read_results(tmp_path):
        assert result["train_info"]["plain_text"] is None
        assert "forgetting" not in result["train_info"]["metrics"][-1]
    assert "orgetting" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert compare(models, tmp_path, "--max-plain", "-1") == 2
    assert "--max-plain -1: must not be negative" in capsys.readouterr().err


def test_trials_of_learning_rates_are_not_measured(models, tmp_path):
    more = ["--methods", "full/adamw", "--rates", "0.01", "0.1", "--output", str(tmp_path), "--max-train", "6"]
    assert main(["compare", "--model", models["SEQ_2_SEQ_LM"], *SIZE, *more]) == 0
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("rates/**/*.json")]
    assert [trial["train_info"]["plain_text"] for trial in trials] == [None, None]
    (result,) = read_results(tmp_path)
    assert result["train_info"]["plain_text"]["num_texts"] == 64
    assert (
        dataclasses.asdict(meter_for(models["SEQ_2_SEQ_LM"], plain=read_plain_text())[0].found)["loss_before"]
        == (result["train_info"]["plain_text"]["loss_before"])
    )
