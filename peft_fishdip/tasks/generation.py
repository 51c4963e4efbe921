"""From a model and raw sentences to typed predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from .base import Decoded, Problem, Scores, Task
from .coders import Coder, coder_for
from .families import SEQUENCES, TOKENS, task_type
from .labelling import label
from .lengths import check_positive, check_tokenizer, read_sources, source_room, sources_cut, text_of
from .modes import evaluating
from .prompts import Template
from .windows import in_windows, unlabelled

E = TypeVar("E")


def generate(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    template: Template | None = None,
    chat: bool = False,
    batch_size: int = 32,
    num_beams: int = 1,
    max_source_length: int = 512,
    max_new_tokens: int = 512,
    truncation_side: str = "right",
    progress: bool = True,
) -> list[str]:
    """Generated text of each source, in the order given.

    Greedy by default; `num_beams` > 1 searches. Sources are batched by length, longest first, so that little
    is padded and running out of memory shows at once. A source longer than `max_source_length` tokens, or than what
    the model can read, loses its end, or its beginning with `truncation_side="left"`, and a text ends after
    `max_new_tokens` tokens; a warning counts both. The model's mode (train or eval) is restored. `template` and `chat`
    are those of `to_features`.
    """
    if isinstance(sources, str):
        raise TypeError("generate takes a list of sources; put the one source into a list")
    coder = coder_for(model, tokenizer, template, chat)
    check_positive(
        batch_size=batch_size,
        num_beams=num_beams,
        max_source_length=max_source_length,
        max_new_tokens=max_new_tokens,
    )
    most = source_room(model, tokenizer, max_source_length, max_new_tokens)
    features = coder.sources(sources)
    told = sources_cut([len(ids) for ids in features], most)
    if told:
        warnings.warn(told, stacklevel=2)
        for i, ids in enumerate(features):
            if len(ids) > most:
                features[i] = coder.cut_source(sources[i], most, truncation_side)
    written = _write(model, coder, features, batch_size, num_beams, max_new_tokens, progress)
    _warn_of_outputs(written, max_new_tokens, stacklevel=3)
    return [text for text, _ in written]


@torch.inference_mode()
def _write(
    model: Any,
    coder: Coder,
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
    with evaluating(model), tqdm(total=len(order), desc="Generating", delay=2, disable=not progress) as bar:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = coder.padded([features[i] for i in chosen])
            output = model.generate(
                **{key: value.to(device) for key, value in batch.items()},
                **coder.generation_options,
                do_sample=False,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
            )
            for i, ids in zip(chosen, coder.written(batch, output).tolist(), strict=True):
                whole = (
                    len(ids) < max_new_tokens or not coder.end_ids or not coder.end_ids.isdisjoint(ids[coder.starts :])
                )
                written[i] = text_of(coder.tokenizer, ids), not whole
            bar.update(len(chosen))
    return written


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

    `options` are those of `generate`; an encoder needs none but `batch_size` and `max_source_length`. A text in which
    NerTask or JointTask cannot find everything at once is read in windows that overlap, unless `windows=False`. Of any
    other source that is too long, the model reads the part that the task chooses (`Task.shorten`); such predictions
    have a problem "source_cut", those whose text was cut "output_cut", and a warning counts them. `text_spans` of a
    prediction are characters of the raw text. Raises ValueError if the tokenizer cannot write the names of the task's
    labels, or if the model and the task do not fit. Example:
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
    template: Template | None = None,
    chat: bool = False,
    batch_size: int = 32,
    num_beams: int = 1,
    max_source_length: int = 512,
    max_new_tokens: int = 512,
    truncation_side: str | None = None,
    progress: bool = True,
    windows: bool = True,
) -> list[Decoded[E]]:
    if isinstance(texts, str):
        raise TypeError("predict takes a list of texts; put the one text into a list")
    if task_type(model) in (TOKENS, SEQUENCES):
        return label(model, tokenizer, task, texts, batch_size, max_source_length, progress, windows)
    coder = coder_for(model, tokenizer, template, chat)
    check_positive(
        batch_size=batch_size,
        num_beams=num_beams,
        max_source_length=max_source_length,
        max_new_tokens=max_new_tokens,
    )
    check_tokenizer(task, tokenizer)
    documents = [unlabelled(task.as_example(text)) for text in texts]
    most = source_room(model, tokenizer, max_source_length, max_new_tokens)

    def length(example: E) -> int:
        return len(coder.sources([task.source(example)])[0])

    # What is read is written again, with labels.
    once, each = min(most, max_new_tokens), min(most, max_new_tokens // 2)
    read = in_windows(task, documents, lambda x: length(x) <= once, lambda x: length(x) <= each, each if windows else 0)
    examples = read.parts
    sources = read_sources(task, coder, examples, most, truncation_side)
    if told := sources_cut([source.num_tokens for source in sources], most):
        warnings.warn(told, stacklevel=3)
    written = _write(model, coder, [source.ids for source in sources], batch_size, num_beams, max_new_tokens, progress)
    _warn_of_outputs(written, max_new_tokens)
    results = []
    for example, source, (text, is_cut) in zip(examples, sources, written, strict=True):
        decoded = task.decode(source.read, text)
        problems = [*source.problems, *decoded.problems]
        if is_cut:
            message = f"the text was cut after max_new_tokens={max_new_tokens} tokens"
            problems.insert(0, Problem("output_cut", message))
        if source.problems:
            decoded = replace(decoded, prediction=task.restore(example, decoded.prediction))
        results.append(replace(decoded, problems=tuple(problems)))
    return read.merged(results)


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    examples: Sequence[E],
    *,
    reference: bool = False,
    **options: Any,
) -> Scores:
    """Predict every example, see `predict`, and score the predictions with the task's metrics."""
    return task.score(examples, _predict(model, tokenizer, task, examples, **options), reference=reference)
