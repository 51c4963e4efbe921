"""What pictures show, and where their labels go."""

import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from benchmarks.report import write_report
from benchmarks.report.course import first_fit_updates, loss_points
from benchmarks.report.labels import overlap, place, spread
from benchmarks.report.rows import make_rows

from .made import make_result, of_relation


def test_the_loss_of_episodes_is_cut_off():
    run = of_relation("fishdip/density-1", fit_begins=[0, 100, 150])
    assert [step for step, _ in loss_points(run)] == [50, 100]
    (row,) = make_rows([run])
    assert first_fit_updates(row) == [0, 50]
    run["train_info"]["fit_begins"] = [0]
    assert [step for step, _ in loss_points(run)] == [50, 100, 150, 200]
    assert first_fit_updates(row) == [0, 50, 100, 150]


def test_labels_on_a_line_keep_their_order_and_their_distance():
    chance = random.Random(0)
    for _ in range(100):
        wanted = [chance.random() for _ in range(chance.randrange(1, 12))]
        got = spread(wanted, 0.08, 0.0, 1.0)
        assert [i for _, i in sorted(zip(wanted, range(20), strict=False))] == [
            i for _, i in sorted(zip(got, range(20), strict=False))
        ]
        assert all(b - a >= 0.08 - 1e-9 for a, b in itertools.pairwise(sorted(got)))
        assert min(got) >= -1e-9
        assert max(got) <= 1 + 1e-9
    assert spread([0.2, 0.5], 0.08, 0.0, 1.0) == [0.2, 0.5]


def test_labels_beside_points_do_not_touch():
    points = [(100.0 + 3 * i, 100.0 + 5 * (i % 3)) for i in range(8)]
    boxes = place(points, [(60.0, 9.0)] * 8, (0.0, 0.0, 330.0, 250.0))
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 330 and box[3] <= 250 for box in boxes)


FAMILIES = ("fishdip", "lora", "prompt", "ia3", "fish", "full", "shira")
MANY = [f"{family}/density-1-{name}" for family in FAMILIES for name in "abc"]


def texts(path):
    """Each text of a picture with its box, by a width of half a letter's height for each letter."""
    found = []
    for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"):
        style = dict(part.split(": ", 1) for part in element.get("style").split("; ") if ": " in part)
        size = float(re.search(r"([\d.]+)px", element.get("style"))[1])
        place = re.search(r"translate\(([\d.-]+) ([\d.-]+)\)", element.get("transform", ""))
        x, y = map(float, place.groups()) if place else (float(element.get("x")), float(element.get("y")))
        width = 0.5 * size * len(element.text)
        left = x - width * {"middle": 0.5, "end": 1}.get(style.get("text-anchor"), 0)
        if "rotate(-90" not in element.get("transform", ""):
            found.append((element.text, (left, -y, left + width, -y + 0.7 * size)))
    return found


def numbers_on(path, which):
    """The labels of an axis, as numbers."""
    axis = next(e for e in ElementTree.parse(path).iter() if (e.get("id") or "").endswith(f"matplotlib.axis_{which}"))
    words = [e.text.replace("\N{MINUS SIGN}", "-") for e in axis.iter("{http://www.w3.org/2000/svg}text")]
    return [float(word) for word in words if re.fullmatch(r"-?[\d.]+", word)]


@pytest.mark.parametrize("score", [0.0, 1.0, 0.5])
def test_scores_that_are_all_the_same_have_a_sound_axis(tmp_path, score):
    methods = ("a/a", "b/b")
    results = [
        make_result(
            method, "wnut17", seed, scores={"f1": score}, trainable=10 + 90 * methods.index(method), fraction=share
        )
        for method, seed, share in itertools.product(methods, (0, 1), (0.1, 0.2))
    ]
    for path in write_report(results, tmp_path)[2:]:
        if path.stem.startswith(("score", "fraction", "size")):
            ticks = numbers_on(path, 1 if path.stem.startswith("score") else 2)
            assert len(ticks) >= 3
            assert min(ticks) >= 0
            assert max(ticks) <= 100
            assert max(ticks) - min(ticks) >= 3  # points, not rounding errors


def test_costs_that_are_all_nothing_have_a_sound_axis(tmp_path):
    result = make_result("in_context/a", "wnut17", trainable=0)
    result["train_info"]["train_time"] = result["train_info"]["mask_update_time"] = 0.0
    (path,) = (path for path in write_report([result], tmp_path) if path.stem.startswith("time"))
    assert min(numbers_on(path, 1)) == 0


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.5])
def test_the_labels_of_21_methods_do_not_overlap(tmp_path, spread):
    """However near one another the methods are."""
    results = []
    for number, method in enumerate(MANY):
        for share in (0.1, 0.2):
            scores = {"f1": 0.4 + spread * number / len(MANY)}
            trainable = 1000 + int(100_000 * spread * number)
            results.append(make_result(method, "wnut17", scores=scores, trainable=trainable, fraction=share))
    results[0]["train_info"]["num_trainable_params"] = 999  # sizes differ, or there is no picture by size
    paths = [path for path in write_report(results, tmp_path) if path.suffix == ".svg"]
    assert {path.stem.split("-")[0] for path in paths} == {
        "fraction",
        "size",
        "time",
        "memory",
        "loss",
        "overlap",
        "layers",
    }
    for path in paths:
        found = texts(path)
        shown = {text.split(" ", 1)[-1] for text, _ in found}
        if not path.stem.startswith(("loss", "overlap", "layers")):
            assert set(MANY) <= shown
        for (one, here), (other, there) in itertools.combinations(found, 2):
            assert overlap(here, there) == 0, (path.stem, one, other)


def test_few_methods_have_their_names_beside_the_points(tmp_path):
    results = [
        make_result(m, "wnut17", scores={"f1": s}, trainable=t) for m, s, t in (("a/a", 0.2, 9), ("b/b", 0.8, 999))
    ]
    (path,) = (path for path in write_report(results, tmp_path) if path.stem.startswith("size"))
    assert {"a/a", "b/b"} <= {text for text, _ in texts(path)}


def test_lora_and_full_fine_tuning_are_in_the_picture_of_the_loss(tmp_path):
    methods = ("fishdip/default", "lora/rank-8", "lora/rate-0.01", "full/adamw", "prompt/a", "ia3/all")
    paths = write_report([make_result(method, "wnut17") for method in methods], tmp_path)
    (path,) = (path for path in paths if path.stem.startswith("loss"))
    assert {text for text, _ in texts(path)} & {*methods} == {*methods[:4]}
