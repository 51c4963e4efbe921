"""A masked language model of one language: what its raw text changes in the encoder, as a sparse delta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from peft_fishdip import FishDipConfig

from ..features import Batch
from ..fitting import shuffled_batches
from ..optimizers import make_scheduler
from ..settings import SettingsError, TrainingParams, one_line

IGNORED = -100
BATCH_SIZE = 16  # of the held-out sentences


class Language:
    """An encoder with a head that guesses masked tokens.

    The head's own parameters are trained beside the delta, because many encoders come without them; they are not part
    of the delta.
    """

    def __init__(self, name: str, max_length: int) -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.base = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise SettingsError(f"--model {name!r}: {one_line(error)}") from error
        if self.tokenizer.mask_token_id is None:
            raise SettingsError(f"--model {name!r}: its tokenizer has no mask token; give an encoder")
        self.max_length = max_length

    def features(self, sentences: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Token ids of sentences of words."""
        options: Any = {"is_split_into_words": True, "truncation": True, "max_length": self.max_length}
        coded = [self.tokenizer([*words], **options) for words in sentences]
        return [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in coded]

    def collator(self, seed: int) -> DataCollatorForLanguageModeling:
        """Masks 15 % of the tokens, as BERT was trained."""
        return DataCollatorForLanguageModeling(self.tokenizer, seed=seed)

    def trained(
        self, sentences: Sequence[Sequence[str]], config: FishDipConfig, params: TrainingParams, seed: int
    ) -> Any:
        """The model with the delta of so many steps on raw sentences; its mask is chosen by them before the first."""
        model: Any = get_peft_model(self.base, config)
        for name, parameter in self.base.named_parameters():
            if is_of_head(name, self.base):
                parameter.requires_grad_(True)
        features, collator = self.features(sentences), self.collator(seed)
        model.base_model.update_mask(features, data_collator=collator, batch_size=params.batch_size)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=params.learning_rate, weight_decay=params.weight_decay)
        scheduler = make_scheduler(optimizer, params, params.steps)
        batches = shuffled_batches(features, params.batch_size, seed, collator)
        model.train()
        for _ in range(params.steps):
            masked_loss(model, next(batches)).backward()
            torch.nn.utils.clip_grad_norm_(trainable, params.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return model

    @torch.no_grad()
    def loss(self, model: nn.Module, sentences: Sequence[Sequence[str]]) -> float:
        """Mean loss of a masked token in nats, with the same masks each time."""
        model.eval()
        features, collator = self.features(sentences), self.collator(0)
        total, count = 0.0, 0
        for start in range(0, len(features), BATCH_SIZE):
            batch = collator(features[start : start + BATCH_SIZE])
            masked = int((batch["labels"] != IGNORED).sum())
            if masked:
                total += masked * masked_loss(model, batch).item()
                count += masked
        return total / count


def is_of_head(name: str, base: Any) -> bool:
    """Whether a parameter of a masked language model is not of its encoder."""
    return not name.startswith(f"{base.base_model_prefix}.") and ".fishdip_" not in name


def masked_loss(model: Any, batch: Batch) -> Tensor:
    """Mean loss of the masked tokens. The head sees no others, whose logits are most of the work."""
    base = model.get_base_model()
    chosen = batch["labels"] != IGNORED

    def select(module: nn.Module, inputs: object, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[chosen][None]
        return output

    handle = getattr(base, base.base_model_prefix).register_forward_hook(select)
    try:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    finally:
        handle.remove()
    return cross_entropy(logits[0], batch["labels"][chosen])
