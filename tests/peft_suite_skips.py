"""A pytest plugin for runs of PEFT's own test suite over Fish-Dip: which of its tests contradict the method, and why.

`PYTHONPATH=tests pytest -p peft_suite_skips ...`
"""

from __future__ import annotations

import pytest

REASONS = {
    "test_default_target_modules_not_set": "target_modules=None is every module that owns parameters, as in the paper",
    "layer_indexing": "it counts trainable tensors; an adapter is one vector, as of VeRA and UniLoRA, which PEFT skips",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for part, reason in REASONS.items():
            if part in item.name:
                item.add_marker(pytest.mark.skip(reason=reason))
