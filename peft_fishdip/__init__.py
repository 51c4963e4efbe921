"""Fish-Dip: sample-aware dynamic sparse fine-tuning as a PEFT method.

Importing this package registers PeftType "FISHDIP" with PEFT.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from ._register import PEFT_TYPE
from .attached import tuner_of
from .callback import FishDipCallback
from .config import FishDipConfig
from .layer import FishDipLayer
from .mask_update import MaskUpdate
from .model import FishDipModel
from .optim import SparseAdafactor

if PEFT_TYPE not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="fishdip", config_cls=FishDipConfig, model_cls=FishDipModel)

__all__ = [
    "FishDipCallback",
    "FishDipConfig",
    "FishDipLayer",
    "FishDipModel",
    "MaskUpdate",
    "SparseAdafactor",
    "tuner_of",
]
