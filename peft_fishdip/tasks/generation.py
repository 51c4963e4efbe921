"""From a model and raw sentences to typed predictions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import exp
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm.auto import tqdm
from transformers import LogitsProcessorList

from .base import Decoded, Problem, Scores, Task
from .calibration import calibration_of
from .checks import check_flags, check_is_task, check_is_tokenizer, check_items, check_positive, check_unicode
from .coders import Coder, coder_for
from .constraint import Constraint, Path, Reading
from .families import SEQUENCES, TOKENS, task_type
from .gold import check_gold
from .grammar import Grammar
from .labelling import label
from .lengths import (
    Source,
    check_side,
    check_tokenizer,
    position_limit,
    read_sources,
    source_room,
    sources_cut,
    text_of,
)
from .modes import evaluating
from .pieces import TokenizerPieces
from .prompts import Template
from .windows import can_be_halved, in_windows, reads_windows, unlabelled

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
    check_items("sources", sources, "a list of sources")
    check_unicode("sources", sources)
    coder = coder_for(model, tokenizer, template, chat)
    check_positive(
        batch_size=batch_size,
        num_beams=num_beams,
        max_source_length=max_source_length,
        max_new_tokens=max_new_tokens,
    )
    check_side(truncation_side)
    most = source_room(model, tokenizer, max_source_length, max_new_tokens)
    features = coder.sources(sources)
    told = sources_cut([len(ids) for ids in features], most)
    if told:
        warnings.warn(told, stacklevel=2)
        for i, ids in enumerate(features):
            if len(ids) > most:
                features[i] = coder.cut_source(sources[i], most, truncation_side)
    written = dict(_write(model, coder, features, batch_size, num_beams, max_new_tokens, progress))
    _warn_of_outputs([output.is_cut for output in written.values()], max_new_tokens, stacklevel=3)
    return [written[i].text for i in range(len(features))]


class Output(NamedTuple):
    """What a model writes, whether it was stopped before its end, and how a grammar reads it."""

    text: str
    is_cut: bool
    reading: Reading | None = None


@torch.inference_mode()
def _write(
    model: Any,
    coder: Coder,
    features: Sequence[list[int]],
    batch_size: int,
    num_beams: int,
    max_new_tokens: int,
    progress: bool,
    path: Callable[[int], Path | None] = lambda number: None,
) -> Iterator[tuple[int, Output]]:
    """What the model writes for token ids, with their number, in any order; along the path of each, if it has one."""
    order = sorted(range(len(features)), key=lambda i: -len(features[i]))
    device = next(model.parameters()).device
    with evaluating(model), tqdm(total=len(order), desc="Generating", delay=2, disable=not progress) as bar:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = coder.padded([features[i] for i in chosen])
            paths = [found for i in chosen if (found := path(i))]
            constraint = Constraint(paths) if len(paths) == len(chosen) else None
            limit = max(path.limit for path in paths) if constraint else max_new_tokens
            begun = constraint.begin(model, batch, limit - 1) if constraint else {}
            output = model.generate(
                **{key: value.to(device) for key, value in (batch | begun).items()},
                **coder.generation_options,
                **({"logits_processor": LogitsProcessorList([constraint])} if constraint else {}),
                do_sample=False,
                num_beams=num_beams,
                max_new_tokens=limit - (constraint.num_begun if constraint else 0),
            )
            for row, (i, ids) in enumerate(zip(chosen, coder.written(batch, output).tolist(), strict=True)):
                whole = len(ids) < limit or not coder.end_ids or not coder.end_ids.isdisjoint(ids[coder.starts :])
                reading = constraint.paths[row].read(ids[coder.starts :]) if constraint else None
                if reading:
                    yield i, Output(reading.text, reading.limited, reading)
                else:
                    yield i, Output(text_of(coder.tokenizer, ids), not whole)
            bar.update(len(chosen))


def _warn_of_outputs(cut: Sequence[bool], max_new_tokens: int, stacklevel: int = 4) -> None:
    if any(cut):
        warnings.warn(
            f"{sum(cut)} of {len(cut)} outputs were cut after max_new_tokens={max_new_tokens} tokens (output_cut): "
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

    `options` are those of `generate`, `constrained` and `windows`; an encoder needs none but `batch_size`,
    `max_source_length` and `windows`. With `constrained=True`, the default, a model can write nothing but what the task
    can read: the sentence as it stands, brackets, known labels, and tails of relations that are entities
    (`Task.grammar`). Each answer then has a probability (`Decoded.scores`). By default a text has room for a bracket
    around each word, or 512 tokens without a grammar; what would not fit into `max_new_tokens` is not written.

    A text in which NerTask or JointTask cannot find everything at once is read in windows that overlap, and in shorter
    ones where the model was stopped by `max_new_tokens`, unless `windows=False`. Of any other source that is too long,
    the model reads the part that the task chooses (`Task.shorten`); such predictions have a problem "source_cut", those
    whose text was cut "output_cut", and a warning counts them.

    `text_spans` of a prediction are characters of the raw text. Raises ValueError if the tokenizer cannot write the
    names of the task's labels, or if the model and the task do not fit. Example:

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
    max_new_tokens: int | None = None,
    truncation_side: str | None = None,
    progress: bool = True,
    constrained: bool = True,
    windows: bool = True,
) -> list[Decoded[E]]:
    if isinstance(texts, str):
        raise TypeError("predict takes a list of texts; put the one text into a list")
    check_is_task(task)
    check_is_tokenizer(tokenizer)
    check_items("texts", texts, "a list of texts, token lists or records")
    check_flags(progress=progress, constrained=constrained, windows=windows)
    check_side(truncation_side)
    documents = [unlabelled(task.as_example(text)) for text in texts]
    check_unicode("texts", map(task.source, documents))
    if task_type(model) in (TOKENS, SEQUENCES):
        return label(model, tokenizer, task, documents, batch_size, max_source_length, progress, windows)
    coder = coder_for(model, tokenizer, template, chat)
    limit = 512 if max_new_tokens is None else max_new_tokens
    check_positive(
        batch_size=batch_size, num_beams=num_beams, max_source_length=max_source_length, max_new_tokens=limit
    )
    check_tokenizer(task, tokenizer)
    most = source_room(model, tokenizer, max_source_length, limit)

    def length(example: E) -> int:
        return len(coder.sources([task.source(example)])[0])

    # What is read is written again, with labels: half of the tokens are left for these, if nothing else is asked for.
    each = min(most, limit // 2)
    once = each if max_new_tokens is None else min(most, limit)
    room = each if windows else 0
    read = in_windows(task, documents, lambda x: length(x) <= once, lambda x: length(x) <= each, room)
    sources = read_sources(task, coder, read.parts, most, truncation_side)
    if told := sources_cut([source.num_tokens for source in sources], most):
        warnings.warn(told, stacklevel=3)
    pieces = TokenizerPieces(coder)
    bounded = position_limit(model, tokenizer, soft=False) is not None

    def grammar(source: Source[E]) -> Grammar | None:
        return task.grammar(source.read, pieces) if constrained and task.has_own_grammar() else None

    def limit_for(source: Source[E]) -> int:
        found = grammar(source) if max_new_tokens is None else None
        return limit if found is None else min(found.room, limit) if bounded else found.room

    def sound_length(source: Source[E]) -> int:
        """Longer texts come of models that have lost their way, which shorter sources do not help."""
        found = grammar(source)
        return found.room if found else 4 * len(tokenizer(task.source(source.read), verbose=False)["input_ids"])

    def answers_to(examples: Sequence[E], sources: Sequence[Source[E]]) -> list[_Answer]:
        limits = [limit_for(source) for source in sources]

        def path(number: int) -> Path | None:
            found = grammar(sources[number])
            return None if found is None else Path(found, pieces, limits[number])

        found: dict[int, _Answer] = {}
        ids = [source.ids for source in sources]
        for i, output in _write(model, coder, ids, batch_size, num_beams, limit, progress, path):
            lacks_room = output.is_cut and limits[i] < sound_length(sources[i])
            decoded = _decoded(task, examples[i], sources[i], output, limits[i])
            found[i] = _Answer(decoded, limits[i], output.is_cut, lacks_room)
        return [found[i] for i in range(len(sources))]

    answers = answers_to(read.parts, sources)
    while reads_windows(task, room):
        short = {i for i, answer in enumerate(answers) if answer.lacks_room and can_be_halved(read.parts[i])}
        if not short:
            break
        read, origins = read.halved(short, lambda x: length(x) <= most)
        new = [part for part, origin in zip(read.parts, origins, strict=True) if origin is None]
        more = iter(answers_to(new, read_sources(task, coder, new, most, truncation_side)))
        answers = [next(more) if origin is None else answers[origin] for origin in origins]
    _warn_of_outputs([answer.is_cut for answer in answers], max((x.limit for x in answers), default=limit))
    return read.merged([answer.decoded for answer in answers])


class _Answer(NamedTuple):
    """A prediction for what was read at once.

    Attributes:
        decoded: the prediction.
        limit: how many tokens could be written.
        is_cut: whether the model was stopped before its end, or would have written more.
        lacks_room: whether it was, and the limit is one that a sound text might need to exceed.
    """

    decoded: Decoded[Any]
    limit: int
    is_cut: bool
    lacks_room: bool


def _decoded(task: Task[E], example: E, source: Source[E], output: Output, limit: int) -> Decoded[E]:
    """The prediction for an example from what the model has written for its source."""
    decoded = task.decode(source.read, output.text)
    problems = [*source.problems, *decoded.problems]
    if output.is_cut:
        did = "would have gone on" if output.reading else "was cut"
        problems.insert(0, Problem("output_cut", f"the text {did} after max_new_tokens={limit} tokens"))
    if output.reading:
        num_words = len(task.source(source.read).split())
        decoded = replace(
            decoded,
            scores=output.reading.scores(decoded.prediction),
            confidence=None if source.problems or output.is_cut else exp(output.reading.logp / max(num_words, 1)),
        )
    if source.problems:
        decoded = replace(decoded, prediction=task.restore(example, decoded.prediction))
    return replace(decoded, problems=tuple(problems))


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    examples: Sequence[E],
    *,
    reference: bool = False,
    **options: Any,
) -> Scores:
    """Predict every example, see `predict`, and score the predictions with the task's metrics.

    Where predictions have scores, "calibration_error" says how far these are from the share of right answers: the
    expected calibration error in 10 bins, which `calibration_of` gives one by one.

    Before anything is predicted, TypeError is raised for examples that are no records of the task, such as texts, and
    ValueError for those without a label, or with one that the task does not know.
    """
    check_gold(task, examples)
    predicted = _predict(model, tokenizer, task, examples, **options)
    scores = task.score(examples, predicted, reference=reference)
    calibration = calibration_of(task, examples, predicted)
    return scores if calibration is None else {**scores, "calibration_error": calibration.error}
