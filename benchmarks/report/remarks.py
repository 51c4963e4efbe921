"""What a reader must know of a method to judge its figures."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from .rows import Row

FROZEN_NORMS = "the layer norms stay frozen, which the papers of this method train too"
OF_TYPE = {
    "HOULSBY": FROZEN_NORMS,
    "COMPACTER": FROZEN_NORMS,
    "PROMPT_TUNING": "of an encoder-decoder, PEFT allocates the virtual tokens twice and uses the first half of them",
    "PREFIX_TUNING": "PEFT's prefixes reach the decoder's self-attention alone",
}
"""By PEFT type."""


def remarks(rows: Sequence[Row]) -> tuple[str, ...]:
    """Of the methods in a table."""
    return tuple(f"{row.method}: {text}." for row in rows if row.successes and (text := remark(row)))


def remark(row: Row) -> str | None:
    run = row.successes[0]
    if row.figures("in_context_shown")[0] is not None:
        shown = mean(row.figures("in_context_shown"))
        return f"{shown:.1f} examples stood before a source on average; nothing is trained"
    return OF_TYPE.get(str((run["run_info"].get("peft_config") or {}).get("peft_type")))
