"""Prefix tuning in its full form for T5, as a PEFT method; importing this registers PeftType "FULL_PREFIX"."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from .config import PEFT_TYPE, FullPrefixConfig
from .layer import PrefixAttention
from .model import FullPrefixModel

if PEFT_TYPE not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="full_prefix", config_cls=FullPrefixConfig, model_cls=FullPrefixModel)

__all__ = ["FullPrefixConfig", "FullPrefixModel", "PrefixAttention"]
