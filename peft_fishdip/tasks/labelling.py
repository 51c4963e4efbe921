"""Predictions of encoders with a classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .base import Decoded, Task
from .checks import check_positive
from .coders import TwoTexts
from .families import TOKENS, sequence_classes, task_type, token_classes
from .lengths import read_sources, source_cut, source_room, sources_cut
from .modes import evaluating
from .windows import in_windows

E = TypeVar("E")


def label(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    examples: Sequence[E],
    batch_size: int,
    max_source_length: int,
    progress: bool,
    windows: bool,
) -> list[Decoded[E]]:
    """Predictions of a token or sequence classifier for unlabelled records, one each; arguments as of `predict`.

    Examples that are too long, and not read in windows, have the problem "source_cut" and no confidence, since some
    words have no probability; a warning counts them.
    """
    check_positive(batch_size=batch_size, max_source_length=max_source_length)
    most = source_room(model, tokenizer, max_source_length)
    read = None
    if task_type(model) == TOKENS:
        tags = token_classes(task, model)
        if windows:

            def fits(example: E) -> bool:
                return tags.num_tokens(tokenizer, example) <= most

            read = in_windows(task, examples, fits, fits, most)
            examples = read.parts
        readings = [tags.read(tokenizer, example, most) for example in examples]
        lengths = [reading.num_tokens for reading in readings]
        logits = all_logits(model, tokenizer, [reading.ids for reading in readings], batch_size, progress)
        found = [tags.decode(*each) for each in zip(examples, readings, logits, strict=True)]
    else:
        classes = sequence_classes(task, model)
        sources = read_sources(task, TwoTexts(tokenizer), examples, most)
        lengths = [source.num_tokens for source in sources]
        logits = all_logits(model, tokenizer, [source.ids for source in sources], batch_size, progress)
        found = [classes.decode(*each) for each in zip(examples, logits, strict=True)]
    if told := sources_cut(lengths, most):
        warnings.warn(told, stacklevel=5)
    results = [
        replace(decoded, problems=(source_cut(length, most), *decoded.problems), confidence=None)
        if length > most
        else decoded
        for decoded, length in zip(found, lengths, strict=True)
    ]
    return read.merged(results) if read else results


@torch.inference_mode()
def all_logits(
    model: Any, tokenizer: Any, rows: Sequence[list[int]], batch_size: int, progress: bool
) -> Iterator[Tensor]:
    """Of each row its logits, (tokens, classes) without those of padding, or (classes,) of a sequence classifier."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: dict[int, Tensor] = {}
    device = next(model.parameters()).device
    with evaluating(model), tqdm(total=len(order), desc="Labelling", delay=2, disable=not progress) as bar:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            ).to(device)
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float().cpu()
            for i, row in zip(chosen, logits, strict=True):
                found[i] = row[: len(rows[i])] if row.dim() == 2 else row
            bar.update(len(chosen))
    return (found[i] for i in range(len(rows)))
