"""A list of jobs that several processes work through together, each leaving one file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

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


def work_through(jobs: Sequence[Job], locks: Path) -> None:
    """Do all jobs that are not done yet; return when all are done, by whomever.

    A job that another process has begun is left to it: while a process works on a job it holds a file lock, which the
    system lets go when the process ends in whatever way. A job that was cut short is then done again.

    Args:
        locks: folder for the lock files, the same for all processes.
    """
    locks.mkdir(parents=True, exist_ok=True)
    pending = list(jobs)
    with tqdm(total=len(jobs), unit="run", desc="Comparison", smoothing=0) as bar:
        while pending:
            waiting = [job for job in pending if not attempt(job, locks)]
            bar.update(len(pending) - len(waiting))
            if len(waiting) == len(pending):
                time.sleep(WAIT)
            pending = waiting


def attempt(job: Job, locks: Path) -> bool:
    """Whether the job is done now; False if it is another process's, or cannot begin yet."""
    if job.path.exists():
        return True
    if not all(path.exists() for path in job.needs):
        return False
    lock = FileLock(locks / hashlib.sha256(str(job.path).encode()).hexdigest()[:16], timeout=0)
    try:
        with lock:
            if not job.path.exists():
                job.work()
        return True
    except Timeout:
        return False
