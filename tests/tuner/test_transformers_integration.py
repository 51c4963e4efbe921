"""transformers' own adapter methods, on models that PEFT has never wrapped: exact, in this process and a fresh one."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    T5ForConditionalGeneration,
)

from peft_fishdip import FishDipCallback, FishDipConfig, FishDipModel, tuner_of

from ..support.models import (
    base_bits,
    bert_classifier,
    classifier_examples,
    flat_of,
    gpt2,
    ignoring_unscored_mask,
    num_updates,
    padded,
    random_scores,
    seq2seq_examples,
    snapshot,
    tied_t5,
    train,
    tuned,
)
from ..support.training import Recorder, trainer

FAMILIES: dict[str, Any] = {
    "t5": (tied_t5, T5ForConditionalGeneration, AutoModelForSeq2SeqLM, seq2seq_examples, None),
    "bert": (
        bert_classifier,
        BertForSequenceClassification,
        AutoModelForSequenceClassification,
        classifier_examples,
        ["classifier"],
    ),
}


@torch.no_grad()
def logits(model: Any, examples: Any) -> Tensor:
    return model.eval()(**padded(examples(3))).logits


def added(family: str, base: Path, **settings: Any) -> Any:
    """A model with an adapter that transformers has added, trained over two masks."""
    _, kind, _, make, heads = FAMILIES[family]
    model = kind.from_pretrained(base).eval()
    model.add_adapter(FishDipConfig(density=0.05, modules_to_save=heads, delta_scale="none", **settings))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trainable) == (3 if heads else 1)
    optimizer = torch.optim.AdamW(trainable, lr=0.01)

    def update(step: int) -> None:
        if step % 2 == 0:
            tuner_of(model).update_mask(make(6), optimizer=optimizer)

    train(model, make(6), 4, optimizer, update)
    return model


FRESH = """
import sys, torch
sys.path.insert(0, {root!r})
from peft import PeftModel
import peft_fishdip
from tests.tuner.test_transformers_integration import FAMILIES, logits
found = {{}}
for family, (_, kind, auto, make, _) in FAMILIES.items():
    base, path = {folder!r} + f"/{{family}}-base", {folder!r} + f"/{{family}}"
    ways = {{}}
    ways["auto"] = auto.from_pretrained(path)
    ways["load_adapter"] = kind.from_pretrained(base)
    ways["load_adapter"].load_adapter(path)
    ways["low memory"] = kind.from_pretrained(base)
    ways["low memory"].load_adapter(path, "other", low_cpu_mem_usage=True)
    ways["peft"] = PeftModel.from_pretrained(kind.from_pretrained(base), path, strict=True)
    found[family] = {{name: logits(model, make) for name, model in ways.items()}}
torch.save(found, {folder!r} + "/found.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family the base, a trained adapter of it, its logits, and those that a fresh process has found."""
    folder = tmp_path_factory.mktemp("transformers")
    expected = {}
    for family, (build, _, _, make, _) in FAMILIES.items():
        build().save_pretrained(folder / f"{family}-base")
        model = added(family, folder / f"{family}-base")
        model.save_pretrained(folder / family)
        expected[family] = logits(model, make)
        assert not torch.equal(expected[family], logits(build(), make))
        sizes = {name: len(positions) for name, (positions, _) in tuner_of(model).delta().items()}
        assert json.loads((folder / family / "adapter_config.json").read_text())["support_sizes"] == sizes
    torch.save(expected, folder / "expected.pt")
    code = FRESH.format(root=str(Path(__file__).parents[2]), folder=str(folder))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("way", ["auto", "load_adapter", "low memory", "peft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_process_computes_the_same_bits(family: str, way: str, folder: Path) -> None:
    expected, found = (torch.load(folder / name, weights_only=True) for name in ("expected.pt", "found.pt"))
    assert torch.equal(found[family][way], expected[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_has_sizes_base_and_card_and_nothing_dense(family: str, folder: Path) -> None:
    config = json.loads((folder / family / "adapter_config.json").read_text())
    tensors = load_file(folder / family / "adapter_model.safetensors")
    assert config["base_model_name_or_path"] == str(folder / f"{family}-base")
    assert not {"num_updates", "counts"} & config.keys()
    sizes = config["support_sizes"]
    assert config["base_fingerprint"].keys() == sizes.keys()
    for name, size in sizes.items():
        path, _, leaf = name.rpartition(".")
        for kind in ("indices", "values"):
            assert tensors.pop(f"base_model.model.{path}.fishdip_{kind}.{leaf}").shape == (size,)
    heads = {"base_model.model.classifier.bias", "base_model.model.classifier.weight"}
    (key,) = [key for key in tensors if key.endswith(".fishdip_summary.sha256")]
    summary = tensors.pop(key).tolist()  # four words of a SHA-256, active entries per tensor, mask updates
    assert len(summary) == 4 + len(sizes) + 1
    assert summary[-1] == 2
    assert set(tensors) == (heads if family == "bert" else set())
    ordered = [sizes[name] for name, _ in FAMILIES[family][0]().named_parameters() if name in sizes]
    assert all(active <= size for active, size in zip(summary[4:-1], ordered, strict=True))
    assert sum(summary[4:-1]) < sum(ordered)
    assert "## Fish-Dip adapter" in (folder / family / "README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_load_reports_nothing_missing_and_leaves_the_base_alone(family: str, folder: Path) -> None:
    build, kind, _, make, _ = FAMILIES[family]
    model = kind.from_pretrained(folder / f"{family}-base").eval()
    before, plain = snapshot(model), logits(model, make)
    report = model.load_adapter(str(folder / family))
    assert not report.missing_keys
    assert not report.unexpected_keys
    assert not report.mismatched_keys
    adapted = logits(model, make)
    assert torch.equal(adapted, torch.load(folder / "expected.pt", weights_only=True)[family])
    model.disable_adapters()
    assert torch.equal(logits(model, make), plain)
    model.enable_adapters()
    for module in model.modules():  # transformers disables these too, but does not enable them
        if isinstance(module, ModulesToSaveWrapper):
            module.enable_adapters(True)
    assert torch.equal(logits(model, make), adapted)
    model.delete_adapter("default")
    assert torch.equal(logits(model, make), plain)
    model.load_adapter(str(folder / family), "again")
    model.set_adapter("again")
    assert torch.equal(logits(model, make), adapted)
    after = {name: tensor for name, tensor in base_bits(model).items() if "modules_to_save" not in name}
    after = {name.replace("original_module.", ""): tensor for name, tensor in after.items()}
    assert after.keys() == {name for name, _ in build().named_parameters(remove_duplicate=False)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_several_adapters_switch_and_add_up(folder: Path) -> None:
    model = tied_t5()
    model.load_adapter(str(folder / "t5"), "first")
    first = logits(model, seq2seq_examples)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        model.add_adapter(FishDipConfig(density=0.2, init_weights=False), "second")
    assert model.active_adapters() == tuner_of(model).active_adapters == ["second"]
    second = logits(model, seq2seq_examples)
    model.set_adapter("first")
    assert tuner_of(model).active_adapters == ["first"]
    assert torch.equal(logits(model, seq2seq_examples), first)
    model.set_adapter(["first", "second"])
    both = logits(model, seq2seq_examples)
    base, deltas = tied_t5(), [tuner_of(model).delta(name) for name in ("first", "second")]
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            total = torch.zeros(parameter.numel())
            for delta in deltas:
                total.index_add_(0, *delta[name])
            parameter.view(-1).add_(total)
    assert torch.equal(both, logits(base, seq2seq_examples))
    model.delete_adapter("first")
    model.set_adapter("second")
    assert torch.equal(logits(model, seq2seq_examples), second)
    assert list(model.peft_config) == ["second"]
    with pytest.raises(ValueError, match="there is no adapter 'first'; there are 'second'"):
        tuner_of(model).mask("first")


def test_a_loaded_adapter_trains_on_from_its_mask(folder: Path) -> None:
    model = tied_t5()
    model.load_adapter(str(folder / "t5"), is_trainable=True)
    twin = PeftModel.from_pretrained(tied_t5(), str(folder / "t5"), is_trainable=True)
    tuner = tuner_of(model)
    assert all(torch.equal(positions, twin.base_model.mask()[name]) for name, positions in tuner.mask().items())
    for each in (model, twin):
        each(**padded(seq2seq_examples(4))).loss.backward()  # no warning of an unscored mask
        update = tuner_of(each).update_mask(seq2seq_examples(5))
        assert update.step == 2
    assert torch.equal(flat_of(model).grad, flat_of(twin).grad)


def test_an_adapter_loads_over_another_base_with_a_warning_and_not_strictly(folder: Path) -> None:
    other = tied_t5()
    with torch.no_grad():
        other.shared.weight.add_(1)
    config = FishDipConfig.from_pretrained(folder / "t5", strict=True)
    with pytest.raises(ValueError, match=r"strict=True: .*'shared\.weight' has other values"):
        other.load_adapter(str(folder / "t5"), peft_config=config)
    with pytest.warns(UserWarning, match=rf"'shared\.weight' has other values.*made for \({folder}/t5-base\)"):
        other.load_adapter(str(folder / "t5"))


@pytest.mark.parametrize("heads", [None, ["classifier"]])
def test_a_trainer_trains_it_as_it_trains_a_peft_model(heads: list[str] | None, tmp_path: Path) -> None:
    settings = {"density": 0.05, "update_interval": 2, "modules_to_save": heads, "delta_scale": "none"}
    plain = bert_classifier()
    plain.add_adapter(FishDipConfig(**settings))
    callback = FishDipCallback()
    runner, _ = trainer(tmp_path / "plain", plain, callback, save_strategy="steps", save_steps=4)
    runner.remove_callback(Recorder)  # which knows PeftModels
    runner.train()
    wrapped = tuned(bert_classifier(), **settings)
    trainer(tmp_path / "peft", wrapped, FishDipCallback())[0].train()
    assert [update.step for update in callback.updates] == [0, 2, 4]
    assert torch.equal(logits(plain, classifier_examples), logits(wrapped, classifier_examples))
    assert num_updates(plain) == 3
    for name, (positions, values) in wrapped.base_model.delta().items():
        found = tuner_of(plain).delta()[name]
        assert torch.equal(found[0], positions)
        assert torch.equal(found[1], values)
    saved = PeftModel.from_pretrained(bert_classifier(), str(tmp_path / "plain" / "checkpoint-4"))
    assert num_updates(saved) == 2
    second, _ = trainer(tmp_path / "plain", plain, FishDipCallback())
    with pytest.raises(ValueError, match="checkpoint index"):  # transformers resumes PeftModels only
        second.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-4"))


def test_load_best_model_at_end_is_refused_before_training(tmp_path: Path) -> None:
    model = bert_classifier()
    model.add_adapter(FishDipConfig())
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    runner, _ = trainer(tmp_path, model, FishDipCallback(), load_best_model_at_end=True, **steps)
    with pytest.raises(ValueError, match=r"load_best_model_at_end: .* train get_peft_model"):
        runner.train()


def test_the_tuner_of_a_model_is_found_however_the_adapter_came_in() -> None:
    wrapped = tuned(gpt2())
    assert tuner_of(wrapped) is wrapped.base_model
    plain = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    inject_adapter_in_model(FishDipConfig(density=0.5, init_weights=False), plain)
    temporary_merge = nn.ModuleDict({"model": plain})
    tuner = tuner_of(temporary_merge)
    assert isinstance(tuner, FishDipModel)
    assert list(tuner.mask()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = plain(x)
        assert torch.equal(tuner(x), expected)
        tuner.merge_adapter()
        assert torch.equal(plain(x), expected)
        tuner.unmerge_adapter()
        tuner.set_mask(random_scores(plain))
    with ignoring_unscored_mask():
        plain(x).sum().backward()
    assert flat_of(plain).grad.abs().sum() > 0
    for model in (gpt2(), inject_adapter_in_model(LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True), gpt2())):
        with pytest.raises(ValueError, match="there is no Fish-Dip adapter in GPT2LMHeadModel; add one with"):
            tuner_of(model)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize(("build", "targets"), [(gpt2, ["c_fc", "ln_1"]), (tied_t5, None), (tied_t5, ["q", "lm_head"])])
def test_a_state_dict_says_which_modules_are_tuned(build: Any, targets: Any, prefix: str) -> None:
    trained = get_peft_model(build(), FishDipConfig(density=0.2, target_modules=targets, init_weights=False))
    state_dict = {
        prefix + key.removeprefix("base_model.model."): value
        for key, value in get_peft_model_state_dict(trained).items()
    }
    plain = inject_adapter_in_model(FishDipConfig(density=0.2, target_modules=["v"]), build(), state_dict=state_dict)
    assert tuner_of(plain).mask().keys() == trained.base_model.mask().keys()
    set_peft_model_state_dict(plain, {key.removeprefix(prefix): value for key, value in state_dict.items()})
    for name, (positions, values) in trained.base_model.delta().items():
        assert torch.equal(tuner_of(plain).delta()[name][0], positions)
        assert torch.equal(tuner_of(plain).delta()[name][1], values)


def test_a_state_dict_of_something_else_is_refused() -> None:
    base = gpt2()
    before = [*base.state_dict()]
    with pytest.raises(ValueError, match=r"state_dict has no entries of a Fish-Dip adapter among its 1 \('x\.lora_A"):
        inject_adapter_in_model(FishDipConfig(), base, state_dict={"x.lora_A.weight": torch.zeros(1)})
    assert [*base.state_dict()] == before
