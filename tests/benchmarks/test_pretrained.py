"""The base models of a comparison, and the one that comes with it."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks import toy
from benchmarks.pretrain.evaluation import weights_digest
from benchmarks.pretrain.export import commands_section, figures_section, training_section
from benchmarks.pretrained import NANO, digest, load_model
from benchmarks.settings import SettingsError
from benchmarks.vocabulary import train_tokenizer


@pytest.fixture(scope="module")
def nano():
    return load_model(str(NANO))


def test_nano_is_small_and_says_what_it_is(nano):
    model, tokenizer = nano
    assert 8e6 < model.num_parameters() < 12e6
    assert model.config.vocab_size >= len(tokenizer)
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 25e6
    card = (NANO / "README.md").read_text(encoding="utf-8")
    for part in ("tokens seen", "random initialisation", "unigram", "What it cannot do", "Licences of the texts"):
        assert part in card


def test_the_card_says_what_the_record_says():
    record = json.loads((NANO / "pretraining.json").read_text(encoding="utf-8"))
    card = (NANO / "README.md").read_text(encoding="utf-8")
    for section in (
        training_section(record["settings"], record["progress"], record["shards"]),
        figures_section(record["evaluation"]),
        commands_section("nano", record, record["evaluation"], False, "SOURCES.tsv"),
    ):
        assert "\n".join(section) in card
    model, _ = load_model(str(NANO))
    assert weights_digest(model) == record["evaluation"]["weights"]
    assert record["progress"]["tokens"] >= 60e6


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
    hub = SimpleNamespace(config=SimpleNamespace(_commit_hash="0123abc"))
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
    config = T5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
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
        load_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_the_vocabulary_falls_back_on_bytes_and_keeps_the_marks_of_the_format():
    tokenizer = train_tokenizer(["the old bridge was closed again", "a letter came on Monday"] * 20, 320)
    text = "[ Zoë | person ] = the"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")
