"""The command `fishdip` and its verbs."""

from __future__ import annotations

import os

import typer

from .convert import convert
from .evaluate import evaluate
from .export import export
from .messages import quiet_libraries, reported
from .predict import predict
from .suggest import suggest
from .train import train
from .usage import OneLineUsage
from .view import view

VERBS = (
    train,
    predict,
    evaluate,
    suggest,
    convert,
    view,
    export,
)
"""The functions of the verbs, whose names these have."""

app = typer.Typer(
    name="fishdip",
    cls=OneLineUsage,
    help="Train a model on a few annotated texts, and let it annotate many.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in VERBS:
    app.command()(reported(verb))


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a Trainer may fork
    quiet_libraries()
    app()
