"""Importance functions: what scores the entries of a parameter, as `FishDipConfig.importance` names or gives it."""

from .gradients import ExampleGradients, of_one
from .registry import (
    Criterion,
    ImportanceFunction,
    criterion_of,
    is_known,
    known_names,
    name_of,
    register_importance,
    registered_name,
)

__all__ = [
    "Criterion",
    "ExampleGradients",
    "ImportanceFunction",
    "criterion_of",
    "is_known",
    "known_names",
    "name_of",
    "of_one",
    "register_importance",
    "registered_name",
]
