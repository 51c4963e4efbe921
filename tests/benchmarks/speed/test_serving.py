"""Many adapters over one base: the structure of what is measured, never its times."""

import json

import pytest

from benchmarks.speed.__main__ import main

from .options import TINY, tables


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    words = ["--serving-adapters", "4", "--serving-few", "2", "--serving-requests", "8", "--serving-threads", "3"]
    assert main(["serving", *TINY, *words, "--output", str(folder)]) == 0
    return json.loads((folder / "serving.json").read_text(encoding="utf-8"))


def test_switches_and_requests_are_timed_and_threads_answer_as_one(part):
    assert part["switch_seconds"].keys() == part["held_bytes"].keys() == {"2", "4"}
    assert all(min(values) > 0 for values in part["switch_seconds"].values())
    assert part["request_seconds"].keys() == {"same", "switching", "threads"}
    assert all(len(values) == 2 for values in part["request_seconds"].values())
    assert part["entries"] == int(0.01 * part["parameters"])
    assert part["same_outputs"] is True


def test_the_table_tells_adapters_per_second_and_bytes_per_adapter(part):
    held = {"2": 10_000_000, "4": 14_000_000}
    spent = {"same": [0.1, 0.1], "switching": [0.2, 0.2], "threads": [0.25, 0.25]}
    (found,) = tables("serving", {**part, "held_bytes": held, "request_seconds": spent})
    assert [line[-1].value for line in found.lines] == [None, None, 1.0, 2.0, 2.5]
    text = " ".join(found.notes)
    assert "5 a second" in text
    assert f"2 MB, {2e6 / part['entries']:.3g} bytes per entry" in text
