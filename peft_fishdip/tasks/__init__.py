"""Sequence labelling tasks as text to text: formats, parser, metrics, readers, protocols, generation."""

from .base import Decoded, Encoded, Problem, Task
from .metrics import F1Score, micro_f1
from .names import CONLL04_ENTITIES, CONLL04_RELATIONS
from .ner import NerTask
from .protocols import fraction_indices
from .readers.common import DataFormatError
from .readers.conll04 import read_conll04
from .records import (
    DstExample,
    JointExample,
    NerExample,
    Relation,
    RelationExample,
    SlotValue,
    Span,
    SrlExample,
    Turn,
)

__all__ = [
    "CONLL04_ENTITIES",
    "CONLL04_RELATIONS",
    "DataFormatError",
    "Decoded",
    "DstExample",
    "Encoded",
    "F1Score",
    "JointExample",
    "NerExample",
    "NerTask",
    "Problem",
    "Relation",
    "RelationExample",
    "SlotValue",
    "Span",
    "SrlExample",
    "Task",
    "Turn",
    "fraction_indices",
    "micro_f1",
    "read_conll04",
]
