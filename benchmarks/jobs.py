"""A list of jobs that several processes work through together, each leaving one file."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from .files import make_folder

WAIT = 1.0
"""Seconds between two looks at what other processes are doing."""


@dataclass(frozen=True)
class Job:
    """Something to do once."""

    path: Path
    """The file that it leaves; the job is done when it is there."""
    work: Callable[[], None]
    """Writes the file, whole or not at all."""
    needs: tuple[Path, ...] = ()
    """Files of other jobs that must be there first."""


def work_through(jobs: Sequence[Job], folder: Path) -> None:
    """Do all jobs that are not done yet; return when all are done, by this process or by others.

    A job that another process has begun is left to it: while a process works on a job it holds a file lock, which the
    system lets go when the process ends in whatever way. A job that was cut short is then done again.

    Args:
        folder: where their files are, by whatever path a process calls it.
    """
    pending = [job for job in jobs if not job.path.exists()]
    done = len(jobs) - len(pending)
    with tqdm(total=len(jobs), initial=done, unit="run", desc="Comparison", smoothing=0) as bar:
        while pending:
            waiting = []
            for job in pending:
                if attempt(job, folder):
                    bar.update()
                else:
                    waiting.append(job)
            if len(waiting) == len(pending):
                time.sleep(WAIT)
            pending = waiting


def attempt(job: Job, folder: Path) -> bool:
    """Whether the job is done now; False if it is another process's, or cannot begin yet."""
    if job.path.exists():
        return True
    if not all(path.exists() for path in job.needs):
        return False
    name = hashlib.sha256(os.path.relpath(job.path, folder).encode()).hexdigest()[:16]
    try:
        with lock(folder, name, timeout=0):
            if not job.path.exists():
                job.work()
        return True
    except Timeout:
        return False


def lock(folder: Path, name: str, timeout: float = -1) -> FileLock:
    """A lock that all processes with this folder share; Timeout if it is not free after so many seconds (-1: wait)."""
    return FileLock(make_folder(folder / "locks") / name, timeout=timeout)
