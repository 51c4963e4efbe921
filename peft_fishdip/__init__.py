"""Fish-Dip: sample-aware dynamic sparse fine-tuning as a PEFT method.

Importing this package registers PeftType "FISHDIP" with PEFT.
"""

from typing import TYPE_CHECKING, Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from .adapter.mask_record import MaskUpdate
from .callback import FishDipCallback
from .config import FishDipConfig
from .criteria import ExampleGradients, register_importance
from .layers.layer import FishDipLayer
from .model import FishDipModel, tuner_of
from .optim.adafactor import SparseAdafactor
from .registration import PEFT_TYPE
from .tuner.lottery import lottery_mask

if TYPE_CHECKING:
    from .extractor import Extractor

__version__ = "0.2.0"

if PEFT_TYPE not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="fishdip", config_cls=FishDipConfig, model_cls=FishDipModel)


def __getattr__(name: str) -> Any:
    """`Extractor`, imported where it is used, since it needs the tasks and a Trainer."""
    if name == "Extractor":
        from .extractor import Extractor

        return Extractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "Extractor"})


__all__ = [
    "ExampleGradients",
    "Extractor",
    "FishDipCallback",
    "FishDipConfig",
    "FishDipLayer",
    "FishDipModel",
    "MaskUpdate",
    "SparseAdafactor",
    "__version__",
    "lottery_mask",
    "register_importance",
    "tuner_of",
]
