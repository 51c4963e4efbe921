"""Text as token ids on disk, tokenised once: a folder that says of itself what it is.

meta.json                    format, counts and SHA-256 of every file
tokenizer/                   what transformers' AutoTokenizer loads
train-00000.tokens           ids of text, little-endian uint16, no end or separator among them
train-00000.sentences        where each sentence ends in it, little-endian uint32, rising, the last is the length
heldout-00000.tokens, ...    the same for the held-out part
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..settings import SettingsError, read_json
from ..vocabulary import EOS, FORMAT_PIECES, PAD, UNK, train_tokenizer
from .settings import SENTINELS
from .text import read_lines, sample, sentences

FORMAT = 1
TOKEN = np.dtype("<u2")
END = np.dtype("<u4")
LINES_AT_ONCE = 2000
PRINTABLE = "".join(c for c in string.printable if not c.isspace())


@dataclass(frozen=True)
class Split:
    """The training part or the held-out part."""

    name: str
    tokens: list[NDArray[np.uint16]]
    """Ids of each shard, mapped from disk."""
    ends: list[NDArray[np.uint32]]
    """Where the sentences of each shard end; the first one begins at 0."""

    @property
    def num_tokens(self) -> int:
        return sum(len(shard) for shard in self.tokens)

    def gather(self, shards: NDArray[Any], starts: NDArray[Any], length: int) -> NDArray[np.int64]:
        """Stretches of equal length, as ids of shape (rows, length)."""
        rows = [self.tokens[s][a : a + length] for s, a in zip(shards.tolist(), starts.tolist(), strict=True)]
        return np.stack(rows).astype(np.int64)

    def counts(self, size: int) -> NDArray[np.int64]:
        """How often each id occurs; shape (size,)."""
        total = np.zeros(size, dtype=np.int64)
        for shard in self.tokens:
            total += np.bincount(shard, minlength=size)
        return total


@dataclass(frozen=True)
class Shards:
    """Both parts and what is known of them."""

    folder: Path
    meta: dict[str, Any]
    train: Split
    heldout: Split

    @property
    def pieces(self) -> int:
        """Ids without the sentinels, which follow them."""
        return int(self.meta["pieces"])

    @property
    def vocab_size(self) -> int:
        return self.pieces + SENTINELS

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the SHA-256 of all files: the same for the same tokens and vocabulary."""
        return hashlib.sha256(json.dumps(self.meta["files"], sort_keys=True).encode()).hexdigest()


def make_shards(
    text: Sequence[Path],
    heldout: Sequence[Path],
    folder: Path,
    *,
    vocab_size: int,
    vocabulary_lines: int,
    shard_tokens: int,
    seed: int,
    tokenizer: Path | None = None,
) -> Shards:
    """Learn the vocabulary and tokenise both parts. The folder is there only when it is complete.

    Lines of the training text that stand in the held-out text are left out, and counted; `evaluation.seen` finds the
    sentences that stand in both as parts of other lines.

    Args:
        text, heldout: .txt or .txt.xz files.
        folder: must not exist.
        vocab_size: pieces, without the sentinels; ids must fit into 16 bits.
        vocabulary_lines: how many lines of the training text, drawn at random, the vocabulary is learned from.
        shard_tokens: tokens of a shard at most (a single line may go beyond).
        seed: of the draw.
        tokenizer: a folder of the tokenizer of earlier shards, instead of a new vocabulary.

    Raises:
        SettingsError: the input cannot be used; the message says what and why.
    """
    if folder.exists():
        raise SettingsError(f"{folder} is there already; choose another --output, or remove it")
    if both := {path.resolve() for path in text} & {path.resolve() for path in heldout}:
        raise SettingsError(f"{min(both).name} is given as training text and as held-out text")
    for name, value in (("vocabulary_lines", vocabulary_lines), ("shard_tokens", shard_tokens)):
        if value <= 0:
            raise SettingsError(f"{name}={value!r} must be greater than 0")
    if not 0 < vocab_size + SENTINELS <= 2**16:
        raise SettingsError(f"vocab_size={vocab_size!r}: with {SENTINELS} sentinels, ids must fit into 16 bits")
    if shard_tokens >= 2**31:
        raise SettingsError(f"shard_tokens={shard_tokens!r} must be less than 2**31")

    secret = {digest(line) for line in read_lines(heldout)}
    dropped = 0

    def open_lines() -> Iterator[str]:
        nonlocal dropped
        dropped = 0
        for line in read_lines(text):
            if digest(line) in secret:
                dropped += 1
            else:
                yield line

    if tokenizer is None:
        trained = learn_vocabulary(sample(open_lines(), vocabulary_lines, seed), vocab_size)
    else:
        trained = load_tokenizer(tokenizer)
    pieces = len(trained) - SENTINELS

    work = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    trained.save_pretrained(work / "tokenizer")
    counted = {
        "train": write_split(work, "train", open_lines(), trained, shard_tokens),
        "heldout": write_split(work, "heldout", read_lines(heldout), trained, shard_tokens),
    }
    files = {path.relative_to(work).as_posix(): file_digest(path) for path in sorted(work.rglob("*")) if path.is_file()}
    meta = {
        "format": FORMAT,
        "pieces": pieces,
        "sentinels": SENTINELS,
        "seed": seed,
        "vocabulary_lines": vocabulary_lines if tokenizer is None else None,
        "shard_tokens": shard_tokens,
        "sources": {"train": [path.name for path in text], "heldout": [path.name for path in heldout]},
        "source_digests": {path.name: file_digest(path) for path in (*text, *heldout)},
        "dropped_lines": dropped,
        "splits": counted,
        "files": files,
    }
    (work / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    os.replace(work, folder)
    return open_shards(folder)


def learn_vocabulary(lines: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """The vocabulary of these lines with sentinels; every printable ASCII character is a piece."""
    try:
        return train_tokenizer(lines, vocab_size, sentinels=SENTINELS, required_characters=PRINTABLE, max_length=512)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"no vocabulary of {vocab_size} pieces from {len(lines)} lines: {reason}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, if its ids are laid out as those of `benchmarks.vocabulary` with sentinels."""
    if not (folder / "tokenizer.json").is_file():
        raise SettingsError(f"{folder} holds no tokenizer.json")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    names = ["<pad>", "</s>", "<unk>", *FORMAT_PIECES]
    names += [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    expected = [PAD, EOS, UNK, 3, 4, 5, 6, *range(len(tokenizer) - SENTINELS, len(tokenizer))]
    if tokenizer.convert_tokens_to_ids(names) != expected:
        raise SettingsError(f"{folder}: the tokenizer's ids are not laid out as this package lays them out")
    return tokenizer


def write_split(
    folder: Path, name: str, lines: Iterable[str], tokenizer: PreTrainedTokenizerFast, shard_tokens: int
) -> dict[str, int]:
    """Tokenise lines into the shards of one part, and count."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # `</s>` in a text is text
    counts = {"shards": 0, "tokens": 0, "sentences": 0, "lines": 0}
    ids: list[NDArray[Any]] = []
    lengths: list[int] = []
    pending = 0

    def flush() -> None:
        nonlocal pending
        stem = folder / f"{name}-{counts['shards']:05d}"
        np.concatenate(ids).astype(TOKEN).tofile(stem.with_suffix(".tokens"))
        np.cumsum(lengths).astype(END).tofile(stem.with_suffix(".sentences"))
        counts["shards"] += 1
        counts["tokens"] += pending
        counts["sentences"] += len(lengths)
        ids.clear()
        lengths.clear()
        pending = 0

    source = iter(lines)
    with tqdm(desc=f"Tokenising {name}", unit=" lines") as bar:
        while block := list(islice(source, LINES_AT_ONCE)):
            parts = [sentences(line) for line in block]
            encoded = iter(backend.encode_batch([s for line in parts for s in line], add_special_tokens=False))
            for line in parts:
                line_ids = [next(encoded).ids for _ in line]
                size = sum(len(x) for x in line_ids)
                if pending and pending + size > shard_tokens:
                    flush()
                for sentence in line_ids:
                    if sentence:
                        ids.append(np.asarray(sentence))
                        lengths.append(len(sentence))
                pending += size
            counts["lines"] += len(block)
            bar.update(len(block))
    backend.encode_special_tokens = False
    if not lengths and not counts["shards"]:
        raise SettingsError(f"the {name} text is empty")
    if lengths:
        flush()
    return counts


def open_shards(folder: Path) -> Shards:
    """Shards, checked as a whole: files, digests, ids in range, ends in order.

    Raises:
        SettingsError: something is missing or is not as it was written.
    """
    if not (folder / "meta.json").is_file():
        raise SettingsError(f"{folder} holds no shards (no meta.json); make them with `tokenize`")
    meta = read_json(folder / "meta.json")
    if meta.get("format") != FORMAT or meta.get("sentinels") != SENTINELS or not isinstance(meta.get("files"), dict):
        raise SettingsError(f"{folder / 'meta.json'} is not of format {FORMAT}; make the shards again")
    for name, expected in meta["files"].items():
        if not (folder / name).is_file():
            raise SettingsError(f"{folder / name} is missing")
        if file_digest(folder / name) != expected:
            raise SettingsError(f"{folder / name} is not the file that was written (SHA-256 differs)")
    train, heldout = (open_split(folder, name, meta) for name in ("train", "heldout"))
    return Shards(folder, meta, train, heldout)


def open_split(folder: Path, name: str, meta: dict[str, Any]) -> Split:
    tokens, ends = [], []
    for path in sorted(folder / file for file in meta["files"] if file.startswith(f"{name}-")):
        if path.suffix == ".tokens":
            ids = np.memmap(path, dtype=TOKEN, mode="r")
            if not UNK < ids.min() <= ids.max() < meta["pieces"]:
                raise SettingsError(f"{path} has ids outside of {UNK + 1} to {meta['pieces'] - 1}")
            tokens.append(ids)
        else:
            ends.append(np.fromfile(path, dtype=END))
    for index, (shard, stops) in enumerate(zip(tokens, ends, strict=True)):
        if np.any(np.diff(stops.astype(np.int64), prepend=0) <= 0) or stops[-1] != len(shard):
            raise SettingsError(f"{folder / name}-{index:05d}.sentences does not divide its tokens")
    if not tokens:
        raise SettingsError(f"{folder} has no {name} part")
    return Split(name, tokens, ends)  # type: ignore[arg-type]


def digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8"), digest_size=12).digest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
