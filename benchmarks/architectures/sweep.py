"""Compares architectures one after the other, each within a time limit, whatever happens to the others."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from transformers import AutoModel, BertModel

from .build import NO_PACKAGE, TOO_SLOW, NotBuilt, built, in_short
from .catalogue import Architecture
from .compare import Refused, compared
from .isolated import last_report

EXACT, REFUSED, NOT_BUILT, WRONG = "exact", "refused", "not built", "WRONG"
TIME_LIMIT = 60.0
"""Seconds for one architecture."""
ENDED = "it takes more than {:.0f} seconds, or ends its process"
IMPORTED = (AutoModel, BertModel)
"""Classes whose modules most architectures import, so that not each process does."""


@dataclass
class Outcome:
    """What the comparison of one architecture came to."""

    model_type: str
    class_name: str
    kind: str
    """`EXACT`, `REFUSED`, `NOT_BUILT` or `WRONG`."""
    reason: str = ""
    group: str = ""
    heading: str = ""
    """What architectures with a like reason are listed under, if it was not built."""
    parameters: int = 0
    seconds: float = 0.0
    frozen: list[str] = field(default_factory=list)
    """Parameters that a warning says stay frozen."""
    checkpointed: bool = False

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.model_type} ({self.class_name}) {self.kind}{reason}"


def sweep(chosen: Iterable[Architecture], report: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """The outcome of each architecture."""
    outcomes = []
    for architecture in chosen:
        outcomes.append(outcome_of(architecture))
        report(outcomes[-1])
    return outcomes


def outcome_of(architecture: Architecture, limit: float = TIME_LIMIT) -> Outcome:
    """The outcome of one architecture, in a process of its own."""
    name = architecture.class_names[0]
    unknown = Outcome(architecture.model_type, name, NOT_BUILT, ENDED.format(limit), heading=TOO_SLOW)
    return last_report(partial(find_outcome, architecture, ENDED.format(limit)), limit, unknown)


def find_outcome(architecture: Architecture, ended: str, report: Callable[[Outcome], None]) -> None:
    """Report what to say if nothing follows, and then the outcome."""
    outcome = Outcome(architecture.model_type, architecture.class_names[0], NOT_BUILT, ended, heading=TOO_SLOW)
    started = time.process_time()
    warnings.simplefilter("ignore")
    try:
        try:
            outcome.class_name, outcome.group = architecture.model_class.__name__, architecture.group
        except Exception as error:
            raise NotBuilt(NO_PACKAGE, in_short(error)) from error
        model, inputs = built(architecture)
        outcome.parameters = sum(parameter.numel() for parameter in model.parameters())
        outcome.kind = WRONG
        report(outcome)
        found = compared(model, inputs)
        outcome.frozen, outcome.checkpointed = found.frozen, found.checkpointed
        outcome.kind, outcome.reason = (WRONG, "; ".join(found.faults)) if found.faults else (EXACT, "")
    except NotBuilt as error:
        outcome.kind, outcome.heading, outcome.reason = NOT_BUILT, error.heading, str(error)
    except Refused as error:
        outcome.kind, outcome.reason = REFUSED, first_sentence(str(error))
    except Exception as error:
        outcome.kind, outcome.reason = WRONG, in_short(error)
    outcome.seconds = time.process_time() - started
    report(outcome)


def first_sentence(text: str) -> str:
    """The text up to the first colon or end of a sentence."""
    return re.split(r"(?<=[a-z)\]'\"])[.:;](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
