"""The base models of a comparison, and the one that comes with it."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import toy
from benchmarks.pretrained import NANO, digest, load_model
from benchmarks.settings import SettingsError
from peft_fishdip.tasks import NerTask

from . import tiny

TASK = NerTask(toy.LABELS)


@pytest.fixture(scope="module")
def nano():
    return load_model(str(NANO), TASK)[:2]


def test_nano_is_small_and_says_what_it_is(nano):
    model, tokenizer = nano
    assert 8e6 < model.num_parameters() < 12e6
    assert model.config.vocab_size >= len(tokenizer)
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 25e6
    card = (NANO / "README.md").read_text(encoding="utf-8")
    for part in ("tokens seen", "random initialisation", "unigram", "What it cannot do", "Licences of the texts"):
        assert part in card


def test_the_card_has_the_figures_of_the_record():
    record = json.loads((NANO / "pretraining.json").read_text(encoding="utf-8"))
    card = (NANO / "README.md").read_text(encoding="utf-8")
    progress, evaluation = record["progress"], record["evaluation"]
    assert f"{progress['tokens']:,} tokens seen in {progress['step']:,} steps" in card
    assert f"peak {record['settings']['learning_rate']:g}" in card
    for title, name in (("this model", "model"), ("random initialisation", "random"), ("unigram", "unigram")):
        row = evaluation[name]
        copied = [f"{row[key]:.1%}" if key in row else "" for key in ("exact_copies_before", "exact_copies_after")]
        assert f"| {title} | {row['loss']:.3f} | {row['text_loss']:.3f} | {copied[0]} | {copied[1]} |" in card
    for name, digest_of_text in record["shards"]["source_digests"].items():
        assert f"- `{name}`: {digest_of_text}" in card
    assert "git worktree add" in card  # the code that trained it is in another commit


def test_the_weights_of_nano_are_those_that_were_evaluated():
    record = json.loads((NANO / "pretraining.json").read_text(encoding="utf-8"))
    model, *_ = load_model(str(NANO), TASK)
    total = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().bfloat16().contiguous().view(torch.int16).numpy().tobytes())
    assert total.hexdigest() == record["evaluation"]["weights"]


def test_nano_copies(nano):
    """What the augmented formats need, which a model that was never trained cannot do at all."""
    model, tokenizer = nano
    sentences = [" ".join(example.tokens) for example in toy.sentences(16, seed=9)]
    batch = tokenizer(sentences, return_tensors="pt", padding=True)
    with torch.no_grad():
        copies = model.generate(**batch, max_new_tokens=batch["input_ids"].shape[1], do_sample=False)
    right = sum(
        tokenizer.decode(copy, skip_special_tokens=True) == tokenizer.decode(source, skip_special_tokens=True)
        for copy, source in zip(copies, batch["input_ids"], strict=True)
    )
    assert right >= 12


def test_a_model_is_known_by_its_files_or_by_its_revision(tmp_path):
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content, encoding="utf-8")
    one, same, other = (digest(str(tmp_path / name), None) for name in "abc")
    assert one == same != other
    (tmp_path / "a" / "README.md").write_text("told", encoding="utf-8")
    assert digest(str(tmp_path / "a"), None) == one
    hub = SimpleNamespace(_commit_hash="0123abc")
    assert digest("google-t5/t5-large", hub) == "0123abc"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("a weight is missing", lambda state: state.pop("encoder.block.0.layer.0.SelfAttention.q.weight"), "lack"),
        ("a shape is another", lambda state: state.update({"shared.weight": torch.zeros(3, 8)}), "RuntimeError"),
        ("no safetensors", None, "safetensors"),
    ],
)
def test_a_damaged_model_is_refused(tmp_path, name, damage, message):
    tiny.t5(vocab_size=64, d_model=8).save_pretrained(tmp_path)
    for path in NANO.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    if damage is None:
        weights.unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        damage(state)
        save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=message) as error:
        load_model(str(tmp_path), TASK)
    assert "\n" not in str(error.value)
