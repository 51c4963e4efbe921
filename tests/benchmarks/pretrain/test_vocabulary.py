"""The tokenizer: bytes, marks of the format, sentinels, and what transformers makes of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, T5Config

from benchmarks.pretrain.shards import PRINTABLE, learn_vocabulary, load_tokenizer
from benchmarks.settings import SettingsError
from benchmarks.vocabulary import EOS, FORMAT_PIECES, PAD, UNK, train_tokenizer

from .tiny import VOCAB, lines


@pytest.fixture(scope="module")
def tokenizer():
    return learn_vocabulary(lines(200, 3), VOCAB)


@pytest.fixture(scope="module")
def loaded(tokenizer, tmp_path_factory):
    """What AutoTokenizer makes of the folder of a T5 model: not transformers' own T5 tokenizer, which loses bytes."""
    folder = tmp_path_factory.mktemp("model")
    T5Config(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_ids_are_where_the_documentation_says(tokenizer):
    assert len(tokenizer) == VOCAB + 100
    assert tokenizer.convert_ids_to_tokens([PAD, EOS, UNK]) == ["<pad>", "</s>", "<unk>"]
    assert tokenizer.convert_ids_to_tokens([3, 4, 5, 6]) == FORMAT_PIECES
    assert tokenizer.convert_ids_to_tokens(list(range(7, 263))) == [f"<0x{byte:02X}>" for byte in range(256)]
    assert tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in (0, 1, 99)]) == [519, 518, 420]
    vocabulary = tokenizer.get_vocab()
    assert all(character in vocabulary for character in PRINTABLE)


@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_up_to_normalisation_and_white_space(loaded, text):
    import unicodedata

    if any(token in text for token in loaded.all_special_tokens):
        return
    ids = loaded(text)["input_ids"]
    assert UNK not in ids
    assert ids[-1] == EOS
    # the mark of a space in SentencePiece is read as a space
    expected = " ".join(unicodedata.normalize("NFKC", text).replace("▁", " ").split())
    assert " ".join(loaded.decode(ids, skip_special_tokens=True).split()) == expected


def test_loaded_and_trained_agree_and_keep_spaces_before_stops(tokenizer, loaded):
    text = "[ Zoë 日本 | person ] left [ Oslo | location ] ."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"][:-1]) == text


def test_marks_are_pieces_of_their_own(loaded):
    for mark in FORMAT_PIECES:
        assert mark in loaded.tokenize(f"a{mark}b")


def test_sentinels_in_text_are_sentinels(loaded):
    ids = loaded("the <extra_id_0> was <extra_id_1>")["input_ids"]
    assert [i for i in ids if i >= VOCAB] == [519, 518]
    assert loaded.decode(ids, skip_special_tokens=True) == "the was"


def test_text_that_spells_a_byte_is_no_byte(loaded):
    ids = loaded("<0x41>")["input_ids"]
    assert loaded.decode(ids[:-1]) == "<0x41>"
    assert not any(7 <= i < 263 for i in ids)


def test_a_tokenizer_of_another_layout_is_refused(tmp_path, tokenizer):
    train_tokenizer(lines(100, 3), 400).save_pretrained(tmp_path / "plain")
    with pytest.raises(SettingsError, match="plain: the tokenizer's ids are not laid out"):
        load_tokenizer(tmp_path / "plain")
    with pytest.raises(SettingsError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path / "own")
    assert len(load_tokenizer(tmp_path / "own")) == VOCAB + 100


def test_too_small_a_vocabulary_is_one_line():
    with pytest.raises(SettingsError, match="no vocabulary of 100 pieces from 20 lines") as error:
        learn_vocabulary(lines(20, 0), 100)
    assert "\n" not in str(error.value)
