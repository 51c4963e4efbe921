"""The small model that is made where none is given."""

import random
from types import SimpleNamespace

import pytest

from benchmarks import base_model
from benchmarks.base_model import build_base_model, denoising_batch, train_tokenizer
from benchmarks.pretrained import digest, load_model

SENTENCES = ["the old bridge was closed again", "a letter came on Monday"] * 20
SIZE = {"vocab_size": 320, "d_model": 32, "num_layers": 1, "steps": 2, "seed": 0}


def test_a_base_model_is_made_once_and_whole(tmp_path, monkeypatch):
    """Cut short while its files are written, it is made anew the next time."""
    folder, real = tmp_path / "runs" / "base", base_model.train_base_model
    made = []

    def cut_short(*args):
        model, tokenizer = real(*args)
        made.append(model)
        monkeypatch.setattr(tokenizer, "save_pretrained", interrupt) if len(made) == 1 else None
        return model, tokenizer

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(base_model, "train_base_model", cut_short)
    with pytest.raises(KeyboardInterrupt):
        build_base_model(SENTENCES, folder, **SIZE)
    assert not folder.exists()
    for _ in range(2):
        assert build_base_model(SENTENCES, folder, **SIZE) == folder
    assert len(made) == 2
    model, tokenizer = load_model(str(folder))
    assert model.config.vocab_size == len(tokenizer)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["base", "locks"]


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


def test_denoising_keeps_whole_sentences_as_targets():
    rows = [[5, 6, 7, 8, 9, 10, 1], [11, 12, 1]]
    batch = denoising_batch(rows, random.Random(0))
    assert batch["labels"][0].tolist() == rows[0]
    assert batch["labels"][1].tolist() == [*rows[1], *[-100] * 4]
    for source, row in zip(batch["input_ids"].tolist(), rows, strict=True):
        kept = [token for token in source if token]
        assert [token for token in row if token in kept] == kept
        assert kept[-1] == 1
