"""How a tokenizer writes the parts of a target, and which of its tokens may stand in free text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .coders import Coder
from .text import SPECIAL

_BEFORE = "["
"""A text that every format has; others are tokenized after it, so that they begin as after a space."""


class TokenizerPieces:
    """Parts of targets as a tokenizer writes them in whole targets: those of training.

    Special tokens in a text, such as its `</s>`, are left out, because they would end the target.

    Attributes:
        before: tokens that begin each target.
        after: tokens that end it.
    """

    def __init__(self, coder: Coder) -> None:
        self.tokenizer = coder.tokenizer
        known = self.tokenizer.added_tokens_decoder.items()
        self._special = {i for i, token in known if token.special} - {self.tokenizer.unk_token_id}
        self._ids: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._mark = self._encoded(_BEFORE)
        whole, mark = coder.targets([_BEFORE])[0], list(self._mark)
        places = [i for i in range(len(whole)) if whole[i : i + len(mark)] == mark]
        place, end = (places[0], places[0] + len(mark)) if places else (0, len(whole) - 1)
        self.before, self.after = tuple(whole[:place]), tuple(whole[end:])
        if coder.end_ids.isdisjoint(self.after):
            self.after += (min(coder.end_ids, default=self.tokenizer.pad_token_id),)

    def _encoded(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text_target=text, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(i for i in ids if i not in self._special)

    def ids(self, text: str, first: bool = False) -> tuple[int, ...]:
        if (text, first) not in self._ids:
            ids = self._encoded(text if first else f"{_BEFORE} {text}")
            if not first and ids[: len(self._mark)] == self._mark:
                ids = ids[len(self._mark) :]
            elif not first:
                ids = self._encoded(text)
            self._ids[text, first] = ids
        return self._ids[text, first]

    def text(self, ids: Sequence[int]) -> str:
        kept = [i for i in ids if i not in self._special]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def _texts(self) -> list[str]:
        return list(self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))]))

    @cached_property
    def free(self) -> Tensor:
        """Of each token, whether it may stand in free text: it is not special and has no character of a format."""
        ends = self._special
        return torch.tensor(
            [i not in ends and not any(c in text for c in SPECIAL + ",") for i, text in enumerate(self._texts)]
        )

    def is_blank(self, token: int) -> bool:
        return not self._texts[token].strip()
