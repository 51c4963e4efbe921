"""What pictures show, and where their labels go."""

import itertools
import random

from benchmarks.report.course import first_fit_updates, loss_points
from benchmarks.report.labels import overlap, place, spread
from benchmarks.report.rows import make_rows

from .made import of_relation


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
