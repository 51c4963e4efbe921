"""The section of an adapter's README.md that describes the sparse delta."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from ..config import FishDipConfig
from ..fingerprint import digest
from ..schedule import described
from .card_template import without_unfilled
from .mask_record import MaskUpdate
from .state import AdapterState

BEGIN = "<!-- fishdip: written at every save, up to the end mark -->"
END = "<!-- fishdip: end -->"

AUTO_CLASSES = {
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


class CheckpointMetadata(NamedTuple):
    """What a card tells of an adapter beside its config."""

    num_tensors: int
    num_parameters: int
    """N, the entries of the targeted parameters."""
    num_active: int
    """K."""
    support_size: int
    num_updates: int
    last_update: MaskUpdate | None
    base_fingerprint: dict[str, str]
    id2label: Mapping[int, str]
    """Names of the classes of a classifier, by their numbers; empty for other models."""

    @classmethod
    def of(
        cls, state: AdapterState, base_fingerprint: dict[str, str], id2label: Mapping[int, str]
    ) -> CheckpointMetadata:
        return cls(
            len(state.deltas),
            state.num_parameters,
            sum(state.sizes),
            sum(state.support_sizes.values()),
            state.num_updates,
            state.last_update,
            base_fingerprint,
            id2label,
        )


def write_card(
    folder: str, config: FishDipConfig, model: Mapping[str, str] | None, metadata: CheckpointMetadata
) -> None:
    """Put the section below the title of the README.md of `folder`, which is made where PEFT has not made one.

    What else stands there stays; the section of an earlier save is replaced.

    Args:
        config: as it has been saved there.
        model: PEFT's `auto_mapping`: class and library of the base, known where there is no task type.
        metadata: of the adapter.
    """
    path = Path(folder) / "README.md"
    section = f"{BEGIN}\n{card_section(config, metadata, model)}\n{END}"
    if path.is_file():
        text = without_unfilled(path.read_text(encoding="utf-8"))
    else:
        name = config.base_model_name_or_path
        known = name if name and not os.path.exists(name) else None
        header = ModelCardData(base_model=known, library_name="peft", tags=["fishdip"]).to_yaml()
        text = f"---\n{header}\n---\n\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        title = re.search(r"^# .*\n+", text, re.MULTILINE)
        at = title.end() if title else len(text)
        before, after = text[:at].rstrip("\n") + "\n\n", "\n\n" + text[at:] if title else "\n"
    path.write_text(before + section + after, encoding="utf-8")


def card_section(config: FishDipConfig, metadata: CheckpointMetadata, model: Mapping[str, str] | None) -> str:
    share = metadata.support_size / metadata.num_parameters
    rows: dict[str, Any] = {
        "base model": f"`{config.base_model_name_or_path}`" if config.base_model_name_or_path else "unnamed",
        "targeted parameters (N)": f"{metadata.num_parameters:,} in {metadata.num_tensors} tensors",
        "density": f"{config.density:g}",
        "trainable at a time (K)": f"{metadata.num_active:,}",
        "trained in all (support)": f"{metadata.support_size:,}, {share:.2%} of N",
        "mask updates": f"{metadata.num_updates:,}, {described(config.update_interval)}",
    }
    update = metadata.last_update
    if update is not None:
        rows["last update"] = (
            f"before step {update.step:,}: {len(update.example_ids)} examples with losses up to "
            f"{max(update.losses, default=0.0):.3g}, {update.overlap:.1%} of the mask stayed"
            if update.example_ids
            else f"before step {update.step:,}, by given scores: {update.overlap:.1%} of the mask stayed"
        )
    if config.compact_storage:
        rows["compact file"] = stored(config.compact_storage)
    if metadata.base_fingerprint:
        rows["fingerprint of the targeted base weights"] = f"`sha256:{digest(metadata.base_fingerprint)}`"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "## Fish-Dip adapter\n\nPEFT and transformers load this adapter after `pip install peft-fishdip` and "
        "`import peft_fishdip`; without these they fail with `KeyError: 'FISHDIP'`.\n\n"
        f"```python\n{loading(config, metadata, model)}\n```\n\nIt is a sparse delta to the base model, trained by "
        "[Fish-Dip](https://aclanthology.org/2023.emnlp-main.433) with `peft_fishdip`: only the entries that mattered "
        f"most for the worst training examples were changed.\n\n| | |\n|---|---|\n{table}"
    )


def stored(storage: Mapping[str, str]) -> str:
    """What a compact file holds, in words."""
    dtypes = Counter(line.split()[1] for line in storage.values() if int(line.split()[0]))
    halves = [f"effective weights in {name} of {count} tensors" for name, count in dtypes.items() if name != "float32"]
    wide = [f"deltas in float32 of {dtypes['float32']} tensors"] if dtypes["float32"] else []
    only = "; it loads only onto the base with this fingerprint" if halves else ""
    return f"positions as gaps, {' and '.join(halves + wide)}{only}"


def loading(config: FishDipConfig, metadata: CheckpointMetadata, model: Mapping[str, str] | None) -> str:
    """Code that loads the adapter, onto a base of the dtype that it was trained on."""
    arguments = f'"{config.base_model_name_or_path or "path/to/the/base/model"}"'
    dtypes = {line.split()[0] for line in metadata.base_fingerprint.values()}
    if len(dtypes) == 1 and len(metadata.base_fingerprint) == metadata.num_tensors:
        arguments += f', dtype="{dtypes.pop()}"'
    labels = classes_in_words(metadata.id2label)
    arguments += f", {labels}" if labels else ""
    lines = ["import peft_fishdip  # makes the method known to PEFT", "from peft import PeftModel"]
    class_name = AUTO_CLASSES.get(str(getattr(config.task_type, "value", config.task_type)))
    if class_name is None and model and model["parent_library"].startswith("transformers."):
        class_name = model["base_model_class"]
    if class_name:
        lines += [f"from transformers import {class_name}", "", f"base = {class_name}.from_pretrained({arguments})"]
    else:
        lines += ["", "base = ...  # the model that the adapter was trained on"]
    load = 'model = PeftModel.from_pretrained(base, "path/to/this/folder")  # strict=True: only onto these weights'
    if labels and str(getattr(config.task_type, "value", config.task_type)) in ("SEQ_CLS", "TOKEN_CLS"):
        auto = str(class_name).replace("AutoModel", "AutoPeftModel")
        load += f'\n# in one step: {auto}.from_pretrained("path/to/this/folder", num_labels={len(metadata.id2label)})'
    return "\n".join([*lines, load])


def classes_in_words(id2label: Mapping[int, str]) -> str:
    """Arguments of `from_pretrained` that give a base these classes; empty for the two that it has by default."""
    if all(name == f"LABEL_{number}" for number, name in id2label.items()):
        return f"num_labels={len(id2label)}" if len(id2label) not in (0, 2) else ""
    return f"num_labels={len(id2label)}, id2label={dict(id2label)!r}"
