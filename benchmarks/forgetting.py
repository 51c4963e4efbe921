"""Forgetting, as PEFT's method_comparison has it: by how much training raises the loss on held-out plain text.

The loss is in nats, the mean per token of what the model was pretrained to predict: of a causal LM the next token, of a
T5 hidden spans, of an encoder masked tokens, for which its pretrained masked-LM head stands on the trained layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from peft_fishdip.tasks import task_type
from peft_fishdip.tasks.families import is_encoder

from .corruption import objective
from .features import Features
from .fitting import mean_loss
from .outcome import Forgetting
from .plain_text import MOST_TOKENS, PlainText
from .pretrained import LOADING_ERRORS, Base, load_config

NO_HEAD = "the checkpoint has no masked-LM head"
BEFORE_THE_MODEL = "its virtual tokens stand before the classifier's model, and the masked-LM head is on another"


class ForgettingMeter:
    """Measures the loss on plain text of the base model, and of what training makes of it.

    It is made before memory is measured, since it loads an encoder's masked-LM head; texts go through the model one by
    one, so that they do not raise the peak either.

    Args:
        plain: the texts.
        base_model: Hub id or folder.
        device: where the model is when it is measured.
    """

    def __init__(self, plain: PlainText, base_model: str, device: torch.device) -> None:
        self.plain = plain
        self.device = device
        self.found = Forgetting(plain.origin, plain.digest)
        self.features: Features = []
        self.head: Any = None
        if is_encoder(load_config(base_model)):
            self.head = masked_lm(base_model)
            self.found.reason = "" if self.head is not None else NO_HEAD

    def before(self, base: Base) -> None:
        """Measure the base model, which stays where it is."""
        if not self.found.reason:
            self.prepare(base)
        if self.found.reason:
            return
        place = next(base.model.parameters()).device
        self.found.loss_before = self.loss(base.model.to(self.device))
        base.model.to(place)  # so that adapters are made where they are without this measurement

    def prepare(self, base: Base) -> None:
        """Make the features: the same for all methods."""
        kind = task_type(base.model)
        asked = objective(base.tokenizer, kind, MOST_TOKENS)
        if isinstance(asked, str):
            self.found.reason = asked
            return
        for number, text in enumerate(self.plain.texts):
            ids, marks, is_cut = encoded(base.tokenizer, text)
            if len(marks) - sum(marks) < 2:
                self.found.num_short += 1
                continue
            self.features.append(asked(ids, marks, number))
            self.found.num_cut += is_cut
        self.found.num_texts = len(self.features)
        self.found.num_tokens = sum(label != -100 for row in self.features for label in row["labels"])
        if not self.features:
            self.found.reason = f"none of the {len(self.plain.texts)} texts has two tokens"

    def after(self, model: Any) -> None:
        """Measure a model after training; of episodes, after each."""
        if self.found.reason:
            return
        config = getattr(model, "active_peft_config", None)
        if self.head is not None and config is not None and config.is_prompt_learning:
            self.found.reason = BEFORE_THE_MODEL
            return
        self.found.losses_after.append(self.loss(model))

    def unchanged(self) -> None:
        """Record that nothing was trained."""
        if self.found.loss_before is not None:
            self.found.losses_after.append(self.found.loss_before)

    def loss(self, model: Any) -> float:
        if self.head is None:
            return mean_loss(model, self.features, 1, self.device)
        classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
        setattr(self.head, self.head.base_model_prefix, classifier.base_model)
        try:
            return mean_loss(self.head.to(self.device), self.features, 1, self.device)
        finally:
            setattr(self.head, self.head.base_model_prefix, nn.Identity())
            self.head.to("cpu")  # so that it is no memory of the run


def masked_lm(base_model: str) -> Any:
    """An encoder's masked LM without the layers below its head; None if the checkpoint has no such head."""
    try:
        model, loading = AutoModelForMaskedLM.from_pretrained(
            base_model, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except LOADING_ERRORS:  # there is no masked LM of this type; that the model can be loaded was seen before
        return None
    if loading["missing_keys"] or not hasattr(model, model.base_model_prefix):
        return None
    setattr(model, model.base_model_prefix, nn.Identity())
    return model


def encoded(tokenizer: Any, text: str) -> tuple[list[int], list[bool], bool]:
    """Token ids, which of them are marks that the tokenizer adds, and whether the end of the text is left out."""
    row = tokenizer(text, return_special_tokens_mask=True, verbose=False)
    marks = [bool(mark) for mark in row["special_tokens_mask"]]
    places = [i for i, mark in enumerate(marks) if not mark]
    left_out = set(places[MOST_TOKENS:])
    kept = [i for i in range(len(marks)) if i not in left_out]
    return [row["input_ids"][i] for i in kept], [marks[i] for i in kept], bool(left_out)
