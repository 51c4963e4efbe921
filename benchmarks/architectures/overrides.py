"""What the generic way of building tiny models does not know about some architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIGS: dict[str, Mapping[str, Any]] = {}
"""By model type, fields of its config."""
