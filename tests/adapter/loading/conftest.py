"""A saved adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from .trained import trained


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good")
    trained().save_pretrained(str(path))
    return path
