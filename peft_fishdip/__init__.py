"""Fish-Dip: sample-aware dynamic sparse fine-tuning as a PEFT method.

Importing this package registers PeftType "FISHDIP" with PEFT.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from .adapter.state import MaskUpdate
from .callback import FishDipCallback
from .config import FishDipConfig
from .criteria import ExampleGradients, register_importance
from .layers.layer import FishDipLayer
from .model import FishDipModel, tuner_of
from .optim.adafactor import SparseAdafactor
from .registration import PEFT_TYPE

__version__ = "0.2.0"

if PEFT_TYPE not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="fishdip", config_cls=FishDipConfig, model_cls=FishDipModel)

__all__ = [
    "ExampleGradients",
    "FishDipCallback",
    "FishDipConfig",
    "FishDipLayer",
    "FishDipModel",
    "MaskUpdate",
    "SparseAdafactor",
    "__version__",
    "register_importance",
    "tuner_of",
]
