"""fishdip evaluate: scores of an adapter on annotated texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..extractor import Extractor
from ..extractor.data import load_examples
from .options import Adapter, Base, BatchSize, Device


def evaluate(
    adapter: Adapter,
    data: Annotated[Path, typer.Argument(help="Annotated texts, in any format that `fishdip convert` reads.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write the scores as JSON.")] = False,
    batch_size: BatchSize = 32,
    model: Base = None,
    device: Device = None,
) -> None:
    """Show how well an adapter finds what is annotated: precision, recall and F1 of exact matches by label."""
    load_examples(data)  # a wrong file is told before a model is loaded
    found = Extractor.load(adapter, model=model, device=device).evaluate(data, batch_size=batch_size)
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else str(found))
