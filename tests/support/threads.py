"""Threads that start at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_together(jobs: list[Callable[[], None]]) -> None:
    """Run each job in a thread of its own; raise what one of them raises."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def guarded(job: Callable[[], None]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "the threads wait for each other"
    if failures:
        raise failures[0]
