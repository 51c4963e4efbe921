"""Sentences as sources and targets of a model that writes, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from peft_fishdip.tasks import NerExample, evaluate, to_features

from ..features import Collate, Features, collator_for
from ..fitting import mean_loss
from ..pretrained import load_model
from ..trained_model import cuts_ignored
from .sentences import Sentences

BATCH_SIZE = 32
SOURCE, TARGET = 160, 224  # tokens: the longest training sentence fits


class Writer:
    """An encoder-decoder model that writes the sentence again, with its entities in brackets."""

    kind: ClassVar[str] = "writer"
    task_type: ClassVar[str] = "SEQ_2_SEQ_LM"

    def __init__(self, name: str, sentences: Sentences, template: str | None = None) -> None:
        """With `template`, a decoder is asked by it instead of by the one of the tasks."""
        self.task = sentences.task
        self.template = template
        self.model, self.tokenizer, _ = load_model(name, self.task)

    @property
    def collator(self) -> Collate:
        return collator_for(self.tokenizer, self.model)

    def features(self, examples: Sequence[NerExample]) -> Features:
        with cuts_ignored():
            return to_features(
                self.task,
                self.tokenizer,
                [*examples],
                model=self.model,
                template=self.template,
                max_source_length=SOURCE,
                max_target_length=TARGET,
            )

    def scores(self, model: Any, examples: Sequence[NerExample]) -> tuple[float, float]:
        """Micro F1 of whole entities, and the mean loss of a target token in nats, of the adapted model."""
        with cuts_ignored():
            found = evaluate(
                model,
                self.tokenizer,
                self.task,
                [*examples],
                batch_size=BATCH_SIZE,
                max_source_length=SOURCE,
                max_new_tokens=TARGET,
                template=self.template,
                progress=False,
            )
        features = self.features(examples)
        return found["f1"], mean_loss(model, features, BATCH_SIZE, torch.device("cpu"), self.collator)


class Decoder(Writer):
    """A decoder-only model that does the same after a prompt."""

    kind: ClassVar[str] = "decoder"
    task_type: ClassVar[str] = "CAUSAL_LM"
