"""From a model and raw sentences to typed predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from .base import Decoded, Scores, Task

E = TypeVar("E")


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    batch_size: int = 32,
    num_beams: int = 1,
    max_source_length: int = 512,
    max_new_tokens: int = 512,
    truncation_side: str = "right",
    progress: bool = True,
) -> list[str]:
    """Generated text of each source, in the order given.

    Greedy by default; `num_beams` > 1 searches. Sources are batched by length, longest first, so that little
    is padded and running out of memory shows at once. A source longer than `max_source_length` tokens loses
    its end, or its beginning with `truncation_side="left"`. The model's mode (train or eval) is restored.
    """
    if isinstance(sources, str):
        raise TypeError("generate takes a list of sources; put the one source into a list")
    check_model(model)
    check_positive(
        batch_size=batch_size,
        num_beams=num_beams,
        max_source_length=max_source_length,
        max_new_tokens=max_new_tokens,
    )
    features = encode_sources(tokenizer, sources, max_source_length, truncation_side)
    order = sorted(range(len(features)), key=lambda i: -len(features[i]))
    texts = [""] * len(sources)
    device = next(model.parameters()).device
    with evaluating(model), tqdm(total=len(order), desc="Generating", delay=2, disable=not progress) as bar:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = tokenizer.pad({"input_ids": [features[i] for i in chosen]}, return_tensors="pt").to(device)
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
            )
            for i, ids in zip(chosen, output.tolist(), strict=True):
                texts[i] = text_of(tokenizer, ids)
            bar.update(len(chosen))
    return texts


def predict(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    texts: Sequence[E | str | Sequence[str]],
    **options: Any,
) -> list[Decoded[E]]:
    """Typed predictions for raw sentences, token lists or records, one each.

    `options` are those of `generate`. Example:
        for result in predict(model, tokenizer, NerTask(["person"]), ["Ann met Bo."]):
            print(result.prediction.spans, result.problems)
    """
    if isinstance(texts, str):
        raise TypeError("predict takes a list of texts; put the one text into a list")
    examples = [task.as_example(text) for text in texts]
    sources = [task.source(example) for example in examples]
    options.setdefault("truncation_side", task.truncation_side)
    generated = generate(model, tokenizer, sources, **options)
    return [task.decode(example, text) for example, text in zip(examples, generated, strict=True)]


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    examples: Sequence[E],
    *,
    reference: bool = False,
    **options: Any,
) -> Scores:
    """Generate for every example and score the predictions with the task's metrics."""
    return task.score(examples, predict(model, tokenizer, task, examples, **options), reference=reference)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of generated token ids, without padding, end mark and sentinels but with `<unk>`.

    A word the vocabulary lacks stays a word that way, and is aligned to the one it stands for.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.discard(tokenizer.unk_token_id)
    kept = [i for i in ids if i not in special]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encode_sources(tokenizer: Any, sources: Sequence[str], max_length: int, truncation_side: str) -> list[list[int]]:
    """Token ids of each source, cut to `max_length` at the given side; special tokens are kept."""
    if not sources:
        return []
    side, tokenizer.truncation_side = tokenizer.truncation_side, truncation_side
    try:
        encoded = tokenizer(list(sources), truncation=True, max_length=max_length)
    finally:
        tokenizer.truncation_side = side
    return list(encoded["input_ids"])


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode, put back into train mode afterwards if it was in it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_model(model: Any) -> None:
    """Refuse models without an encoder."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} is no encoder-decoder model; the tasks are written for models such as T5"
        )


def check_positive(**values: int) -> None:
    """Refuse sizes and counts below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
