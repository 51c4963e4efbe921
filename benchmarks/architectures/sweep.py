"""Compares architectures one after the other, each within a time limit, whatever happens to the others."""

from __future__ import annotations

import contextlib
import gc
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .build import NO_PACKAGE, TOO_SLOW, NotBuilt, built, in_short
from .catalogue import Architecture
from .compare import Refused, compared

EXACT, REFUSED, NOT_BUILT, WRONG = "exact", "refused", "not built", "WRONG"
TIME_LIMIT = 30.0
"""Seconds of computing for one architecture."""


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
        gc.collect()
    return outcomes


def outcome_of(architecture: Architecture) -> Outcome:
    outcome = Outcome(architecture.model_type, architecture.class_names[0], NOT_BUILT)
    started = time.process_time()
    try:
        with warnings.catch_warnings(), time_limit(TIME_LIMIT):
            warnings.simplefilter("ignore")
            compare(architecture, outcome)
    except NotBuilt as error:
        outcome.heading, outcome.reason = error.heading, str(error)
    except Refused as error:
        outcome.kind, outcome.reason = REFUSED, first_sentence(str(error))
    except TimeoutError as error:
        outcome.heading, outcome.reason = TOO_SLOW, str(error)
    except Exception as error:
        outcome.kind, outcome.reason = WRONG, in_short(error)
    outcome.seconds = time.process_time() - started
    return outcome


def compare(architecture: Architecture, outcome: Outcome) -> None:
    try:
        outcome.class_name, outcome.group = architecture.model_class.__name__, architecture.group
    except Exception as error:
        raise NotBuilt(NO_PACKAGE, in_short(error)) from error
    model, inputs = built(architecture)
    outcome.parameters = sum(parameter.numel() for parameter in model.parameters())
    found = compared(model, inputs)
    outcome.frozen, outcome.checkpointed = found.frozen, found.checkpointed
    outcome.kind, outcome.reason = (WRONG, "; ".join(found.faults)) if found.faults else (EXACT, "")


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)\]'\"])[.:;](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError within, after this many seconds of computing; in the main thread only."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds:.0f} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
