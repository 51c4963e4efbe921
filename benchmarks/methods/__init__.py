"""Methods to compare with that PEFT lacks. Importing this package registers them with PEFT."""

from .bottleneck import CompacterConfig, CompacterModel, HoulsbyConfig, HoulsbyModel
from .prefix import FullPrefixConfig, FullPrefixModel

__all__ = ["CompacterConfig", "CompacterModel", "FullPrefixConfig", "FullPrefixModel", "HoulsbyConfig", "HoulsbyModel"]
