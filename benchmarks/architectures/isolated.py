"""Runs a function in a process of its own, which may hang or die."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Report = TypeVar("Report")


def last_report(work: Callable[[Callable[[Any], None]], None], seconds: float, first: Report) -> Report:
    """Call `work(report)` in a copy of this process; the last thing that it reports, or `first` if it reports nothing.

    After so many seconds, the process is ended.
    """
    context = multiprocessing.get_context("fork")  # what this process has imported need not be imported again
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(work, sender), daemon=True)
    process.start()
    sender.close()
    end = time.monotonic() + seconds
    found = first
    try:
        while receiver.poll(max(end - time.monotonic(), 0)):
            found = receiver.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()
        receiver.close()
    return found


def run(work: Callable[[Callable[[Any], None]], None], sender: Connection) -> None:
    work(sender.send)
    sender.close()
