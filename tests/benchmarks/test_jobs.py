"""Several processes share a list of jobs; whatever way one of them ends, every job is done once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import jobs
from benchmarks.jobs import Job, attempt, lock, work_through
from benchmarks.settings import SettingsError

WORKER = """
import os, sys, time
from pathlib import Path
from benchmarks.jobs import Job, work_through
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
def job(number):
    path = folder / f"{number}.done"
    def work():
        with (folder / "begun").open("a") as file:
            file.write(f"{number}\\n")
        time.sleep(seconds)
        unfinished = folder / f"{number}.{os.getpid()}"
        unfinished.write_text(str(os.getpid()))
        unfinished.replace(path)
    return Job(path, work)
work_through([job(number) for number in range(8)], folder)
"""


def worker(folder, seconds):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds)], stderr=subprocess.DEVNULL)


def begun(folder):
    path = folder / "begun"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.02)


def test_two_processes_share_the_jobs_and_do_none_twice(tmp_path):
    workers = [worker(tmp_path, 0.3) for _ in range(2)]
    assert [process.wait(120) for process in workers] == [0, 0]
    assert sorted(begun(tmp_path)) == [str(number) for number in range(8)]
    doers = {path.read_text(encoding="utf-8") for path in tmp_path.glob("*.done")}
    assert doers == {str(process.pid) for process in workers}


def test_what_a_killed_process_had_begun_is_done_by_another(tmp_path):
    victim = worker(tmp_path, 1000)
    wait_for(lambda: begun(tmp_path) == ["0"])
    other = worker(tmp_path, 0.01)
    wait_for(lambda: len(list(tmp_path.glob("*.done"))) == 7)
    assert not (tmp_path / "0.done").exists()
    victim.send_signal(signal.SIGKILL)
    victim.wait(60)
    assert other.wait(60) == 0
    assert sorted(begun(tmp_path)) == sorted(["0", *map(str, range(8))])
    assert (tmp_path / "0.done").read_text(encoding="utf-8") == str(other.pid)


def test_a_job_waits_for_the_files_that_it_needs(tmp_path):
    order = []

    def job(name, *needs):
        def work():
            order.append(name)
            (tmp_path / name).touch()

        return Job(tmp_path / name, work, tuple(tmp_path / need for need in needs))

    work_through([job("c", "a", "b"), job("b", "a"), job("a")], tmp_path)
    assert order == ["a", "b", "c"]


def test_what_is_done_is_not_done_again_and_an_error_reaches_the_caller(tmp_path):
    def fail():
        raise KeyboardInterrupt

    (tmp_path / "done").touch()
    work_through([Job(tmp_path / "done", fail)], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        work_through([Job(tmp_path / "open", fail)], tmp_path)
    work_through([Job(tmp_path / "open", (tmp_path / "open").touch)], tmp_path)
    assert (tmp_path / "open").exists()


def test_a_folder_has_the_same_locks_by_whatever_path_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    begun = []

    def work():  # while this process holds the lock of the job, it calls the folder by another path
        other = Job(tmp_path / "runs" / "a", lambda: begun.append("again"))
        assert not attempt(other, tmp_path / "runs")
        Path("runs/a").touch()

    work_through([Job(Path("runs/a"), work)], Path("runs"))
    assert begun == []


def test_the_bar_counts_what_is_done_as_it_is_done(tmp_path, monkeypatch):
    shown, real = [], jobs.tqdm

    class Bar(real):
        def update(self, n=1):
            shown.append((len(list(tmp_path.glob("[0-9]"))), self.initial, self.n + n, self.total))
            return super().update(n)

    monkeypatch.setattr(jobs, "tqdm", Bar)
    (tmp_path / "0").touch()
    work_through([Job(tmp_path / str(i), (tmp_path / str(i)).touch) for i in range(4)], tmp_path)
    assert shown == [(2, 1, 2, 4), (3, 1, 3, 4), (4, 1, 4, 4)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/locks cannot be a folder"):
        lock(tmp_path / "file", "x")
