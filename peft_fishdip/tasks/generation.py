"""From a model and raw sentences to typed predictions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from .base import Decoded, Problem, Scores, Task
from .lengths import check_tokenizer, cut, read_sources, sources_cut, text_of, token_ids

E = TypeVar("E")


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
    its end, or its beginning with `truncation_side="left"`, and a text ends after `max_new_tokens` tokens; a warning
    counts both. The model's mode (train or eval) is restored.
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
    features = token_ids(tokenizer, sources)
    told = sources_cut([len(ids) for ids in features], max_source_length)
    if told:
        warnings.warn(told, stacklevel=2)
        long = [i for i, ids in enumerate(features) if len(ids) > max_source_length]
        shorter = cut(tokenizer, [sources[i] for i in long], max_source_length, truncation_side)
        for i, ids in zip(long, shorter, strict=True):
            features[i] = ids
    written = _write(model, tokenizer, features, batch_size, num_beams, max_new_tokens, progress)
    _warn_of_outputs(written, max_new_tokens, stacklevel=3)
    return [text for text, _ in written]


@torch.inference_mode()
def _write(
    model: Any,
    tokenizer: Any,
    features: Sequence[list[int]],
    batch_size: int,
    num_beams: int,
    max_new_tokens: int,
    progress: bool,
) -> list[tuple[str, bool]]:
    """What the model writes for token ids, and whether it was stopped before its end."""
    order = sorted(range(len(features)), key=lambda i: -len(features[i]))
    written = [("", False)] * len(features)
    device = next(model.parameters()).device
    ends = _end_ids(model, tokenizer)
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
                whole = len(ids) < max_new_tokens or not ends or not ends.isdisjoint(ids[1:])
                written[i] = text_of(tokenizer, ids), not whole
            bar.update(len(chosen))
    return written


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end a text."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id]
    return {end for end in ends if end is not None}


def _warn_of_outputs(written: Sequence[tuple[str, bool]], max_new_tokens: int, stacklevel: int = 4) -> None:
    count = sum(cut for _, cut in written)
    if count:
        warnings.warn(
            f"{count} of {len(written)} outputs were cut after max_new_tokens={max_new_tokens} tokens (output_cut): "
            "what would follow is missing. Pass a larger max_new_tokens, or split the texts; a model that has not "
            "learnt to end its texts needs more training",
            stacklevel=stacklevel,
        )


def predict(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    texts: Sequence[E | str | Sequence[str]],
    **options: Any,
) -> list[Decoded[E]]:
    """Typed predictions for raw sentences, token lists or records, one each.

    `options` are those of `generate`. Of a source that is too long, the model reads the part that the task chooses
    (`Task.shorten`); such predictions have a problem "source_cut", those whose text was cut "output_cut", and a
    warning counts them. Raises ValueError if the tokenizer cannot write the names of the task's labels. Example:
        for result in predict(model, tokenizer, NerTask(["person"]), ["Ann met Bo."]):
            print(result.prediction.spans, result.problems)
    """
    return _predict(model, tokenizer, task, texts, **options)


def _predict(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    texts: Sequence[E | str | Sequence[str]],
    *,
    batch_size: int = 32,
    num_beams: int = 1,
    max_source_length: int = 512,
    max_new_tokens: int = 512,
    truncation_side: str | None = None,
    progress: bool = True,
) -> list[Decoded[E]]:
    if isinstance(texts, str):
        raise TypeError("predict takes a list of texts; put the one text into a list")
    check_model(model)
    check_positive(
        batch_size=batch_size,
        num_beams=num_beams,
        max_source_length=max_source_length,
        max_new_tokens=max_new_tokens,
    )
    check_tokenizer(task, tokenizer)
    examples = [task.as_example(text) for text in texts]
    sources = read_sources(task, tokenizer, examples, max_source_length, truncation_side)
    if told := sources_cut([source.num_tokens for source in sources], max_source_length):
        warnings.warn(told, stacklevel=3)
    written = _write(
        model, tokenizer, [source.ids for source in sources], batch_size, num_beams, max_new_tokens, progress
    )
    _warn_of_outputs(written, max_new_tokens)
    results = []
    for given, example, source, (text, is_cut) in zip(texts, examples, sources, written, strict=True):
        # A raw text stays one, so that its tokens may be split where a prediction asks for it.
        decoded = task.decode(source.read if source.problems else given, text)
        problems = [*source.problems, *decoded.problems]
        if is_cut:
            message = f"the text was cut after max_new_tokens={max_new_tokens} tokens"
            problems.insert(0, Problem("output_cut", message))
        if source.problems:
            decoded = replace(decoded, prediction=task.restore(example, decoded.prediction))
        results.append(replace(decoded, problems=tuple(problems)))
    return results


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
    return task.score(examples, _predict(model, tokenizer, task, examples, **options), reference=reference)


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
