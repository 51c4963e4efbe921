"""Sequence labelling tasks as text to text: formats, parser, metrics, readers, protocols, generation.

Nothing here knows of the tuner. Encoder-decoder and decoder-only models of transformers write text; encoders tag words.
"""

from .alignment import align
from .base import Decoded, Encoded, Problem, Task
from .calibration import Calibration, CalibrationBin, calibration_error, calibration_of
from .collator import TaskCollator
from .dst import DstTask
from .families import load_model, task_type
from .features import to_features
from .formats.brat import read_brat
from .formats.doccano import read_doccano
from .formats.document import Document, to_document, to_examples
from .formats.fishdip import read_fishdip
from .formats.gliner import read_gliner
from .formats.label_studio import read_label_studio
from .formats.prodigy import read_prodigy
from .formats.pubtator import read_pubtator
from .formats.read import Loaded, read
from .formats.spacy_docbin import read_spacy
from .formats.write import write
from .generation import evaluate, generate, predict
from .hf import from_dataset, from_tagged_dataset, to_dataset
from .joint import JointTask
from .likelihood import candidate_losses, choose, likelihood_accuracy
from .metrics import F1Score, joint_accuracy, mean_std, micro_f1, reference_joint_accuracy, srl_f1
from .names import (
    ACE05_ENTITIES,
    ACE05_RELATIONS,
    CONLL03_ENTITIES,
    CONLL04_ENTITIES,
    CONLL04_RELATIONS,
    MASAKHANER_ENTITIES,
    MULTIWOZ_SLOTS,
    ONTONOTES_ENTITIES,
    WNUT17_ENTITIES,
    WOZ_SLOTS,
)
from .ner import NerTask
from .offsets import TextSpan, from_offsets, to_offsets, token_spans
from .prompts import to_prompt_completion
from .protocols import Episode, fraction_indices, meta_split, sample_episode, select_ids, write_ids
from .readers.ace05 import read_ace05
from .readers.common import DataFormatError
from .readers.conll import read_conll
from .readers.conll04 import read_conll04
from .readers.dialogue import read_multiwoz, read_woz
from .readers.fewrel import read_fewrel, read_relation_names
from .readers.ontonotes import read_ontonotes
from .readers.opennre import read_opennre
from .readers.semeval2010 import read_semeval2010
from .readers.srl import read_conll2005, read_srl_columns, read_srl_lines
from .readers.tacred import read_tacred
from .readers.tagged_json import read_tagged_json
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
from .relation import RelationTask
from .report import LabelScore, Report, score_report
from .results import to_dict, to_pandas, write_json_lines
from .self_training.loop import SelfTrained, self_train
from .self_training.options import SelfTrainingOptions
from .self_training.records import RoundRecord
from .sequence_classification import SequenceClassificationTask
from .srl import SrlTask
from .tagging import TagError, spans_to_tags, tags_to_spans
from .text import escape, tokenize, unescape
from .token_classification import TokenClassificationTask

__all__ = [
    "ACE05_ENTITIES",
    "ACE05_RELATIONS",
    "CONLL03_ENTITIES",
    "CONLL04_ENTITIES",
    "CONLL04_RELATIONS",
    "MASAKHANER_ENTITIES",
    "MULTIWOZ_SLOTS",
    "ONTONOTES_ENTITIES",
    "WNUT17_ENTITIES",
    "WOZ_SLOTS",
    "Calibration",
    "CalibrationBin",
    "DataFormatError",
    "Decoded",
    "Document",
    "DstExample",
    "DstTask",
    "Encoded",
    "Episode",
    "F1Score",
    "JointExample",
    "JointTask",
    "LabelScore",
    "Loaded",
    "NerExample",
    "NerTask",
    "Problem",
    "Relation",
    "RelationExample",
    "RelationTask",
    "Report",
    "RoundRecord",
    "SelfTrained",
    "SelfTrainingOptions",
    "SequenceClassificationTask",
    "SlotValue",
    "Span",
    "SrlExample",
    "SrlTask",
    "TagError",
    "Task",
    "TaskCollator",
    "TextSpan",
    "TokenClassificationTask",
    "Turn",
    "align",
    "calibration_error",
    "calibration_of",
    "candidate_losses",
    "choose",
    "escape",
    "evaluate",
    "fraction_indices",
    "from_dataset",
    "from_offsets",
    "from_tagged_dataset",
    "generate",
    "joint_accuracy",
    "likelihood_accuracy",
    "load_model",
    "mean_std",
    "meta_split",
    "micro_f1",
    "predict",
    "read",
    "read_ace05",
    "read_brat",
    "read_conll",
    "read_conll04",
    "read_conll2005",
    "read_doccano",
    "read_fewrel",
    "read_fishdip",
    "read_gliner",
    "read_label_studio",
    "read_multiwoz",
    "read_ontonotes",
    "read_opennre",
    "read_prodigy",
    "read_pubtator",
    "read_relation_names",
    "read_semeval2010",
    "read_spacy",
    "read_srl_columns",
    "read_srl_lines",
    "read_tacred",
    "read_tagged_json",
    "read_woz",
    "reference_joint_accuracy",
    "sample_episode",
    "score_report",
    "select_ids",
    "self_train",
    "spans_to_tags",
    "srl_f1",
    "tags_to_spans",
    "task_type",
    "to_dataset",
    "to_dict",
    "to_document",
    "to_examples",
    "to_features",
    "to_offsets",
    "to_pandas",
    "to_prompt_completion",
    "token_spans",
    "tokenize",
    "unescape",
    "write",
    "write_ids",
    "write_json_lines",
]
