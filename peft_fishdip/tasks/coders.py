"""Token ids of sources and targets, as encoder-decoder and decoder-only models read and write them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .families import CAUSAL, SEQ2SEQ, task_type
from .lengths import longest
from .prompts import PLAIN, Template, chat_prompt, plain_prompt

IGNORED = -100
Batch = dict[str, Tensor]


class Coder(Protocol):
    """Token ids of texts.

    Attributes:
        tokenizer: that of the model.
        end_ids: tokens that end a text.
        generation_options: further arguments of the model's `generate`.
        starts: how many of the tokens that it returns only start a text.
    """

    tokenizer: Any
    end_ids: set[int]
    generation_options: dict[str, Any]
    starts: int

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """What the model reads before it writes, whole."""

    def cut_source(self, text: str, max_length: int, side: str) -> list[int]:
        """The same of at most `max_length` tokens, without what is too much at one side of the text."""

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """What the model is to write, with an end mark."""

    def cut_target(self, text: str, max_length: int) -> list[int]:
        """The same of at most `max_length` tokens, end mark included."""

    def feature(self, source: list[int], target: list[int]) -> dict[str, list[int]]:
        """`input_ids`, `attention_mask` and `labels` of one example."""

    def padded(self, sources: Sequence[list[int]]) -> Batch:
        """`input_ids` and `attention_mask` to generate from, (sources, tokens)."""

    def written(self, batch: Batch, output: Tensor) -> Tensor:
        """Of what `generate` returns for such a batch, the tokens that were written."""

    def token_losses(self, model: Any, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> Tensor:
        """-log p of each token of the targets, 0 in place of missing ones: float32, (targets, longest target)."""


class TwoTexts:
    """For an encoder-decoder model: the encoder reads the source, the decoder writes the target."""

    def __init__(self, tokenizer: Any, end_ids: set[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids or ends(None, tokenizer)
        self.generation_options: dict[str, Any] = {}
        self.starts = 1

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self.tokenizer(list(texts), verbose=False)["input_ids"]) if texts else []

    def cut_source(self, text: str, max_length: int, side: str) -> list[int]:
        before, self.tokenizer.truncation_side = self.tokenizer.truncation_side, side
        try:
            return list(self.tokenizer(text, truncation=True, max_length=max_length)["input_ids"])
        finally:
            self.tokenizer.truncation_side = before

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self.tokenizer(text_target=list(texts), verbose=False)["input_ids"]) if texts else []

    def cut_target(self, text: str, max_length: int) -> list[int]:
        return list(self.tokenizer(text_target=text, truncation=True, max_length=max_length)["input_ids"])

    def feature(self, source: list[int], target: list[int]) -> dict[str, list[int]]:
        return {"input_ids": source, "attention_mask": [1] * len(source), "labels": list(target)}

    def padded(self, sources: Sequence[list[int]]) -> Batch:
        batch = self.tokenizer.pad({"input_ids": list(sources)}, return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def written(self, batch: Batch, output: Tensor) -> Tensor:
        return output

    def token_losses(self, model: Any, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> Tensor:
        width, device = max(map(len, targets)), next(model.parameters()).device
        labels = torch.tensor([target + [IGNORED] * (width - len(target)) for target in targets], device=device)
        batch = {key: value.to(device) for key, value in self.padded(sources).items()}
        return of_tokens(model(**batch, labels=labels).logits, labels)


class OneRow:
    """For a decoder-only model: prompt and completion in one row, of which the completion alone is a target.

    The two are tokenized apart, so that the prompt of training is that of generation, whatever the tokenizer merges.
    The prompt begins as the tokenizer begins texts; the completion ends with an end mark.

    Raises:
        ValueError: the tokenizer has no end mark, or see `plain_prompt` and `chat_prompt`.
    """

    def __init__(
        self, tokenizer: Any, end_ids: set[int] | None = None, template: Template | None = None, chat: bool = False
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no end mark, so the model could not learn where a text ends; set "
                "tokenizer.eos_token to one of its tokens"
            )
        self.tokenizer = tokenizer
        self.end_ids = end_ids or ends(None, tokenizer)
        self.generation_options = {"eos_token_id": sorted(self.end_ids), "pad_token_id": self.padding}
        self.starts = 0
        self.chat = chat
        self.template: Template = template or ("{source}" if chat else PLAIN)
        self.after = self.closing(chat_prompt(tokenizer, "", self.template)[1]) if chat else [tokenizer.eos_token_id]
        if not chat:
            plain_prompt("", self.template)

    def closing(self, text: str) -> list[int]:
        """Token ids of what a chat template writes after an answer, until its end mark."""
        ids = self.without_special(text)
        marks = [position for position, token in enumerate(ids) if token in self.end_ids]
        return ids[: marks[0] + 1] if marks else [*ids, self.tokenizer.eos_token_id]

    def without_special(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def source(self, text: str) -> list[int]:
        if self.chat:
            return self.without_special(chat_prompt(self.tokenizer, text, self.template)[0])
        ids = list(self.tokenizer(plain_prompt(text, self.template), verbose=False)["input_ids"])
        while ids and ids[-1] == self.tokenizer.eos_token_id and len(ids) > 1:
            ids.pop()  # some tokenizers end each text
        return ids

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.source(text) for text in texts]

    def cut_source(self, text: str, max_length: int, side: str) -> list[int]:
        words = text.split()

        def part(count: int) -> list[int]:
            kept = words[:count] if side == "right" else words[len(words) - count :]
            return self.source(" ".join(kept))

        ids = part(longest(lambda count: len(part(count)) <= max_length, len(words)))
        if len(ids) > max_length:
            raise ValueError(
                f"a prompt without any words of its source has {len(ids)} tokens, more than the {max_length} that may "
                "be read; shorten the template, or allow longer sources"
            )
        return ids

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*self.without_special(text), *self.after] for text in texts]

    def cut_target(self, text: str, max_length: int) -> list[int]:
        ids = self.without_special(text)
        return [*ids[: max(max_length - len(self.after), 0)], *self.after][:max_length]

    def feature(self, source: list[int], target: list[int]) -> dict[str, list[int]]:
        ids = [*source, *target]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [IGNORED] * len(source) + list(target)}

    @property
    def padding(self) -> int:
        """The token that stands where the attention mask hides it."""
        found = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if found is None else found)

    def padded(self, sources: Sequence[list[int]]) -> Batch:
        return left_padded(sources, self.padding)

    def written(self, batch: Batch, output: Tensor) -> Tensor:
        return output[:, batch["input_ids"].shape[1] :]

    def token_losses(self, model: Any, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> Tensor:
        rows = [self.feature(source, target) for source, target in zip(sources, targets, strict=True)]
        batch = one_row_batch(rows, self.padding, model)
        labels = batch.pop("labels")[:, 1:].to(next(model.parameters()).device)
        moved = {key: x.to(labels.device) if isinstance(x, Tensor) else x for key, x in batch.items()}
        logits = model(**moved).logits
        return of_tokens(logits[:, -labels.shape[1] - 1 : -1], labels)


def coder_for(model: Any, tokenizer: Any, template: Template | None = None, chat: bool = False) -> Coder:
    """How a model reads and writes; without a model, as an encoder-decoder.

    Raises:
        ValueError: the model writes no text, or an encoder-decoder gets a template.
    """
    kind = SEQ2SEQ if model is None else task_type(model)
    if kind == CAUSAL:
        return OneRow(tokenizer, ends(model, tokenizer), template, chat)
    if kind != SEQ2SEQ:
        raise ValueError(
            f"{type(model).__name__} has a classifier and writes no text; load a model such as T5 or a causal LM"
        )
    if template is not None or chat:
        option = "chat=True" if chat else f"template={template!r}"
        who = "an encoder-decoder model" if model is not None else "without model=, which says what the model is,"
        raise ValueError(f"{option} is for decoder-only models; {who} reads the source as it is")
    return TwoTexts(tokenizer, ends(model, tokenizer))


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id]
    return {end for end in found if end is not None}


def left_padded(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """`input_ids` and `attention_mask` of rows that end together, (rows, tokens)."""
    width = max(map(len, rows))
    ids = [[padding] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def one_row_batch(rows: Sequence[Mapping[str, Any]], padding: int, model: Any) -> dict[str, Any]:
    """A batch of rows with prompts and completions, for training a decoder-only model.

    All rows end together, so that the logits which predict targets are the last ones of each row: a model that can
    compute these alone is told so by `logits_to_keep`, and `labels` then have its width. Positions are counted from the
    first token that is no padding. Virtual tokens of PEFT, which stand before the rows, allow neither.
    """
    batch: dict[str, Any] = {**left_padded([row["input_ids"] for row in rows], padding)}
    width = batch["input_ids"].shape[1]
    batch["labels"] = torch.tensor([[IGNORED] * (width - len(row["labels"])) + list(row["labels"]) for row in rows])
    accepted = set() if has_virtual_tokens(model) else arguments_of(model)
    if "position_ids" in accepted and not bool(batch["attention_mask"].all()):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in accepted:
        first = (batch["labels"] != IGNORED).any(0).nonzero()
        kept = width - int(first[0]) + 1 if len(first) else 1  # a target is predicted one position before it
        batch["logits_to_keep"] = min(kept, width)
        batch["labels"] = batch["labels"][:, width - batch["logits_to_keep"] :]
    return batch


def has_virtual_tokens(model: Any) -> bool:
    """Whether PEFT puts virtual tokens before the rows: it then lengthens labels itself, and counts positions anew."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def arguments_of(model: Any) -> set[str]:
    """Names of the arguments that a model's forward takes by name, without PEFT's wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(base.forward).parameters)


def of_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    flat = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return flat.view(labels.shape)
