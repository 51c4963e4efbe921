"""What the command line says on stderr: errors, warnings and notes, each in one line."""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import transformers
import typer
from safetensors import SafetensorError

R = TypeVar("R")
TRACEBACK = "FISHDIP_TRACEBACK"
"""Environment variable that shows where in the code an error came from."""
_MEMORY = "too little memory: pass a smaller --batch-size, choose a smaller model, or end other programs"
_OPTIONS = {
    "num_folds=": "--folds ",
    "held_out_share=": "--held-out ",
    "rounds=": "--rounds ",
    "learning_rate=": "--lr ",
    "optimizer=": "--optimizer ",
    "steps=": "--steps ",
    "batch_size=": "--batch-size ",
    "density=": "--density ",
    "update_interval=": "--update-interval ",
    "seed=": "--seed ",
    "device=": "--device ",
}
"""What errors of `Extractor` begin with, and the option of the command line that it stands for."""
_REMEDIES = {
    r"say which with format=,": "say which with --from,",
    r"take read_ontonotes\(path\), or .*": "pass --from ontonotes for its entities",
    r"as token=1, tag=2": "as --read token=1 --read tag=2",
    r"`(tag|text)` chooses": r"--read \1= chooses",
    r"`unit` chooses": "--unit chooses",
    r"([Pp])ass unit='([\w-]+)'": r"\1ass --unit \2",
    r"scheme='io'": "--read scheme=io",
    r"pass names=\['O', 'B-PER', \.\.\.\]": """pass --read 'names=["O", "B-PER", ...]'""",
    r"predictions=True reads": "--read predictions=true reads",
    r" \(see Document\.problems\)": "",
    r"; see `[\w().]+` for each": "",
    r"pass a smaller max_new_tokens or max_target_length": "choose a base model that reads longer texts",
    r"Pass a larger max_new_tokens, or split the texts": "Split the texts",
    r"Split the texts, or pass \w+=\d+ if the model reads as much": "Split the texts",
    r"pass a larger max_\w+_length, windows=True where the task is about entities, or split": "split",
    r"pass encoding='([\w-]+)'": r"pass --encoding \1",
    r"pass a mapping from label to a name": "give, such as --label PER=person, a name",
    r", or leave \w+ out with dataclasses\.replace\(.*?\)+": "",
}
"""Remedies of errors that are for Python, as patterns, and those of the command line."""
_OUT_OF_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")


def note(kind: str, message: str) -> None:
    """One line on stderr."""
    typer.echo(f"{kind}: {printable(' '.join(message.split()))}", err=True)


def printable(text: str) -> str:
    """A text as a terminal may show it: control characters and invisible marks are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def reported(verb: Callable[..., R]) -> Callable[..., R]:
    """A verb that reports what is wrong with its input in one line on stderr, and then exits with 2."""

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> R:
        with one_line_errors(), one_line_warnings():
            return verb(*args, **kwargs)

    return call


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Report errors of the input, of files and of memory in one line; exit with 2, or quietly if a pipe is closed."""
    try:
        yield
    except BrokenPipeError:
        # what is still buffered has nowhere to go, and the flush at exit must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        note("error", "interrupted")
        raise typer.Exit(130) from None
    except (OSError, ValueError, ImportError, SafetensorError, MemoryError, RuntimeError) as error:
        if os.environ.get(TRACEBACK):
            raise
        known = _message(error)
        if known is None:
            raise
        note("error", known)
        raise typer.Exit(2) from None


def _message(error: BaseException) -> str | None:
    """What an error says; None if it is none of the user's."""
    if isinstance(error, typer.Exit | typer.Abort):  # which are RuntimeErrors
        return None
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return _MEMORY
    if isinstance(error, RuntimeError):
        return _MEMORY if any(words in str(error) for words in _OUT_OF_MEMORY) else None
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    said = with_options(str(error))
    return next((option + said[len(name) :] for name, option in _OPTIONS.items() if said.startswith(name)), said)


def with_options(said: str) -> str:
    """An error or a warning, with remedies of the command line."""
    for pattern, words in _REMEDIES.items():
        said = re.sub(pattern, words, said)
    return said


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show each warning in one line, without the code that it came from."""
    with warnings.catch_warnings():

        def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            note("warning", with_options(str(message)))

        for category in (DeprecationWarning, FutureWarning):  # of other libraries, for their own callers
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def quiet_libraries() -> None:
    """No logs and bars of libraries: their errors are reported here."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
