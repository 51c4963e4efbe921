"""What a reader must know of a method to judge its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from .rows import Row

AGREE = "agreement"
FROZEN_NORMS = "the layer norms stay frozen, which the papers of this method train too"
OF_TYPE = {
    "HOULSBY": FROZEN_NORMS,
    "COMPACTER": FROZEN_NORMS,
    "PROMPT_TUNING": "of an encoder-decoder, PEFT allocates the virtual tokens twice and uses the first half of them",
    "PREFIX_TUNING": "PEFT's prefixes reach the decoder's self-attention alone",
}
"""By PEFT type, of encoder-decoder models."""


def remarks(rows: Sequence[Row]) -> tuple[str, ...]:
    """Of the methods in a table."""
    return tuple(f"{row.method}: {text}." for row in rows if row.successes for text in texts(row))


def texts(row: Row) -> list[str]:
    """Of a method, on how it works, and on how it was adapted to the model."""
    notes = row.successes[0]["train_info"].get("notes") or []
    return [text for text in (remark(row), *self_training(row), *notes) if text]


def self_training(row: Row) -> Iterator[str]:
    """What each round came to, in means over the seeds that had it."""
    runs = [run["train_info"].get("self_training") or [] for run in row.successes]
    for number in range(max(map(len, runs))):
        records = [rounds[number] for rounds in runs if len(rounds) > number]
        score = mean(record["score"] for record in records)
        if not number:
            yield f"the first teacher has a held-out score of {score:.3f}; means over {len(records)} seeds"
            continue
        kept, texts, agreement = (mean(record[name] for record in records) for name in ("num_kept", "num_texts", AGREE))
        drawn = [[weight for weight in record["weights"] if weight is not None] for record in records]
        ignored = mean(sum(weight == 0 for weight in some) / len(some) if some else 0.0 for some in drawn)
        yield (
            f"round {number} kept {kept:.0f} of {texts:.0f} pseudo-labelled texts, {100 * ignored:.0f} % of them "
            f"without weight; student and teacher agree on {100 * agreement:.0f} % of the texts; held-out score "
            f"{score:.3f}"
        )


def remark(row: Row) -> str | None:
    if row.figures("in_context_shown")[0] is not None:
        shown = mean(row.figures("in_context_shown"))
        return f"{shown:.1f} examples stood before a source on average; nothing is trained"
    config = row.successes[0]["run_info"].get("peft_config") or {}
    if config.get("peft_type") == "FISHDIP" and config.get("update_interval"):
        return mask_updates(row)
    of_t5 = config.get("task_type", "SEQ_2_SEQ_LM") == "SEQ_2_SEQ_LM"
    return OF_TYPE.get(str(config.get("peft_type"))) if of_t5 else None


def mask_updates(row: Row) -> str | None:
    """How often the mask was chosen; nothing of masks that never were, such as random ones."""
    updates = row.successes[0]["train_info"]["mask_updates"]
    steps = [update["step"] for update in updates if "mask_overlap" in update]
    if not steps:
        return None
    if len(steps) == 1:
        return "the mask was chosen once and did not move: training was too short for its interval"
    return f"the mask was chosen anew before steps {', '.join(map(str, steps))} of a run"
