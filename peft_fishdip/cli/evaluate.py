"""fishdip evaluate: scores of an adapter on annotated texts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..extractor import Extractor
from ..view.reliability import check_plot, write_reliability
from .documents import From, Read, Unit
from .inputs import load_labelled
from .messages import note
from .options import Adapter, Base, BatchSize, Device, Encoding
from .outputs import check_output


def evaluate(
    adapter: Adapter,
    data: Annotated[Path, typer.Argument(help="Annotated texts, in any format that `fishdip convert` reads.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write the scores as JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw how often spans are right by their score: .png, .svg or .pdf (matplotlib)."
        ),
    ] = None,
    encoding: Encoding = "utf-8",
    from_: From = None,
    unit: Unit = None,
    read: Read = None,
    batch_size: BatchSize = 32,
    model: Base = None,
    device: Device = None,
) -> None:
    """Show how well an adapter finds what is annotated: precision, recall and F1 of exact matches by label."""
    if plot is not None:
        check_plot(plot)
        check_output(plot, [data])
    examples = load_labelled(data, encoding, from_, unit, read)  # a wrong file is told before a model is loaded
    extractor = Extractor.load(adapter, model=model, device=device)
    found = extractor.evaluate(examples, batch_size=batch_size, progress=sys.stderr.isatty())
    found = replace(found, of=str(data))
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else str(found))
    if plot is None:
        return
    if found.calibration is None:
        note("warning", f"{plot} is not written: no span was found, so that there is no score to draw")
    else:
        write_reliability(plot, found.calibration, data.name)
