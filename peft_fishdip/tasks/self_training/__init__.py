"""Learning from unlabelled texts: a teacher labels them for a student, which becomes the next teacher."""

from .loop import SelfTrained, self_train
from .options import SelfTrainingOptions
from .records import RoundRecord
from .weights import alignments, batch_weights

__all__ = ["RoundRecord", "SelfTrained", "SelfTrainingOptions", "alignments", "batch_weights", "self_train"]
