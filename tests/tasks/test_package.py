"""The package's surface."""

from __future__ import annotations

import ast
from pathlib import Path

import peft_fishdip.tasks as tasks

PACKAGE = Path(tasks.__file__).parent


def test_every_public_name_is_there_once_and_documented():
    assert len(set(tasks.__all__)) == len(tasks.__all__)
    for name in tasks.__all__:
        thing = getattr(tasks, name)
        assert not callable(thing) or thing.__doc__, name


def test_no_import_of_the_tuner_or_of_peft():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # "from ..x" in tasks/y.py leaves the package as soon as it has more dots than folders
                depth = len(path.relative_to(PACKAGE).parts)
                assert node.level <= depth, path
                modules = [node.module or ""] if not node.level else []
            else:
                continue
            for module in modules:
                assert module.split(".")[0] not in ("peft", "peft_fishdip"), (path, module)
