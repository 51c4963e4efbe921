"""The benchmark of costs at a tiny geometry: its structure and its arithmetic, never its times."""

import json
from dataclasses import asdict, replace
from statistics import median

import pytest
import torch

from benchmarks.speed.__main__ import main
from benchmarks.speed.internals import PHASES
from benchmarks.speed.steps import methods_of
from benchmarks.speed.targets import findings

from .options import TINY, settings

BRIEF = ["--examples", "12", "--step-batch", "3", "--timed-steps", "2", "--fisher-examples", "3"]
BRIEF += ["--fisher-lengths", "3", "40", "--new-tokens", "3"]
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the steps, the update, the decoding and the files of a tiny model."""
    folder = tmp_path_factory.mktemp("speed")
    for part in ("steps", "update", "decode", "files"):
        assert main([part, *TINY, "--real-steps", "1", *BRIEF, "--output", str(folder)]) == 0
    return folder


def read(folder, part):
    return json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))


def test_every_method_has_a_turn_in_every_round(measured):
    steps = read(measured, "steps")
    names = {method.name for method in methods_of(settings())}
    assert steps["contestants"].keys() == names
    assert {name for name in names if "fishdip" in name} == {
        f"fishdip-{pattern}@{density}"
        for pattern in ("uniform", "clustered", "real")
        for density in (0.001, 0.01, 0.05)
    }
    assert all(sorted(order) == sorted(names) for order in steps["order"])
    assert len(steps["order"]) == 3
    assert len({tuple(order) for order in steps["order"]}) > 1
    for record in steps["contestants"].values():
        assert not record["error"]
        assert len(record["seconds"]) == 2
        assert len(record["warmup_seconds"]) == 1
        assert min(record["seconds"]) > 0


def test_the_file_tells_machine_and_settings(measured):
    part = read(measured, "steps")
    assert {"cpu", "cores", "threads", "packages", "gpu", "revision"} <= part["machine"].keys()
    assert part["settings"] == json.loads(
        json.dumps(asdict(replace(settings(*BRIEF), threads=torch.get_num_threads())))
    )


def test_ratios_in_the_report_are_those_of_the_raw_seconds(measured):
    contestants = read(measured, "steps")["contestants"]
    ours, lora = contestants["fishdip-clustered@0.01"]["seconds"], contestants["lora"]["seconds"]
    expected = [a / b for a, b in zip(ours, lora, strict=True)]
    (found,) = [x for x in findings({"steps": read(measured, "steps")}) if x.target == "step, clustered mask, to lora"]
    assert found.values == expected
    report = (measured / "report.md").read_text(encoding="utf-8")
    line = next(line for line in report.splitlines() if line.startswith("| step, clustered mask, to lora"))
    assert f"{median(expected):.3g} ({min(expected):.3g} to {max(expected):.3g}, 2x)" in line
    row = next(line for line in report.splitlines() if line.startswith("| Fish-Dip, 1 %, clustered mask"))
    assert [cell.strip() for cell in row.replace("\\|", "").split("|")][-3] == f"{median(expected):.3g}"


def test_the_parts_of_an_update_sum_to_the_whole(measured):
    split = read(measured, "update")["split"]
    assert split["phases"] == [*PHASES, "rest"]
    for whole, parts in zip(split["update_seconds"], split["update_phases"], strict=True):
        assert sum(parts.values()) == pytest.approx(whole)
        assert min(parts.values()) > 0
    for share, whole, seconds in zip(split["share"], split["update_seconds"], split["step_seconds"], strict=True):
        assert len(seconds) == 2
        assert share == pytest.approx(whole / (100 * median(seconds)))


def test_fisher_of_both_ways_agrees(measured):
    for record in read(measured, "update")["fisher"]:
        assert record["norm_difference"] < 1e-5
        assert len(record["ours"]) == len(record["one_by_one"]) == 2


def test_decoding_merged_and_unmerged_gives_the_same_tokens(measured):
    part = read(measured, "decode")
    assert part["decode"]["fishdip_merged"]["same_tokens"]
    assert all(len(record["seconds_per_token"]) == 2 for record in part["decode"].values())


def test_files_of_both_data_types_are_measured(measured):
    files = read(measured, "files")["files"]
    assert files.keys() == {"float32", "bfloat16"}
    for records in files.values():
        ours = {"fishdip-uniform@0.01", "fishdip-uniform@0.01, compact"}
        assert records.keys() == {*ours, "lora", "shira@0.01", "supertuning@0.01", "full"}
        assert all(record["bytes"] > 0 and len(record["load_seconds"]) == 2 for record in records.values())
    usual, compact = (files["bfloat16"]["fishdip-uniform@0.01" + way] for way in ("", ", compact"))
    (found,) = [x for x in findings({"files": read(measured, "files")}) if "bfloat16, time to save" in x.target]
    assert found.values == [a / b for a, b in zip(compact["save_seconds"], usual["save_seconds"], strict=True)]
    assert files["bfloat16"]["full"]["bytes"] < files["float32"]["full"]["bytes"]


def test_the_report_is_rebuilt_from_the_files(measured, capsys):
    before = {path: path.read_bytes() for path in [measured / "report.md", *measured.glob("pictures/*.svg")]}
    assert len(before) == 2
    for path in before:
        path.unlink()
    assert main(["report", "--output", str(measured)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert capsys.readouterr().out.strip() == before[measured / "report.md"].decode().strip()


def test_targets_that_were_not_measured_are_listed(measured):
    found = {x.target: x.verdict for x in findings({"steps": read(measured, "steps")})}
    assert found["memory peak of steps, uniform mask, to lora"] == "not measured"
    assert found["large, bfloat16: memory of steps and updates"] == "not measured"
