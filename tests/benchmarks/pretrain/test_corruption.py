"""Sources and targets, judged by putting the clean text together again from them."""

from itertools import groupby, pairwise

import numpy as np
import pytest

from benchmarks.pretrain.corruption import KINDS, SpanShape, corrupt_spans, denoising_rows, noise_mask, span_shape
from benchmarks.settings import SettingsError

from .tiny import tiny_settings

VOCAB, PIECES = 600, 500


def put_together(source, target, size=VOCAB):
    """T5's reading of a pair: the span that follows each sentinel in the target replaces the sentinel in the source."""
    assert source[-1] == 1
    assert target[-1] == 1
    spans, current = {}, None
    for token in target[:-1]:
        if token >= size - 100:
            current = token
            assert current not in spans
            spans[current] = []
        else:
            spans[current].append(token)
    return [token for place in source[:-1] for token in (spans[place] if place >= size - 100 else [place])], spans


@pytest.mark.parametrize(
    ("length", "expected"),
    # 128: worked out by hand; 15 % of 141 is 21.15, a third of 21 is 7, 141 - 21 + 7 + 1 = 128.
    # 512: T5's published numbers are 568 tokens and targets of 114, which have no last sentinel.
    [(128, SpanShape(141, 21, 7, 128, 30)), (512, SpanShape(568, 85, 28, 512, 115))],
)
def test_lengths_are_those_of_t5(length, expected):
    assert span_shape(tiny_settings(length=length)) == expected


@pytest.mark.parametrize("length", [8, 32, 128])
@pytest.mark.parametrize("density", [0.15, 0.5])
@pytest.mark.parametrize("mean", [1.0, 3.0])
def test_source_and_target_give_the_window_back(length, density, mean):
    shape = span_shape(tiny_settings(length=length, noise_density=density, mean_span=mean))
    rng = np.random.default_rng(0)
    windows = rng.integers(3, PIECES, (20, shape.window))
    source, target = corrupt_spans(windows, shape, VOCAB, rng)
    assert source.shape == (20, shape.source)
    assert target.shape == (20, shape.target)
    assert shape.source <= length
    for clean, x, y in zip(windows.tolist(), source.tolist(), target.tolist(), strict=True):
        again, spans = put_together(x, y)
        assert again == clean
        assert list(spans) == [VOCAB - 1 - i for i in range(shape.spans + 1)]  # <extra_id_0>, <extra_id_1>, ...
        assert [token for token in x if token >= PIECES] == list(spans)[:-1]
        lengths = [len(span) for span in spans.values()]
        assert lengths[-1] == 0
        assert min(lengths[:-1]) >= 1
        assert sum(lengths) == shape.noise


def test_a_pair_in_full():
    """One span of two of five tokens; wherever it is, the pair is what figure 2 of the paper shows."""
    shape = SpanShape(5, 2, 1, 5, 5)
    windows = np.tile(np.arange(10, 15), (50, 1))
    source, target = corrupt_spans(windows, shape, VOCAB, np.random.default_rng(0))
    # T5's masks end with a noise span, so the only division of one span is the one at the end
    assert source.tolist() == [[10, 11, 12, 599, 1]] * 50
    assert target.tolist() == [[599, 13, 14, 598, 1]] * 50


def test_masks_are_uniform_over_all_divisions():
    shape = SpanShape(8, 3, 2, 8, 7)
    mask = noise_mask(12_000, shape, np.random.default_rng(1))
    found = {}
    for row in mask.astype(int):
        key = "".join(map(str, row))
        found[key] = found.get(key, 0) + 1
    # kept 5 = 1+4, 2+3, 3+2, 4+1; noise 3 = 1+2, 2+1
    kept, noise = [(1, 4), (2, 3), (3, 2), (4, 1)], [(1, 2), (2, 1)]
    expected = {"0" * a + "1" * x + "0" * b + "1" * y for a, b in kept for x, y in noise}
    assert set(found) == expected
    # 1,500 each, standard deviation 36
    assert all(abs(count - 1500) < 5 * 36 for count in found.values())


def test_share_and_mean_length_of_the_noise():
    shape = span_shape(tiny_settings(length=128))
    mask = noise_mask(200, shape, np.random.default_rng(2))
    runs = [len(list(run)) for row in mask for key, run in groupby(row) if key]
    assert mask.mean() == pytest.approx(0.15, abs=0.002)
    assert np.mean(runs) == 3


def test_more_spans_than_sentinels_are_refused():
    with pytest.raises(SettingsError, match=r"length=4096 .* sentinels; there are 100"):
        span_shape(tiny_settings(length=4096))


@pytest.fixture(scope="module")
def rows():
    settings = tiny_settings(corruption=0.4)
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 24, 4000)
    lengths[:50] = 23
    clean = np.where(np.arange(24) < lengths[:, None], rng.integers(3, PIECES, (4000, 24)), 0)
    source, labels, kinds = denoising_rows(clean, lengths, settings, VOCAB, np.random.default_rng(4))
    return clean, lengths, source, labels, kinds


def test_targets_are_whole_sentences_and_sources_end(rows):
    clean, lengths, source, labels, kinds = rows
    assert source.shape == labels.shape == clean.shape
    for i, length in enumerate(lengths.tolist()):
        target = labels[i].tolist()
        assert target[length] == 1
        assert target[length + 1 :] == [-100] * (23 - length)
        text = [token for token in source[i].tolist() if token]
        assert text[-1] == 1
        assert text.count(1) == 1
        assert source[i, len(text) :].sum() == 0
        if KINDS[kinds[i]] != "scrambled":
            assert target[:length] == clean[i, :length].tolist()
        else:
            assert all(3 <= token < PIECES for token in target[:length])


def test_each_kind_loses_what_its_name_says(rows):
    _, lengths, source, labels, kinds = rows
    spans_longer_than_one = 0
    for i, kind in enumerate(kinds.tolist()):
        target = labels[i, : lengths[i]].tolist()
        text = [token for token in source[i].tolist() if token][:-1]
        marks = [token for token in text if token >= PIECES]
        plain = [token for token in text if token < PIECES]
        assert marks == [PIECES + n for n in range(len(marks))]  # <extra_id_99>, <extra_id_98>, ...
        assert plain
        if kind < 2:
            assert text == target
        elif kind == 2:
            assert not marks
            rest = iter(target)
            assert all(token in rest for token in plain)  # in order
        elif kind == 3:
            assert len(text) == len(target)
            assert all(a == b or a >= PIECES for a, b in zip(text, target, strict=True))
        else:
            assert all(not (a >= PIECES and b >= PIECES) for a, b in pairwise(text))
            spans_longer_than_one += len(target) - len(plain) > len(marks)
    assert spans_longer_than_one > 100


def test_shares_of_kinds_and_of_what_is_missing(rows):
    _, lengths, source, _, kinds = rows
    counts = np.bincount(kinds, minlength=5) / len(kinds)
    # copies 30 %, half of them scrambled, the rest in thirds; five standard deviations of 4,000 draws are 0.034
    np.testing.assert_allclose(counts, [0.15, 0.15, 0.7 / 3, 0.7 / 3, 0.7 / 3], atol=0.034)
    kept = ((source > 2) & (source < PIECES)).sum(axis=1)
    for kind in (2, 3, 4):
        chosen = kinds == kind
        missing = 1 - kept[chosen].sum() / lengths[chosen].sum()
        assert missing == pytest.approx(0.2, abs=0.025), KINDS[kind]


def test_scrambled_rows_use_all_pieces_alike():
    settings = tiny_settings(copy_share=1.0, scrambled_share=1.0)
    lengths = np.full(2000, 20)
    clean = np.full((2000, 24), 7)
    clean[:, 20:] = 0
    source, _, kinds = denoising_rows(clean, lengths, settings, VOCAB, np.random.default_rng(0))
    assert set(kinds.tolist()) == {1}
    counts = np.bincount(source[:, :20].ravel(), minlength=VOCAB)
    assert counts[3:PIECES].min() > 0
    assert counts[[0, 1, 2]].sum() == counts[PIECES:].sum() == 0
    # 80.5 each, standard deviation 9
    assert np.all(abs(counts[3:PIECES] - 80.5) < 5.5 * 9)


def test_no_row_needs_more_sentinels_than_there_are():
    settings = tiny_settings(copy_share=0.0, corruption=0.99, denoising_length=256)
    clean = np.full((300, 256), 9)
    clean[:, 255] = 0
    source, _, _ = denoising_rows(clean, np.full(300, 255), settings, VOCAB, np.random.default_rng(0))
    assert source.max() == VOCAB - 1
