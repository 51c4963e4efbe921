"""Adapters for programs that do not know the method: sparse patches of a checkpoint, and merged models as folders."""

from .merged import write_merged
from .patch import WeightPatch, read_patch, write_patch

__all__ = ["WeightPatch", "read_patch", "write_merged", "write_patch"]
