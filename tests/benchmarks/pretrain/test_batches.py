"""Which rows come when."""

import numpy as np
import pytest
import torch

from benchmarks.pretrain.batches import Batches, Sentences, Windows, ahead, copies
from benchmarks.pretrain.shards import Split
from benchmarks.settings import SettingsError

from .test_corruption import put_together
from .tiny import tiny_settings


def numbered(*sizes, sentence=10):
    """Shards whose tokens are consecutive numbers, cut into sentences of equal length."""
    tokens, ends, start = [], [], 3
    for size in sizes:
        tokens.append(np.arange(start, start + size, dtype=np.uint16))
        ends.append(np.arange(sentence, size + 1, sentence, dtype=np.uint32))
        start += size
    return Split("train", tokens, ends)


def test_a_pass_over_the_windows_overlaps_nowhere_and_leaves_little_out():
    windows = Windows(numbered(205, 95), 10, 3, seed=0)
    starts = []
    for number in range(4):
        rows = np.concatenate([windows.batch(number * windows.steps + i) for i in range(windows.steps)])
        assert np.all(np.diff(rows, axis=1) == 1)  # stretches of the text, none over the edge of a shard
        assert not np.any((rows == 207).any(axis=1) & (rows == 208).any(axis=1))
        assert len(np.unique(rows)) == rows.size >= 300 - 10 - 10 - 30
        starts.append(sorted(rows[:, 0].tolist()))
    assert len({tuple(s) for s in starts}) > 1  # another offset


def test_a_pass_over_the_sentences_has_each_once():
    split = numbered(400, 200)
    split.ends[0][:] = np.cumsum([5, 15] * 20)
    sentences = Sentences(split, longest=32, tokens=64, seed=1)
    for number in (0, 5):
        seen = []
        for step in range(sentences.steps):
            clean, lengths = sentences.batch(number * sentences.steps + step)
            assert clean.size == 64
            assert np.all(lengths < clean.shape[1])  # room for the end
            assert lengths.max() + 1 > clean.shape[1] - 8
            for row, length in zip(clean, lengths, strict=True):
                assert np.all(row[length:] == 0)
                assert np.all(np.diff(row[:length]) == 1)
                seen.append((int(row[0]), int(length)))
        starts = np.concatenate([[0], np.cumsum([5, 15] * 20)[:-1]])
        whole = {(3 + int(a), n) for a, n in zip(starts, [5, 15] * 20, strict=True)}
        whole |= {(403 + 10 * i, 10) for i in range(20)}
        assert len(set(seen)) == len(seen)
        assert set(seen) <= whole
        assert len(seen) > len(whole) - 8 - 4 - 4  # less than a batch of each width is left out


def test_batches_depend_on_seed_and_step_alone(shards):
    one, two = (Batches(shards.train, tiny_settings(), shards.vocab_size) for _ in range(2))
    forwards = [one(step) for step in range(60)]
    for step in reversed(range(60)):
        again = two(step)
        assert again.tokens == forwards[step].tokens
        for name, part in again.parts.items():
            assert torch.equal(part.input_ids, forwards[step].parts[name].input_ids)
            assert torch.equal(part.labels, forwards[step].parts[name].labels)
    other = Batches(shards.train, tiny_settings(seed=1), shards.vocab_size)(0)
    assert not torch.equal(other.parts["spans"].input_ids, forwards[0].parts["spans"].input_ids)


def test_a_batch_is_what_the_settings_say(shards):
    settings = tiny_settings(denoising_share=0.25, batch_size=16, length=32)
    batches = Batches(shards.train, settings, shards.vocab_size)
    text = {tuple(shard[i : i + batches.shape.window]) for shard in shards.train.tokens for i in range(len(shard))}
    for step in range(20):
        batch = batches(step)
        spans, denoising = batch.parts["spans"], batch.parts["denoising"]
        assert spans.input_ids.shape == (12, 32)
        assert denoising.input_ids.shape == denoising.labels.shape
        # a quarter of 16 * 32 source tokens, as far as whole rows go
        assert 128 - denoising.input_ids.shape[1] < denoising.input_ids.numel() <= 128
        for source, target in zip(spans.input_ids.tolist(), spans.labels.tolist(), strict=True):
            clean, _ = put_together(source, target, shards.vocab_size)
            assert tuple(clean) in text
        ends = len(denoising.labels)
        assert batch.tokens == 12 * batches.shape.window + int((denoising.labels >= 0).sum()) - ends
        assert batch.targets == spans.labels.numel() + int((denoising.labels >= 0).sum())


@pytest.mark.parametrize(("share", "names"), [(0.0, ["spans"]), (1.0, ["denoising"])])
def test_a_part_with_no_share_is_not_there(shards, share, names):
    batches = Batches(shards.train, tiny_settings(denoising_share=share), shards.vocab_size)
    assert list(batches(0).parts) == names


def test_copies_are_copies():
    part = copies(np.array([[7, 8, 0, 0], [5, 6, 7, 0]]), np.array([2, 3]))
    assert part.input_ids.tolist() == [[7, 8, 1, 0], [5, 6, 7, 1]]
    assert part.labels.tolist() == [[7, 8, 1, -100], [5, 6, 7, 1]]


def test_batches_made_ahead_come_in_order_and_errors_come_through():
    def make(step):
        if step == 9:
            raise SettingsError("no more")
        return step

    coming = ahead(make, 5)
    assert [next(coming) for _ in range(4)] == [5, 6, 7, 8]
    with pytest.raises(SettingsError, match="no more"):
        next(coming)


def test_too_little_text_is_refused():
    with pytest.raises(SettingsError, match=r"too few tokens \(60\) for a batch of 8 windows of 33"):
        Windows(numbered(60), 33, 8, 0)
    with pytest.raises(SettingsError, match="too few sentences of up to 8 tokens for a batch of 64 tokens"):
        Sentences(numbered(60), 8, 64, 0)
