"""Text on its way to disk and back."""

import json
import lzma
import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.pretrain.shards import make_shards, open_shards
from benchmarks.pretrain.text import read_lines, sample, sentences
from benchmarks.settings import SettingsError

from .tiny import VOCAB, lines, tiny_shards, write_text


def decoded_sentences(shards, split):
    tokenizer = AutoTokenizer.from_pretrained(shards.tokenizer_folder)
    for tokens, ends in zip(split.tokens, split.ends, strict=True):
        start = 0
        for end in ends.tolist():
            yield tokenizer.decode(tokens[start:end].tolist())
            start = end


def test_the_shards_hold_the_text_sentence_by_sentence(shards):
    assert len(shards.train.tokens) > 1
    for split, seed, count in ((shards.train, 1, 250), (shards.heldout, 2, 60)):
        expected = [sentence + "." for line in lines(count, seed) for sentence in line[:-1].split(". ")]
        assert list(decoded_sentences(shards, split)) == expected
    assert shards.meta["splits"]["train"]["tokens"] == sum(len(shard) for shard in shards.train.tokens)
    assert shards.meta["splits"]["train"]["lines"] == 250
    assert shards.vocab_size == VOCAB + 100


def test_files_are_plain_uint16_and_uint32(shards):
    path = shards.folder / "train-00000.tokens"
    raw = path.read_bytes()
    assert int.from_bytes(raw[:2], "little") == shards.train.tokens[0][0]
    assert len(raw) == 2 * len(shards.train.tokens[0])
    assert (shards.folder / "train-00000.sentences").stat().st_size == 4 * len(shards.train.ends[0])
    assert isinstance(shards.train.tokens[0], np.memmap)


def test_same_text_and_seed_give_the_same_files(shards, tmp_path):
    again = tiny_shards(tmp_path)
    assert again.meta == shards.meta
    assert again.fingerprint == shards.fingerprint


def test_another_tokenizer_can_be_given(shards, tmp_path):
    train, heldout = write_text(tmp_path)
    again = make_shards(
        [train, train],
        [heldout],
        tmp_path / "more",
        vocab_size=VOCAB,
        vocabulary_lines=1,
        shard_tokens=10**6,
        seed=3,
        tokenizer=shards.tokenizer_folder,
    )
    once = np.concatenate(shards.train.tokens)
    np.testing.assert_array_equal(again.train.tokens[0], np.concatenate([once, once]))


def test_held_out_lines_are_no_training_lines(tmp_path):
    train, heldout = write_text(tmp_path)
    with lzma.open(train, "at", encoding="utf-8") as file:
        file.write(lines(60, 2)[7] + "\n")
    shards = make_shards(
        [train], [heldout], tmp_path / "s", vocab_size=VOCAB, vocabulary_lines=100, shard_tokens=10**6, seed=0
    )
    assert shards.meta["dropped_lines"] == 1
    trained = set(decoded_sentences(shards, shards.train))
    assert lines(60, 2)[7].split(". ")[0].rstrip(".") + "." not in trained


def test_special_names_in_a_text_are_text(tmp_path):
    train, heldout = write_text(tmp_path)
    odd = "Write </s> or <pad> and <extra_id_3> , <0x0A> and Zoë 日本"
    with lzma.open(train, "at", encoding="utf-8") as file:
        file.write(odd + "\n")
    shards = make_shards(
        [train], [heldout], tmp_path / "s", vocab_size=VOCAB, vocabulary_lines=100, shard_tokens=10**6, seed=0
    )
    assert list(decoded_sentences(shards, shards.train))[-1] == odd
    assert min(shard.min() for shard in shards.train.tokens) > 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-00000.tokens", lambda raw: raw[:-2], "SHA-256 differs"),
        ("train-00000.sentences", lambda raw: raw[4:], "SHA-256 differs"),
        ("tokenizer/tokenizer.json", lambda raw: raw + b" ", "SHA-256 differs"),
        ("heldout-00000.tokens", None, "is missing"),
        ("meta.json", lambda raw: raw.replace(b'"format": 1', b'"format": 9'), "not of format 1"),
        ("meta.json", lambda raw: raw[:40], "cannot be read"),
        ("meta.json", None, "holds no shards"),
    ],
)
def test_damaged_shards_are_refused(tmp_path, name, change, message):
    shards = tiny_shards(tmp_path)
    path = shards.folder / name
    content = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(content))
    with pytest.raises(SettingsError, match=message) as error:
        open_shards(shards.folder)
    assert str(shards.folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train-00000.tokens", np.array([5, 1, 7], "<u2"), "ids outside of 3 to 419"),
        ("train-00000.tokens", np.array([5, 420], "<u2"), "ids outside of 3 to 419"),
        ("train-00000.sentences", np.array([3, 3], "<u4"), "does not divide its tokens"),
        ("train-00000.sentences", np.array([3], "<u4"), "does not divide its tokens"),
    ],
)
def test_wrong_content_with_the_right_digest_is_refused(tmp_path, name, values, message):
    import hashlib

    shards = tiny_shards(tmp_path)
    values.tofile(shards.folder / name)
    meta = json.loads((shards.folder / "meta.json").read_text())
    meta["files"][name] = hashlib.sha256(values.tobytes()).hexdigest()
    (shards.folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SettingsError, match=message):
        open_shards(shards.folder)


def test_bad_text_is_refused_and_leaves_no_shards(tmp_path):
    train, heldout = write_text(tmp_path)
    empty, latin, broken = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "broken.txt.xz"
    empty.write_text("\n \n")
    latin.write_bytes(b"fine\nZo\xeb\n")
    broken.write_bytes(train.read_bytes()[:-20])
    out = tmp_path / "out"
    options = {"vocab_size": VOCAB, "vocabulary_lines": 100, "shard_tokens": 10**6, "seed": 0}
    for text, held, message in (
        ([tmp_path / "none.txt"], [heldout], r"none\.txt cannot be read"),
        ([latin], [heldout], r"latin\.txt, line 2 is not UTF-8"),
        ([broken], [heldout], r"broken\.txt\.xz cannot be read"),
        ([train], [empty], "the heldout text is empty"),
        ([empty], [heldout], "from 0 lines"),
        ([train], [train], r"train\.txt\.xz is given as training text and as held-out text"),
    ):
        with pytest.raises(SettingsError, match=message):
            make_shards(text, held, out, **options)
        assert not out.exists()
    for name, value in (("vocab_size", 66_000), ("vocabulary_lines", 0), ("shard_tokens", 0), ("shard_tokens", 2**31)):
        with pytest.raises(SettingsError, match=f"{name}={value}"):
            make_shards([train], [heldout], out, **{**options, name: value})
    out.mkdir()
    with pytest.raises(SettingsError, match="is there already"):
        make_shards([train], [heldout], out, **options)


def test_sentences_lose_nothing():
    line = 'He said "Go!" Then  he left. (It was 5.30 p.m.) "Why?" asked Ann. e.g. this... no'
    parts = sentences(line)
    assert parts == ['He said "Go!"', "Then  he left.", "(It was 5.30 p.m.)", '"Why?" asked Ann. e.g. this... no']
    assert " ".join(parts).split() == line.split()
    assert sentences("no stop") == ["no stop"]


def test_lines_come_in_order_without_empty_ones(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    with lzma.open(tmp_path / "b.txt.xz", "wt") as file:
        file.write("three")
    assert list(read_lines([tmp_path / "b.txt.xz", tmp_path / "a.txt"])) == ["three", "one", "two"]


def test_a_sample_is_uniform_and_repeatable():
    texts = [str(i) for i in range(50)]
    assert sample(texts, 80, 0) == texts
    assert sample(texts, 7, 5) == sample(texts, 7, 5)
    counts = np.zeros(50)
    rng = random.Random(0)
    for _ in range(2000):
        chosen = sample(texts, 10, rng.randrange(10**9))
        assert len(set(chosen)) == 10
        counts[[int(x) for x in chosen]] += 1
    # each is expected 400 times, standard deviation 18
    assert np.all(abs(counts - 400) < 5 * 18)
