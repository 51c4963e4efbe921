"""Examples as token ids, ready for a data collator."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from .base import Task
from .checks import check_is_task, check_is_tokenizer, check_items, check_positive, check_unicode
from .coders import Coder, coder_for
from .families import SEQUENCES, TOKENS, sequence_classes, task_type, token_classes
from .lengths import check_tokenizer, read_sources, source_room, text_of
from .prompts import Template
from .text import fold, normalize
from .windows import in_windows

E = TypeVar("E")
Feature = dict[str, Any]


def to_features(
    task: Task[E],
    tokenizer: Any,
    examples: Sequence[E],
    *,
    model: Any = None,
    template: Template | None = None,
    chat: bool = False,
    max_source_length: int = 512,
    max_target_length: int = 512,
    windows: bool = False,
) -> list[Feature]:
    """`input_ids`, `attention_mask` and `labels` of each example, unpadded, for `TaskCollator`.

    Args:
        task: what is learnt.
        tokenizer: that of the model.
        examples: labelled records of the task.
        model: what is trained; None stands for an encoder-decoder model. For a decoder-only model each row is a prompt
            and a completion, and labels are -100 on the prompt. For an encoder labels are the tags of words, or the
            class of a text.
        template: the prompt of a decoder-only model: a text with `{source}`, or a function from source to prompt.
        chat: a decoder-only model is asked in the tokenizer's chat template.
        max_source_length, max_target_length: tokens; sources are shorter where the model cannot read so many.
        windows: an example of NerTask or JointTask that is too long becomes several, which do not overlap and end where
            no labelled span goes on. What reaches over such an end all the same is counted as "window_edge".

    Of a source that is too long, the part that the task chooses is read, and the target tells of that part; a target
    that is too long is cut at its end. One warning counts these ("source_cut", "target_cut"), the targets that the
    tokenizer changes so that they read otherwise ("tokenizer_change"), and what targets cannot carry (crossing spans
    and the like). Raises ValueError if the tokenizer cannot write the names of the task's labels, or if the model and
    the task do not fit.
    """
    check_is_task(task)
    check_is_tokenizer(tokenizer)
    check_items("examples", examples, f"a list of {task.example_type.__name__}")
    examples = [*examples]
    check_positive(max_source_length=max_source_length, max_target_length=max_target_length)
    check_unicode("examples", (task.source(example) for example in examples if isinstance(example, task.example_type)))
    kind = None if model is None else task_type(model)
    if kind in (TOKENS, SEQUENCES):
        most = source_room(model, tokenizer, max_source_length)
        build = _of_words if kind == TOKENS else _of_texts
        features, lost = build(task, tokenizer, examples, model, most, windows)
    else:
        coder = coder_for(model, tokenizer, template, chat)
        most = source_room(model, tokenizer, max_source_length, max_target_length)
        features, lost = _of_written(task, coder, examples, most, max_target_length, windows)
    if +lost:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted((+lost).items()))
        remedies = "; ".join(_REMEDIES[kind] for kind in _REMEDIES if lost[kind])
        remedies = f" ({remedies})" if remedies else ""
        teller = "TokenClassificationTask(task).tagged" if kind == TOKENS else "task.encode"
        warnings.warn(f"{len(features)} examples, with {counts}{remedies}; see `{teller}` for each", stacklevel=2)
    return features


Built = tuple[list[Feature], Counter[str]]


def _of_written(
    task: Task[E], coder: Coder, examples: Sequence[E], max_source: int, max_target: int, windows: bool
) -> Built:
    def fits(example: E) -> bool:
        source, target, _ = task.encode(example)
        return len(coder.sources([source])[0]) <= max_source and len(coder.targets([target])[0]) <= max_target

    read = in_windows(task, examples, fits, fits, max_source if windows else 0, overlap=False)
    examples = read.parts
    encoded = [task.encode(example) for example in examples]
    if not encoded:
        return [], Counter()
    check_tokenizer(task, coder.tokenizer)
    sources = read_sources(task, coder, examples, max_source)
    texts = [task.target(s.read)[0] if s.problems else e.target for s, e in zip(sources, encoded, strict=True)]
    targets = coder.targets(texts)
    lost = Counter(problem.kind for e in encoded for problem in e.problems) + Counter(x.kind for x in read.lost())
    lost["source_cut"] = sum(bool(source.problems) for source in sources)
    for number, (source, text, target) in enumerate(zip(sources, texts, targets, strict=True)):
        lost["tokenizer_change"] += _reads_otherwise(task, source.read, text, text_of(coder.tokenizer, target))
        if len(target) > max_target:
            lost["target_cut"] += 1
            targets[number] = coder.cut_target(text, max_target)
    return [coder.feature(source.ids, target) for source, target in zip(sources, targets, strict=True)], lost


def _of_words(
    task: Task[Any], tokenizer: Any, examples: Sequence[Any], model: Any, max_source: int, windows: bool
) -> Built:
    classes = token_classes(task, model)

    def fits(example: Any) -> bool:
        return classes.num_tokens(tokenizer, example) <= max_source

    read = in_windows(task, examples, fits, fits, max_source if windows else 0, overlap=False)
    lost, features = Counter(problem.kind for problem in read.lost()), []
    for example in read.parts:
        tags, problems = classes.tagged(example)
        reading = classes.read(tokenizer, example, max_source)
        lost.update(problem.kind for problem in (*problems, *classes.unread(reading, tags)))
        lost["source_cut"] += len(reading.places) < len(tags)
        features.append(classes.feature(reading, tags))
    return features, lost


def _of_texts(
    task: Task[Any], tokenizer: Any, examples: Sequence[Any], model: Any, max_source: int, windows: bool
) -> Built:
    classes = sequence_classes(task, model)
    sources = read_sources(classes.task, coder_for(None, tokenizer), examples, max_source)
    lost = Counter(source_cut=sum(bool(source.problems) for source in sources))
    features = []
    for source, example in zip(sources, examples, strict=True):
        ids: list[int] = source.ids
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": classes.number(example)})
    return features, lost


_REMEDIES = {
    "source_cut": "what is cut from a source is not learnt: pass a larger max_source_length, windows=True where the "
    "task is about entities, or split these examples",
    "target_cut": "what is cut from a target is not learnt: pass a larger max_target_length, windows=True where the "
    "task is about entities, or split these examples",
    "window_edge": "a window holds no span or relation of which a part stands in another window",
    "tokenizer_change": "the tokenizer lacks characters of some values: choose another tokenizer or other values",
    "nested_span": "tags hold no span inside another, of which the longer one is learnt: take a model that writes text",
    "partial_word": "an encoder labels whole words: take a model that writes text, or split the words and pass tokens",
    "word_without_tokens": "the tokenizer has no token for some words, such as zero-width characters, which are not "
    "found as a part of a span: leave them out, or choose another tokenizer",
    "unspoken_value": "an encoder finds only what stands in the text",
}


def _reads_otherwise(task: Task[E], example: E, text: str, written: str) -> bool:
    """Does a target say something else, beyond normalisation, when it comes out of the tokenizer?"""
    if fold(text) == fold(written):
        return False
    before, after = (task.decode(example, x).prediction for x in (text, written))
    return normalize(repr(before)) != normalize(repr(after))
