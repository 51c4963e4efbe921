"""From annotated documents to a model that finds the same kinds of spans, and back: one class, `Extractor`."""

from .evaluation import Evaluation
from .extractor import Extractor
from .suggestion import Suggestion, suggest

__all__ = ["Evaluation", "Extractor", "Suggestion", "suggest"]
