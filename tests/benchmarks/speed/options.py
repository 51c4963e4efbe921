"""Options that make the benchmark of costs tiny, and the tables of a part of its results."""

from benchmarks.speed.__main__ import make_parser
from benchmarks.speed.report import TABLES
from benchmarks.speed.settings import settings_of

TINY = ["--geometry", "tiny", "--batch", "2", "--source", "6", "--target", "5", "--rounds", "2", "--warmup", "1"]


def settings(*words, command="steps"):
    return settings_of(vars(make_parser().parse_args([command, *TINY, "--real-steps", "1", *words])))


def tables(name, part):
    return list(TABLES[name](part))
