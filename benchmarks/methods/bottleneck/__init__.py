"""Adapters with a bottleneck for T5: Houlsby et al. (ICML 2019) and Compacter (Karimi Mahabadi et al., NeurIPS 2021).

Importing this package registers PeftTypes "HOULSBY" and "COMPACTER" with PEFT.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from peft_fishdip.registration import extended_peft_type

from .config import CompacterConfig, HoulsbyConfig
from .layer import CompacterLayer, HoulsbyLayer
from .model import CompacterModel, HoulsbyModel

if extended_peft_type("HOULSBY") not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="houlsby", config_cls=HoulsbyConfig, model_cls=HoulsbyModel)
if extended_peft_type("COMPACTER") not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="compacter", config_cls=CompacterConfig, model_cls=CompacterModel)

__all__ = ["CompacterConfig", "CompacterLayer", "CompacterModel", "HoulsbyConfig", "HoulsbyLayer", "HoulsbyModel"]
