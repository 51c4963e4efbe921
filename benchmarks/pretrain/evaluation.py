"""What a pretrained model knows of held-out text: span corruption, and copying of whole sentences."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import GenerationConfig, T5ForConditionalGeneration

from .. import pretrained
from ..settings import SettingsError
from ..vocabulary import EOS, PAD
from .batches import Part, Sentences, copies, part
from .checkpoint import latest_checkpoint, load_weights, read_tensors
from .corruption import IGNORED, Ids, Mask, SpanShape, corrupt_spans, span_shape
from .model import new_model, token_losses
from .optimizer import ScaledAdamW
from .settings import SENTINELS, RunSettings
from .shards import Shards, Split, file_digest

SEED = 20_231
"""Of held-out spans and sentences: the same for all runs, so that their figures can be compared."""
ROWS = 32


class HeldOut:
    """Fixed windows and sentences of the held-out part, for a look in between.

    Args:
        windows, sentences: how many at most.
    """

    def __init__(
        self, split: Split, settings: RunSettings, vocab_size: int, windows: int = 512, sentences: int = 256
    ) -> None:
        self.pieces = vocab_size - SENTINELS
        self.shape = span_shape(settings)
        self.spans = list(span_parts(split, self.shape, vocab_size, windows))
        self.sentences = Sentences(split, settings.denoising_length, 1, SEED)
        self.chosen = chosen_sentences(self.sentences, sentences)

    def scores(self, model: Any, bf16: bool) -> dict[str, float]:
        """`span_loss` and `span_text_loss` in nats, and the share of tokens right when copying with the true prefix."""
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        right = count = 0
        with torch.no_grad():
            for clean, lengths in self.blocks():
                copied = copies(clean, lengths).to(device)
                shifted = torch.nn.functional.pad(copied.labels, (1, -1), value=PAD).clamp(min=PAD)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                    logits = model(
                        input_ids=copied.input_ids,
                        attention_mask=(copied.input_ids != PAD).long(),
                        decoder_input_ids=shifted,
                    ).logits
                counts = copied.labels != IGNORED
                right += int(((logits.argmax(-1) == copied.labels) & counts).sum())
                count += int(counts.sum())
        losses = span_losses(model, self.spans, self.pieces, bf16)
        model.train(was_training)
        return {"span_loss": losses["loss"], "span_text_loss": losses["text_loss"], "copied_tokens": right / count}

    def blocks(self) -> Iterator[tuple[Ids, Ids]]:
        for start in range(0, len(self.chosen), ROWS):
            yield self.sentences.take(self.chosen[start : start + ROWS], self.sentences.widths[-1])


def seen(split: Split, train: Split) -> list[Mask]:
    """Which sentences of a part stand in the training part, token for token; of each shard, shape (sentences,)."""
    known = {content for content, _, _ in contents(split)}
    found = {content for content, _, _ in contents(train) if content in known}
    result = [np.zeros(len(ends), dtype=bool) for ends in split.ends]
    for content, shard, sentence in contents(split):
        result[shard][sentence] = content in found
    return result


def contents(split: Split) -> Iterator[tuple[bytes, int, int]]:
    """The tokens of each sentence, its shard, and its number there."""
    for shard, (tokens, ends) in enumerate(zip(split.tokens, split.ends, strict=True)):
        start = 0
        for sentence, end in enumerate(ends.tolist()):
            yield tokens[start:end].tobytes(), shard, sentence
            start = end


def span_parts(
    split: Split, shape: SpanShape, vocab_size: int, limit: int | None, leave_out: list[Mask] | None = None
) -> Iterator[Part]:
    """Windows of a part of the shards from its beginning on, corrupted the same way each time.

    Args:
        limit: how many at most; None: all.
        leave_out: as `seen` gives it; windows with a token of such a sentence are not among them.

    Raises:
        SettingsError: there is not one window.
    """
    shards, starts = [], []
    for number, (tokens, ends) in enumerate(zip(split.tokens, split.ends, strict=True)):
        count = len(tokens) // shape.window
        kept = np.arange(count) * shape.window
        if leave_out is not None:
            bad = np.repeat(leave_out[number], np.diff(ends, prepend=np.uint32(0)).astype(np.int64))
            kept = kept[~bad[: count * shape.window].reshape(count, shape.window).any(axis=1)]
        shards.append(np.full(len(kept), number))
        starts.append(kept)
    shard, start = np.concatenate(shards)[:limit], np.concatenate(starts)[:limit]
    if not len(shard):
        raise SettingsError(f"the {split.name} part has no window of {shape.window} tokens")
    rng = np.random.default_rng(SEED)
    for first in range(0, len(shard), ROWS):
        chosen = slice(first, first + ROWS)
        yield part(*corrupt_spans(split.gather(shard[chosen], start[chosen], shape.window), shape, vocab_size, rng))


def chosen_sentences(sentences: Sentences, limit: int, leave_out: list[Mask] | None = None) -> NDArray[np.int64]:
    """Numbers of held-out sentences of at least 4 tokens, the shortest first; the same each time.

    Args:
        leave_out: as `seen` gives it; such sentences are not among them.
    """
    fits = (sentences.length >= 4) & (sentences.length < sentences.widths[-1])
    if leave_out is not None:
        fits &= ~np.concatenate(leave_out)
    fitting = np.flatnonzero(fits)
    if not len(fitting):
        raise SettingsError(
            f"the {sentences.split.name} part has no sentence of 4 to {sentences.widths[-1] - 1} tokens"
        )
    drawn = np.random.default_rng(SEED).permutation(fitting)[:limit]
    ordered: NDArray[np.int64] = drawn[np.argsort(sentences.length[drawn], kind="stable")]
    return ordered


@torch.no_grad()
def span_losses(model: Any, parts: list[Part], pieces: int, bf16: bool = False) -> dict[str, float]:
    """Mean -log p in nats: `loss` per target token, `text_loss` per target token that is neither sentinel nor end."""
    device = next(model.parameters()).device
    sums = np.zeros(4)
    for corrupted in parts:
        losses = token_losses(model, corrupted.to(device), bf16).double().cpu()
        text = (corrupted.labels != EOS) & (corrupted.labels < pieces)
        sums += [losses.sum().item(), losses.numel(), losses[text].sum().item(), int(text.sum())]
    return {"loss": float(sums[0] / sums[1]), "text_loss": float(sums[2] / sums[3])}


def unigram_losses(counts: NDArray[np.int64], parts: list[Part], shape: SpanShape) -> dict[str, float]:
    """The same of a model that knows how often each piece occurs in the training part, and the form of a target.

    It gives the ids of sentinels and end their share of a target, and each piece its share of the rest, by counts plus
    one; the place in the target it does not know. A piece costs it what says that text comes here, too, as it costs a
    model whose softmax goes over all ids.

    Args:
        counts: of each piece in the training part, shape (pieces,).
    """
    smoothed = counts + 1.0
    smoothed[: EOS + 2] = 0
    log_text = np.log(np.maximum(smoothed, 1e-300) / smoothed.sum())
    kinds = math.log(shape.target)
    text_share = math.log(shape.noise / shape.target)
    total = text_total = 0.0
    number = text_number = 0
    for corrupted in parts:
        labels = corrupted.labels.numpy()
        text = (labels != EOS) & (labels < len(counts))
        pieces = -log_text[labels[text]].sum()
        total += pieces - text_share * text.sum() + kinds * (~text).sum()
        number += labels.size
        text_total += pieces
        text_number += int(text.sum())
    return {"loss": float(total / number), "text_loss": float(text_total / text_number) - text_share}


@torch.no_grad()
def exact_copies(model: Any, sentences: Sentences, chosen: NDArray[np.int64]) -> float:
    """Share of sentences that greedy decoding writes again token for token."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    right = 0
    for first in range(0, len(chosen), ROWS):
        numbers = chosen[first : first + ROWS]
        copied = copies(*sentences.take(numbers, int(sentences.length[numbers].max()) + 1)).to(device)
        width = copied.labels.shape[1]
        written = model.generate(
            input_ids=copied.input_ids,
            attention_mask=(copied.input_ids != PAD).long(),
            generation_config=GenerationConfig(
                max_new_tokens=width, do_sample=False, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD
            ),
        )[:, 1:]
        written = torch.nn.functional.pad(written, (0, width - written.shape[1]), value=PAD)
        same = (written == copied.labels) | (copied.labels == IGNORED)
        right += int(same.all(dim=1).sum())
    model.train(was_training)
    return right / len(chosen)


def train_to_copy(model: Any, split: Split, settings: RunSettings, steps: int, rate: float, description: str) -> None:
    """Train on sentences of the training part as source and as target, some 32 in a step; the rate rises and falls."""
    sentences = Sentences(split, settings.denoising_length, ROWS * settings.denoising_length // 2, SEED)
    optimizer = ScaledAdamW(dict(model.named_parameters()), settings)
    device = next(model.parameters()).device
    model.train()
    for step in tqdm(range(steps), desc=description):
        copied = copies(*sentences.batch(step)).to(device)
        losses = token_losses(model, copied, settings.bf16)
        (losses.sum() / (copied.labels != IGNORED).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step(step, rate * min(1.0, (step + 1) / 20, (steps - step) / (0.3 * steps)))


def load_model(source: Path, settings: RunSettings, shards: Shards, device: torch.device) -> T5ForConditionalGeneration:
    """The model of a run's latest checkpoint, in the precision that `export` writes, or one that it wrote with the
    vocabulary of these shards; float32.
    """
    if (source / "run.json").is_file():
        model = new_model(settings, shards.vocab_size)
        path = latest_checkpoint(source) / "model.safetensors"
        load_weights(dict(model.named_parameters()), read_tensors(path), str(path))
        return model.bfloat16().float().to(device)
    if not (source / "config.json").is_file():
        raise SettingsError(f"{source} is neither a run nor a model: it has no run.json and no config.json")
    own = source / "tokenizer.json"
    if not own.is_file() or file_digest(own) != file_digest(shards.tokenizer_folder / "tokenizer.json"):
        raise SettingsError(f"{source} has another vocabulary than {shards.folder}")
    loaded: T5ForConditionalGeneration = pretrained.load_model(str(source))[0]
    return loaded.to(device)  # type: ignore[arg-type]


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names and values, these in bfloat16, as they are shipped."""
    total = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return total.hexdigest()


def evaluate(
    source: Path,
    settings: RunSettings,
    shards: Shards,
    device: torch.device,
    *,
    copy_steps: int = 200,
    copy_rate: float = 5e-3,
    sentences: int = 200,
    windows: int | None = None,
) -> dict[str, Any]:
    """Held-out figures of a model, of a unigram model, and of a model with the same configuration before any training.

    Sentences that stand in the training part, too, are left out with all windows that they are in.

    Args:
        source: a run or an exported model.
        settings: of the run; lengths of windows and sentences, and the configuration.
        copy_steps: of training to copy, between the two looks at exact copies.
        copy_rate: its peak rate, relative to the RMS of each tensor.
        sentences: how many are to be copied.
        windows: how many windows at most; None: all.
    """
    if not (math.isfinite(copy_rate) and copy_rate > 0):
        raise SettingsError(f"copy_rate={copy_rate!r} must be a number greater than 0")
    for name, value in (("copy_steps", copy_steps), ("sentences", sentences), ("windows", windows)):
        if value is not None and value < (0 if name == "copy_steps" else 1):
            raise SettingsError(f"{name}={value!r} is too small")
    shape = span_shape(settings)
    known = seen(shards.heldout, shards.train)
    parts = list(span_parts(shards.heldout, shape, shards.vocab_size, windows, known))
    heldout = Sentences(shards.heldout, settings.denoising_length, 1, SEED)
    chosen = chosen_sentences(heldout, sentences, known)
    result: dict[str, Any] = {
        "seen_sentences": int(sum(map(np.sum, known))),
        "windows": sum(len(corrupted.labels) for corrupted in parts),
        "target_tokens": sum(corrupted.labels.numel() for corrupted in parts),
        "sentences": len(chosen),
        "copy_steps": copy_steps,
        "copy_rate": copy_rate,
        "unigram": unigram_losses(shards.train.counts(shards.pieces), parts, shape),
    }
    for name in ("model", "random"):
        model = (
            load_model(source, settings, shards, device) if name == "model" else new_model(settings, shards.vocab_size)
        )
        model = model.to(device).eval()  # type: ignore[arg-type]
        if name == "model":
            result["weights"] = weights_digest(model)
        figures: dict[str, float] = span_losses(model, parts, shards.pieces, settings.bf16)
        figures["exact_copies_before"] = exact_copies(model, heldout, chosen)
        if copy_steps:
            torch.manual_seed(SEED)
            train_to_copy(model, shards.train, settings, copy_steps, copy_rate, f"Copying ({name})")
            figures["exact_copies_after"] = exact_copies(model, heldout, chosen)
        result[name] = figures
    return result
