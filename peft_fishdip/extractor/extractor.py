"""A model that finds labelled spans in texts: trained, loaded, called, evaluated and saved in one line each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from typing import Any, NamedTuple, overload

import torch
from peft import PeftModel

from ..config import is_index, is_number
from ..tasks.base import Decoded
from ..tasks.checks import as_path, check_flags
from ..tasks.families import task_type
from ..tasks.generation import predict
from ..tasks.joint import JointTask
from ..tasks.ner import NerTask
from ..tasks.self_training.loop import SelfTrained
from .base_model import choose_device, load_base
from .data import Data, Example, as_kind, folds, held_out, labels_of, load_examples, relations_of, unlabelled_texts
from .evaluation import Evaluation
from .recipe import Recipe
from .settings import Settings, base_name
from .training import Trained, train
from .workplace import check_free, digest, new_folder, training_folder

DEFAULT_MODEL = "google-t5/t5-base"
RECORDS = ("evaluation.json", "self_training.json")
"""Files that tell of a training; an adapter that was loaded keeps them."""
FEWEST = 20
"""Examples that it takes for some of them to be held out."""


class Part(NamedTuple):
    """A training: its name, and the positions of the examples for training and for a test."""

    name: str
    train: Sequence[int]
    test: Sequence[int] = ()


class Extractor:
    """Finds entities in texts, and relations between them, with an adapter that was trained on a few examples:

        extractor = Extractor.train("data.jsonl", "google-t5/t5-base", "adapter")
        extractor = Extractor.load("adapter")
        for span in extractor("Ann left Oslo.").text_spans:
            print(span.start, span.end, span.label, span.score)

    Attributes:
        model: the base model with its adapter.
        tokenizer: that of the model.
        settings: labels, template and the name of the base model.
        task: that of these labels.
        evaluation: the scores of the training; None if the adapter was loaded, or no example was held out.
        self_training: the rounds of self-training of this adapter, if there were any and it was not loaded.
    """

    self_training: SelfTrained | None = None

    def __init__(self, model: Any, tokenizer: Any, settings: Settings, evaluation: Evaluation | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.task: NerTask | JointTask = settings.make_task()
        self.evaluation = evaluation
        self._records: dict[str, bytes] = {}

    @classmethod
    def train(
        cls,
        documents: Data,
        model: str | PathLike[str] = DEFAULT_MODEL,
        output: str | PathLike[str] | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        num_folds: int = 0,
        held_out_share: float = 0.2,
        refit: bool = False,
        template: str | None = None,
        chat: bool = False,
        unlabelled: Iterable[str] | None = None,
        rounds: int = 2,
        resume: bool = False,
        overwrite: bool = False,
        device: str | None = None,
        progress: bool = True,
        **recipe: Any,
    ) -> Extractor:
        """Train an adapter on annotated documents, and save it.

        Args:
            documents: a file in any format of `read`, or documents or records with labelled spans. If there are
                relations, these are learnt, too.
            model: the base model, a T5, a causal LM or, for entities alone, an encoder: an id of the Hub or a folder.
            output: the folder of the adapter, which must be new; None: it is not saved.
            labels: words for labels; others get their own words, in lower case.
            num_folds: 2 or more: a cross-validation gives the scores, and the adapter is trained on all examples.
            held_out_share: of the examples, where there are 20 or more, for the scores. The adapter is the one that was
                scored, without these.
            refit: train the adapter again, on all examples, after it was scored.
            template: the prompt of a causal LM, with `{source}` in it.
            chat: ask a causal LM in its chat template.
            unlabelled: raw texts, from which the adapter learns in self-training, see `tasks.self_train`.
            rounds: of self-training.
            resume: go on with the unfinished training in `<output>.training`.
            overwrite: replace an adapter in `output`.
            device: "cpu" or "cuda"; by default a GPU if there is one.
            progress: show a bar on stderr.
            recipe: fields of `Recipe`, such as `steps`.

        Raises:
            ValueError, TypeError: data, model or an argument is not as it must be; the message names it and the remedy.
            OSError: a file cannot be read or written.
        """
        check_flags(refit=refit, chat=chat, resume=resume, overwrite=overwrite, progress=progress)
        chosen = Recipe(**recipe)
        place = choose_device(device)
        target = None if output is None else as_path(output, "output", "the name of a folder")
        texts = unlabelled_texts(unlabelled, rounds)
        if target is not None:
            check_free(target, overwrite)
        elif resume:
            raise ValueError("resume=True needs the folder that the adapter was to be saved in, output=")
        examples = load_examples(documents)
        settings = Settings.of(examples, model, labels, template, chat)
        if texts is not None and chosen.optimizer == "sparse_adafactor":
            raise ValueError("optimizer='sparse_adafactor': self-training on unlabelled texts has adamw alone")
        parts = plan(examples, num_folds, held_out_share, refit, chosen.seed)
        choices = {
            "data": digest([(example.id, example.text, example) for example in examples]),
            "model": settings.base_model,
            "labels": {**settings.labels, **settings.relation_labels},
            "template": [template, chat],
            "recipe": asdict(chosen),
            "parts": digest(parts),
            "unlabelled": None if texts is None else [digest(texts), rounds],
        }
        found: Extractor | None = None
        tested: list[tuple[Sequence[int], list[Decoded[Any]]]] = []
        with training_folder(target, choices, resume) as folder:
            for part in parts:
                found = None  # frees the memory of the one before
                some = [examples[i] for i in part.train]
                options: Any = {"title": part.name, "progress": progress, "unlabelled": texts, "rounds": rounds}
                trained = train(some, settings, chosen, folder / part.name, place, **options)
                found = cls(*trained[:2], _completed(settings, trained))
                found.self_training = trained.self_training
                if part.test:
                    test = [examples[i] for i in part.test]
                    tested.append((part.test, found._predict(test, progress=progress)))
            assert found is not None  # there is at least one part
            found.evaluation = _evaluation(found.task, examples, tested, num_folds)
            if target is not None:
                found.save(target, overwrite=overwrite)
        return found

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        *,
        model: str | PathLike[str] | None = None,
        device: str | None = None,
        strict: bool = False,
    ) -> Extractor:
        """Load a saved adapter and its base model.

        Args:
            folder: where it was saved.
            model: the base model, if it has another name now.
            device: "cpu" or "cuda"; by default a GPU if there is one.
            strict: refuse base weights that are not those of the training, instead of a warning.

        Raises:
            ValueError, TypeError: the folder is no such adapter, or it is damaged; the base model is not there; or an
                argument is not as it must be.
        """
        check_flags(strict=strict)
        place = choose_device(device)
        path = as_path(folder, "folder", "the folder of an adapter")
        settings = Settings.read(path)
        if model is not None:
            settings = replace(settings, base_model=base_name(model))
        base, tokenizer = load_base(settings, getattr(torch, settings.dtype))
        if task_type(base) != settings.task_type:
            raise ValueError(
                f"the adapter {folder} is for a model of the type {settings.task_type}, and {settings.base_model!r} is "
                f"of the type {task_type(base)}; pass the base model of the training"
            )
        if not (path / "adapter_config.json").is_file():
            raise ValueError(f"{folder} has no adapter_config.json; get the files again")
        options: Any = {"strict": True} if strict else {}
        adapted: Any = PeftModel.from_pretrained(base, str(folder), **options)
        found = cls(adapted.to(place), tokenizer, settings)
        found._records = {name: (path / name).read_bytes() for name in RECORDS if (path / name).is_file()}
        return found

    @overload
    def __call__(self, texts: str, **options: Any) -> Decoded[Any]: ...
    @overload
    def __call__(self, texts: Sequence[str], **options: Any) -> list[Decoded[Any]]: ...
    def __call__(self, texts: str | Sequence[str], **options: Any) -> Decoded[Any] | list[Decoded[Any]]:
        """The prediction for a text, or those for several: `text_spans` are characters, with labels and scores.

        `options` are those of `predict`, such as `batch_size`; `to_dict` makes a dict of a prediction.
        """
        if isinstance(texts, str):
            return self._predict([texts], **options)[0]
        return self._predict(texts, **options)

    def evaluate(self, documents: Data, **options: Any) -> Evaluation:
        """Scores on annotated documents; `options` are those of `predict`.

        Raises:
            ValueError: there is no example, or one has a label that the adapter does not know.
        """
        of = str(documents) if isinstance(documents, str | PathLike) else "examples"
        examples = load_examples(documents)
        self._check_labels(examples)
        if self.settings.task == "ner" and relations_of(examples):
            warnings.warn(f"{of}: relations are left out, of which this adapter knows none", stacklevel=2)
        gold = [as_kind(example, self.task.example_type) for example in examples]
        return Evaluation.compare(self.task, gold, self._predict(gold, **options), of)

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the adapter, without the base weights, into a new folder, or in place of another adapter.

        The scores of its training are in evaluation.json, also if it was loaded with them. The folder is complete, or
        not there.
        """
        check_flags(overwrite=overwrite)
        with new_folder(as_path(folder, "folder", "the name of a folder"), overwrite) as draft:
            self.model.save_pretrained(str(draft))
            self.settings.write(draft)
            for name, record in zip(RECORDS, (self.evaluation, self.self_training), strict=True):
                if record is not None:
                    text = json.dumps(record.to_dict(), ensure_ascii=False, indent=2)
                    (draft / name).write_bytes(f"{text}\n".encode())
                elif name in self._records:
                    (draft / name).write_bytes(self._records[name])

    def _predict(self, texts: Sequence[Any], **options: Any) -> list[Decoded[Any]]:
        some: Any = self.task
        own = self.settings
        options = {
            "template": own.template,
            "chat": own.chat,
            "max_source_length": own.max_source_length,
            **options,
        }
        return predict(self.model, self.tokenizer, some, texts, **options)

    def _check_labels(self, examples: Sequence[Example]) -> None:
        known = [("label", self.settings.labels, labels_of(examples))]
        if self.settings.task == "joint":
            known.append(("relation", self.settings.relation_labels, relations_of(examples)))
        for what, labels, found in known:
            if unknown := sorted(found - labels.keys()):
                raise ValueError(
                    f"unknown {what} {', '.join(map(repr, unknown))}; the adapter knows "
                    f"{', '.join(map(repr, labels))}: rename it in the data, or train on examples that have it"
                )


def _completed(settings: Settings, trained: Trained) -> Settings:
    """The settings with what is known after the training."""
    return replace(
        settings,
        task_type=task_type(trained.model),
        dtype=str(next(trained.model.base_model.model.parameters()).dtype).removeprefix("torch."),
        max_source_length=max(trained.longest, 32),
    )


def plan(examples: Sequence[Example], num_folds: int, share: float, refit: bool, seed: int) -> list[Part]:
    """The trainings, of which the last one gives the adapter."""
    if not is_index(num_folds) or num_folds == 1:
        raise ValueError(f"num_folds={num_folds!r}: give 2 or more, or 0 for no cross-validation")
    if not is_number(share) or not 0 <= share < 1:
        raise ValueError(f"held_out_share={share!r}: give a share from 0 to below 1, such as 0.2")
    every = [*range(len(examples))]
    if num_folds:
        tests = folds(examples, num_folds, seed)
        found = [Part(f"fold {n} of {num_folds}", _without(every, test), test) for n, test in enumerate(tests, 1)]
        return [*found, Part("all examples", every)]
    test = held_out(examples, share, seed) if len(examples) >= FEWEST else []
    if not test:
        return [Part("all examples", every)]
    found = [Part("training", _without(every, test), test)]
    return [*found, Part("all examples", every)] if refit else found


def _without(every: Sequence[int], test: Sequence[int]) -> list[int]:
    left = set(test)
    return [i for i in every if i not in left]


def _evaluation(
    task: NerTask | JointTask,
    examples: Sequence[Example],
    tested: Sequence[tuple[Sequence[int], list[Decoded[Any]]]],
    num_folds: int,
) -> Evaluation | None:
    """Of all predictions for examples that were not trained on."""
    if not tested:
        return None
    gold = [examples[i] for test, _ in tested for i in test]
    predicted = [result for _, results in tested for result in results]
    of = f"examples of {num_folds} folds" if num_folds else f"held out of {len(examples)} examples"
    return Evaluation.compare(task, gold, predicted, of, [*_ranges(tested)] if num_folds else ())


def _ranges(tested: Sequence[tuple[Sequence[int], Any]]) -> Iterator[range]:
    first = 0
    for test, _ in tested:
        yield range(first, first + len(test))
        first += len(test)
