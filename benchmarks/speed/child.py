"""A measurement in a fresh process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..settings import SettingsError
from .settings import Settings

ROOT = Path(__file__).parents[2]
MARK = "result: "


def run_in_child(task: str, settings: Settings, **arguments: Any) -> dict[str, Any]:
    """What `task` of TASKS returns in a process that has done nothing else; on failure {"error": one line}."""
    message = json.dumps({"settings": settings.as_dict(), "arguments": arguments})
    command = [sys.executable, "-m", "benchmarks.speed", "child", task, message]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            result: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return result
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else "it said nothing"
    return {"error": f"process ended with status {done.returncode}: {reason}"}


def answer(tasks: Mapping[str, Callable[..., dict[str, Any]]], task: str, message: str) -> None:
    """The child's side: do a task and print its result.

    Raises:
        SettingsError: there is no such task.
    """
    if task not in tasks:
        raise SettingsError(f"there is no task {task!r}; there are {', '.join(tasks)}")
    content = json.loads(message)
    result = tasks[task](Settings.from_dict(content["settings"]), **content["arguments"])
    print(MARK + json.dumps(result), flush=True)
