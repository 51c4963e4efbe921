"""The base models of a comparison, and the one that comes with it."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import toy
from benchmarks.pretrained import NANO, digest, load_model
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
    hub = SimpleNamespace(config=SimpleNamespace(_commit_hash="0123abc"))
    assert digest("google-t5/t5-large", hub) == "0123abc"


def test_the_vocabulary_falls_back_on_bytes_and_keeps_the_marks_of_the_format():
    tokenizer = train_tokenizer(["the old bridge was closed again", "a letter came on Monday"] * 20, 320)
    text = "[ Zoë | person ] = the"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")
