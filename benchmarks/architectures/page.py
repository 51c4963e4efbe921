"""The page of the documentation about the sweep, and what it lists."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from .sweep import EXACT, NOT_BUILT, REFUSED, WRONG, Outcome

GROUPS = ("text", "vision", "audio", "several kinds of input", "other")
HEADINGS = {EXACT: "Exact", REFUSED: "Refused", WRONG: "Wrong", NOT_BUILT: "Not built"}
WIDTH = 120

INTRODUCTION = """\
For each architecture of transformers, a tiny model with random weights gets an adapter of all its parameters
(`density=1.0`) with random deltas. A copy of the model, to whose parameters the same deltas are added by hand, is
compared with it, in float32 on a CPU:

- the outputs of the adapter, not merged and merged, with those of the copy;
- the gradient of every delta with the gradient of that parameter of the copy, for a fixed function of all outputs;
- in train mode, the gradients with gradient checkpointing, with `use_reentrant=False` and `True`, with those without,
  where checkpointing leaves the gradients of the model without an adapter as they are.

"Exact" means no difference but rounding. One model class stands for each model type; parts of a model that have a
type of their own are compared as parts of the whole. A model that reads images or sound besides text may have been
given text alone; then the parameters of its other parts have no gradient in either model."""
COMMAND = """\
This page is written by the following command, which prints the reason for each model type. Choose some with `--only`.

```bash
python -m benchmarks.architectures
```"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page in Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    parts = ["# Architectures", INTRODUCTION, f"Versions: {packages}.", COMMAND, counts(outcomes)]
    exact = [outcome for outcome in outcomes if outcome.kind == EXACT]
    parts.append(f"## {HEADINGS[EXACT]}")
    for group in GROUPS:
        parts += listed_under(group.capitalize(), (x.model_type for x in exact if x.group == group))
    frozen = [f"{names([x.model_type])} ({names(x.frozen)})" for x in exact if x.frozen]
    if frozen:
        told = "Of these, some have parameters that no module owns, which stay frozen, as a warning says: "
        parts.append(wrapped(told + "; ".join(frozen) + "."))
    for kind in (REFUSED, WRONG):
        found = [outcome for outcome in outcomes if outcome.kind == kind]
        if found:
            rows = [f"| `{x.model_type}` | `{x.class_name}` | {cell(x.reason)} |" for x in found]
            title = "reason" if kind == REFUSED else "what differs"
            parts += [f"## {HEADINGS[kind]}", "\n".join([f"| type | class | {title} |", "|---|---|---|", *rows])]
    left = [outcome for outcome in outcomes if outcome.kind == NOT_BUILT]
    if left:
        parts.append(f"## {HEADINGS[NOT_BUILT]}")
        parts.append("Models that could not be made tiny or run here, with or without an adapter.")
    for heading in dict.fromkeys(sorted(outcome.heading for outcome in left)):
        parts += listed_under(heading, (x.model_type for x in left if x.heading == heading))
    return "\n\n".join(parts) + "\n"


def counts(outcomes: Sequence[Outcome]) -> str:
    found = {kind: [x for x in outcomes if x.kind == kind] for kind in (EXACT, REFUSED, WRONG, NOT_BUILT)}
    numbers = ", ".join(f"{len(some)} {kind.lower()}" for kind, some in found.items())
    checkpointed = sum(x.checkpointed for x in found[EXACT])
    return wrapped(
        f"Of {len(outcomes)} model types: {numbers}. {checkpointed} of the exact ones support checkpointing."
    )


def listed_under(title: str, model_types: Iterable[str]) -> Iterator[str]:
    found = list(model_types)
    if found:
        yield wrapped(f"**{title}** ({len(found)}): {names(found)}.")


def names(some: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in some)


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def cell(text: str) -> str:
    """Text as one cell of a table."""
    return text.replace("|", "\\|")


def listed(text: str) -> dict[str, str]:
    """By model type, the kind of outcome under whose heading a page lists it."""
    kinds = {heading: kind for kind, heading in HEADINGS.items()}
    found: dict[str, str] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        for paragraph in body.split("\n\n"):
            if paragraph.strip().startswith("| "):
                found.update(dict.fromkeys(re.findall(r"^\| `([^`]+)`", paragraph, re.MULTILINE), kinds[heading]))
            elif paragraph.strip().startswith("**"):
                found.update(dict.fromkeys(re.findall(r"`([^`]+)`", paragraph), kinds[heading]))
    return found
