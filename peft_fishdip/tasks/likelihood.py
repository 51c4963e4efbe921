"""Classification by likelihood: the candidate relation whose target text is most likely."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from .base import check_lengths
from .generation import check_model, check_positive, evaluating
from .lengths import check_tokenizer, read_sources, sources_cut
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
    batch_size: int = 32,
    max_length: int = 256,
    reference: bool = False,
    progress: bool = True,
) -> list[list[float]]:
    """-log p(target of the label | source) for every example and candidate label, shape (examples, labels).

    Summed over the target's tokens. Of a sentence whose source is longer than `max_length` tokens, the parts around
    head and tail are read; a warning counts these. `reference=True` gives the loss of the reference: targets are cut
    or padded to `max_length`, padding counts as if it were to be generated, and the mean is taken over all positions.
    Raises ValueError if the tokenizer cannot write the names of the task's labels.
    """
    check_model(model)
    check_positive(batch_size=batch_size, max_length=max_length)
    check_tokenizer(task, tokenizer)
    sources = read_sources(task, tokenizer, examples, max_length)
    if told := sources_cut([source.num_tokens for source in sources], max_length, "max_length"):
        warnings.warn(told, stacklevel=2)
    pairs = []
    num_cut = 0
    for row, example in enumerate(examples):
        texts = [task.candidate(example, label) for label in labels]
        targets = tokenizer(text_target=texts, verbose=False)["input_ids"]
        if reference and any(len(target) > max_length for target in targets):
            num_cut += sum(len(target) > max_length for target in targets)
            targets = tokenizer(text_target=texts, truncation=True, max_length=max_length)["input_ids"]
        pairs += [(row, column, sources[row].ids, target) for column, target in enumerate(targets)]
    if num_cut:
        warnings.warn(
            f"{num_cut} of {len(pairs)} targets are longer than max_length={max_length} tokens and were cut, as in the "
            "reference; their relations are not told apart. Pass a larger max_length",
            stacklevel=2,
        )
    pairs.sort(key=lambda pair: (-len(pair[2]), -len(pair[3])))
    losses = [[0.0] * len(labels) for _ in examples]
    device = next(model.parameters()).device
    with (
        torch.inference_mode(),
        evaluating(model),
        tqdm(total=len(pairs), desc="Scoring", delay=2, disable=not progress) as bar,
    ):
        for first in range(0, len(pairs), batch_size):
            chosen = pairs[first : first + batch_size]
            batch = tokenizer.pad({"input_ids": [pair[2] for pair in chosen]}, return_tensors="pt").to(device)
            width = max_length if reference else max(len(pair[3]) for pair in chosen)
            padding = tokenizer.pad_token_id if reference else -100
            targets = [pair[3] + [padding] * (width - len(pair[3])) for pair in chosen]
            target_ids = torch.tensor(targets, device=device)
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=target_ids
            ).logits
            token_losses = torch.nn.functional.cross_entropy(
                logits.float().transpose(1, 2), target_ids, reduction="none", ignore_index=-100
            )
            sums = (token_losses.mean(1) if reference else token_losses.sum(1)).tolist()
            for (row, column, _, _), loss in zip(chosen, sums, strict=True):
                losses[row][column] = loss
            bar.update(len(chosen))
    return losses
