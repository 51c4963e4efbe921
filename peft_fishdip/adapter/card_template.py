"""Takes the unfilled parts of Hugging Face's template, with which PEFT begins each card, out of a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator

from huggingface_hub import ModelCard, ModelCardData

UNFILLED = "[More Information Needed]"
LAST_OF_PEFT = "### Framework versions"
"""PEFT appends this section, whatever stands before it."""
HEADING = re.compile(r"^(#{1,6}) .*$", re.MULTILINE)


def without_unfilled(text: str) -> str:
    """The card without the sections that are still as in the template, and without its other unfilled lines.

    What a user or a library has written stays, and so does the title.
    """
    if UNFILLED not in text:
        return text
    template = ModelCard.from_template(ModelCardData()).text
    parts = [*sections(template)]
    untouched = {section.strip() for _, section in parts}
    leaves = {
        section.strip()
        for (level, section), (following, _) in zip(parts, [*parts[1:], (0, "")], strict=True)
        if following <= level
    }
    asked = {line.strip() for line in template.splitlines() if UNFILLED in line}
    kept: list[str] = []
    inside = 0  # the level of the section that was kept last; the one around it stays too
    for level, section in reversed([*sections(text)]):
        if level > 1 and section.strip() in untouched and (inside <= level or section.strip() in leaves):
            continue
        inside = 1 if section.startswith(LAST_OF_PEFT) else level
        kept.append("".join(line for line in section.splitlines(keepends=True) if line.strip() not in asked))
    return "".join(reversed(kept))


def sections(text: str) -> Iterator[tuple[int, str]]:
    """The level of each heading, and the text from it to the next one; first, with level 0, what stands before."""
    levels, starts = [0], [0]
    for heading in HEADING.finditer(text):
        levels.append(len(heading.group(1)))
        starts.append(heading.start())
    for level, start, end in zip(levels, starts, [*starts[1:], len(text)], strict=True):
        yield level, text[start:end]
