"""What a model may write for an example: at each point a choice of texts, which `constraint` turns into tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

IMPOSSIBLE = 10**9
"""The `rest` of a state from which no end can be reached."""


class Option(NamedTuple):
    """A text that may be written next.

    Attributes:
        text: words, after a space where something stands before them; may be "" at the end.
        next: the state that it leads to; None at the end.
        event: what the text means, for the grammar that made it.
        is_default: whether it stands for all that a model would write here and may not: a model that would rather write
            another word than the next one of the sentence does not ask for a bracket.
    """

    text: str
    next: Any
    event: tuple[Any, ...] = ()
    is_default: bool = False


class Written(NamedTuple):
    """A text that was written.

    Attributes:
        text: of the option; "" for a token of free text.
        event: of the option; ("free",) for a token of free text.
        ids: its tokens.
        logp: the logarithm of their probability, among the tokens that were allowed.
    """

    text: str
    event: tuple[Any, ...]
    ids: tuple[int, ...]
    logp: float


class Pieces(Protocol):
    """How a tokenizer writes texts."""

    def ids(self, text: str, first: bool = False) -> tuple[int, ...]:
        """Tokens of a text that stands after another one, or first."""

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say."""


class Grammar(ABC):
    """Texts that a task can read for one example. States are hashable; `pieces` measures how long texts are.

    Attributes:
        pieces: of the tokenizer.
        start: the first state.
    """

    pieces: Pieces
    start: Any

    @abstractmethod
    def options(self, state: Any) -> Sequence[Option]:
        """What may be written next."""

    @abstractmethod
    def rest(self, state: Any) -> int:
        """How many tokens suffice to end from here, the end mark left out."""

    @abstractmethod
    def scores(self, written: Sequence[Written], prediction: Any) -> tuple[float, ...]:
        """Probability of each of the task's `answers` in the prediction that was read from this."""

    @property
    def room(self) -> int:
        """How many tokens leave room for every answer that is to be expected."""
        return self.rest(self.start) + 64

    def is_free(self, state: Any) -> bool:
        """Whether any token without the format's own characters may be written as well."""
        return False

    def after_free(self, state: Any, blank: bool) -> Any:
        """The state after such a token, which is `blank` if it has nothing but white space."""
        return state

    def text(self, written: Sequence[Written]) -> str:
        """The whole text."""
        return " ".join(part.text for part in written if part.text)

    def length(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.pieces.ids(text))
