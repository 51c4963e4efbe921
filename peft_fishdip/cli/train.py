"""fishdip train: an adapter from annotated texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..extractor import Extractor
from ..extractor.extractor import DEFAULT_MODEL
from .documents import From, Read, Unit
from .inputs import lines_of, load_labelled
from .messages import note
from .options import Device, Encoding


def train(
    data: Annotated[Path, typer.Argument(help="Annotated texts, in any format that `fishdip convert` reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the adapter.")],
    model: Annotated[
        str, typer.Option(help="Base model: T5, causal LM or encoder, an id of the Hub or a folder.")
    ] = DEFAULT_MODEL,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=WORDS", help="Words for a label, such as PER=person; may be repeated."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Cross-validation with so many folds; then train on all examples.")] = 0,
    held_out: Annotated[float, typer.Option(help="Share of 20 examples or more that is kept for the scores.")] = 0.2,
    refit: Annotated[bool, typer.Option("--refit", help="Train again on all examples after the scores.")] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps; by default 10 an example, 200 to 1000.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 8,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adamw or sparse_adafactor; by default the latter for encoders, adamw for others."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate, which falls linearly to 0; by default 1e-3, with sparse_adafactor 1e-2."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Share of the parameters that is trained at any time; by default 1 %, of small models more."),
    ] = None,
    update_interval: Annotated[
        int | None, typer.Option(help="Steps between two masks; by default few at first, and 100 in the end.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    template: Annotated[str | None, typer.Option(help="Prompt of a causal LM, with {source} in it.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask a causal LM in its chat template.")] = False,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Texts for self-training: .txt, one a line, or .jsonl, or a folder; may be repeated."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of self-training; by default 2.")] = None,
    encoding: Encoding = "utf-8",
    from_: From = None,
    unit: Unit = None,
    read: Read = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in OUTPUT.training.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter in OUTPUT.")] = False,
    device: Device = None,
) -> None:
    """Train an adapter on annotated texts, and show how well it finds what is annotated.

    Task and labels are those of the data. The scores are those of examples that were not trained on. If the training is
    interrupted, --resume goes on with it.
    """
    if rounds is not None and not unlabelled:
        raise ValueError(
            f"--rounds {rounds}: there is no self-training without --unlabelled; leave it out, or add that"
        )
    try:
        extractor = Extractor.train(
            load_labelled(data, encoding, from_, unit, read),
            model,
            output,
            labels=_names(label or []),
            num_folds=folds,
            held_out_share=held_out,
            refit=refit,
            template=template,
            chat=chat,
            unlabelled=lines_of(unlabelled, encoding) if unlabelled else None,
            rounds=2 if rounds is None else rounds,
            resume=resume,
            overwrite=overwrite,
            device=device,
            steps=steps,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=lr,
            density=density,
            update_interval=update_interval,
            seed=seed,
        )
    except KeyboardInterrupt:
        if Path(f"{output}.training").exists():
            note("note", f"the checkpoints are in {output}.training: the same command with --resume goes on from them")
        raise
    if extractor.self_training is not None:
        typer.echo(str(extractor.self_training))
    if extractor.evaluation is None:
        note("note", "no example was held out: --folds 5 gives scores, and so does `fishdip evaluate` on other texts")
    else:
        typer.echo(str(extractor.evaluation))
    typer.echo(f"saved in {output}")


def _names(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        label, equals, name = text.partition("=")
        if not equals or not label or not name:
            raise ValueError(f"--label {text}: give LABEL=WORDS, such as PER=person")
        if label in found:
            raise ValueError(f"--label {text}: {label} has the words {found[label]!r} already")
        found[label] = name
    return found
