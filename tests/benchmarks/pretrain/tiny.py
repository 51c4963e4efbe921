"""Text, shards and settings small enough for a test; nothing here is read from outside."""

import lzma
from pathlib import Path

from benchmarks.pretrain.settings import RunSettings
from benchmarks.pretrain.shards import make_shards
from benchmarks.toy import sentences

VOCAB = 420


def lines(count, seed):
    """Paragraphs of one to three generated sentences."""
    parts = [" ".join(example.tokens).replace(" .", ".") for example in sentences(3 * count, seed)]
    return [" ".join(parts[3 * i : 3 * i + 1 + i % 3]) for i in range(count)]


def write_text(folder: Path):
    """A training text as xz, and a held-out text as it is, with empty lines between documents."""
    folder.mkdir(parents=True, exist_ok=True)
    train, heldout = folder / "train.txt.xz", folder / "heldout.txt"
    with lzma.open(train, "wt", encoding="utf-8") as file:
        file.write("\n\n".join(lines(250, 1)) + "\n")
    heldout.write_text("\n\n".join(lines(60, 2)) + "\n", encoding="utf-8")
    return train, heldout


def tiny_shards(folder: Path, **options):
    train, heldout = write_text(folder)
    chosen = {"vocab_size": VOCAB, "vocabulary_lines": 200, "shard_tokens": 6000, "seed": 0, **options}
    return make_shards([train], [heldout], folder / "shards", **chosen)


def tiny_settings(**changes):
    chosen = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "batch_size": 8,
        "length": 32,
        "denoising_length": 48,
        "max_tokens": 3000,
        "warmup_tokens": 100,
        "rms_interval": 3,
        "log_every": 1,
        "evaluate_every": 1000,
        "checkpoint_every": 4,
    }
    return RunSettings(**{**chosen, **changes})
