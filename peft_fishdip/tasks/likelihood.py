"""Classification by likelihood: the candidate relation whose target text is most likely."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from .base import check_lengths
from .checks import check_positive
from .coders import Coder, TwoTexts, coder_for
from .families import CAUSAL, SEQ2SEQ, SEQUENCES, sequence_classes, task_type
from .labelling import all_logits
from .lengths import check_tokenizer, read_sources, source_room, sources_cut
from .modes import evaluating
from .prompts import Template
from .records import RelationExample
from .relation import RelationTask


def choose(losses: Sequence[Sequence[float]], labels: Sequence[str]) -> list[str]:
    """Label of the lowest loss in each row (the first of equal ones); one column per label."""
    chosen = []
    for row in losses:
        if len(row) != len(labels):
            raise ValueError(f"a row has {len(row)} losses for {len(labels)} labels")
        if any(loss != loss for loss in row):
            raise ValueError(f"a loss is not a number in {list(row)}")
        chosen.append(labels[min(range(len(row)), key=row.__getitem__)])
    return chosen


def likelihood_accuracy(losses: Sequence[Sequence[float]], labels: Sequence[str], gold: Sequence[str | None]) -> float:
    """Share of examples whose own label has the lowest loss among the candidates."""
    check_lengths(gold, losses)
    return sum(g == c for g, c in zip(gold, choose(losses, labels), strict=True)) / len(gold) if gold else 0.0


def candidate_losses(
    model: Any,
    tokenizer: Any,
    task: RelationTask,
    examples: Sequence[RelationExample],
    labels: Sequence[str],
    *,
    template: Template | None = None,
    chat: bool = False,
    batch_size: int = 32,
    max_length: int = 256,
    reference: bool = False,
    progress: bool = True,
) -> list[list[float]]:
    """-log p(target of the label | source) for every example and candidate label, shape (examples, labels).

    Summed over the target's tokens. Of a sentence whose source is longer than `max_length` tokens, the parts around
    head and tail are read; a warning counts these. A sequence classifier gives -log p of each label among these.
    `template` and `chat` are those of `to_features`. `reference=True` gives the loss of the reference, for
    encoder-decoder models: targets are cut or padded to `max_length`, padding counts as if it were to be generated, and
    the mean is taken over all positions. Raises ValueError if the tokenizer cannot write the names of the task's
    labels.
    """
    kind = task_type(model)
    if reference and kind != SEQ2SEQ:
        raise ValueError(f"reference=True is the loss of encoder-decoder models, and {type(model).__name__} is none")
    check_positive(batch_size=batch_size, max_length=max_length)
    coder: Coder = TwoTexts(tokenizer) if kind == SEQUENCES else coder_for(model, tokenizer, template, chat)
    targets = [[task.candidate(example, label) for label in labels] for example in examples]
    coded = [coder.targets(texts) for texts in targets]
    if kind != SEQUENCES:
        check_tokenizer(task, tokenizer)
    longest_target = max((len(target) for row in coded for target in row), default=0)
    most = source_room(model, tokenizer, max_length, longest_target if kind == CAUSAL else 0)
    sources = read_sources(task, coder, examples, most)
    if told := sources_cut([source.num_tokens for source in sources], most, "max_length"):
        warnings.warn(told, stacklevel=2)
    if kind == SEQUENCES:
        logits = all_logits(model, tokenizer, [source.ids for source in sources], batch_size, progress)
        return sequence_classes(task, model).losses(torch.stack([*logits]), labels).tolist() if examples else []
    if reference and longest_target > max_length:
        coded = [[coder.cut_target(text, max_length) for text in texts] for texts in targets]
        _warn_of_cut_targets(tokenizer, targets, max_length)
    pairs = [
        (row, column, source.ids, target)
        for row, (source, some) in enumerate(zip(sources, coded, strict=True))
        for column, target in enumerate(some)
    ]
    pairs.sort(key=lambda pair: (-len(pair[2]), -len(pair[3])))
    losses = [[0.0] * len(labels) for _ in examples]
    with (
        torch.inference_mode(),
        evaluating(model),
        tqdm(total=len(pairs), desc="Scoring", delay=2, disable=not progress) as bar,
    ):
        for first in range(0, len(pairs), batch_size):
            chosen = pairs[first : first + batch_size]
            some = [pair[3] for pair in chosen]
            if reference:
                some = [target + [tokenizer.pad_token_id] * (max_length - len(target)) for target in some]
            token_losses = coder.token_losses(model, [pair[2] for pair in chosen], some)
            sums = (token_losses.mean(1) if reference else token_losses.sum(1)).tolist()
            for (row, column, _, _), loss in zip(chosen, sums, strict=True):
                losses[row][column] = loss
            bar.update(len(chosen))
    return losses


def _warn_of_cut_targets(tokenizer: Any, targets: Sequence[Sequence[str]], max_length: int) -> None:
    lengths = [len(ids) for texts in targets for ids in tokenizer(text_target=list(texts), verbose=False)["input_ids"]]
    warnings.warn(
        f"{sum(length > max_length for length in lengths)} of {len(lengths)} targets are longer than "
        f"max_length={max_length} tokens and were cut, as in the reference; their relations are not told apart. Pass a "
        "larger max_length",
        stacklevel=3,
    )
