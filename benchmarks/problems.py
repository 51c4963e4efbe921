"""The five tasks of a comparison."""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {
    "ner": ("f1",),
    "relation": ("accuracy",),
    "joint": ("entity_f1", "relation_f1"),
    "srl": ("f1",),
    "dst": ("joint_accuracy", "slot_f1"),
}
"""Of each task, the metrics that a report shows; shares from 0 to 1."""
