"""Figures and verdicts, options and their refusals."""

import pytest

from benchmarks.speed.__main__ import main, make_parser
from benchmarks.speed.measure import ratios
from benchmarks.speed.settings import Settings, settings_of
from benchmarks.speed.targets import Finding

from .options import settings

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]


def test_verdicts_tell_by_how_much_a_target_is_missed():
    assert Finding("", "", [1.0, 1.04, 1.2], most=1.05).verdict == "met"
    assert Finding("", "", [1.26], most=1.05).verdict == "missed by 20 %"
    assert Finding("", "", [1.5], least=2.0).verdict == "missed by 25 %"
    assert Finding("", "", [0.5], most=1.1, least=0.9).verdict.startswith("missed")
    assert Finding("", "").verdict == Finding("", "").measured == "not measured"


def test_presets_and_options():
    assert (settings().batch, settings().source, settings().patterns) == (2, 6, ("uniform", "clustered", "real"))
    gpu = settings_of(vars(make_parser().parse_args(["steps", "--preset", "gpu", "--batch", "3"])))
    assert (gpu.geometry, gpu.batch, gpu.source, gpu.device) == ("large", 3, 256, "cuda")
    default = settings_of(vars(make_parser().parse_args(["all"])))
    assert (default.geometry, default.batch, default.source, default.target) == ("small", 4, 128, 64)


def test_the_older_names_of_options_still_work():
    names = ("--contestants", "lora"), ("--scale-contestants", "full"), ("--compiled-contestants", "lora")
    own = settings(*(word for words in names for word in words))
    assert (own.methods, own.scale_methods, own.compiled_methods) == (("lora",), ("full",), ("lora",))


def test_every_option_is_documented(capsys):
    for name in ("steps", "report"):
        with pytest.raises(SystemExit):
            make_parser().parse_args([name, "--help"])
    assert "--fisher-lengths" in capsys.readouterr().out
    assert all(len(item.metadata["help"]) > 10 for item in Settings.__dataclass_fields__.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps", "--geometry", "huge"], "geometry 'huge' is unknown"),
        (["steps", "--dtype", "float8"], "dtype 'float8' is unknown"),
        (["steps", "--rounds", "0"], "rounds=0 must be greater than 0"),
        (["steps", "--densities", "0.1", "2"], "densities=2.0 must be at most 1"),
        (["steps", "--patterns", "dots"], "method 'fishdip-dots@0.01' is unknown"),
        (["steps", "--contestants", "lora@0.1"], "method 'lora@0.1' is unknown"),
        (["steps", "--contestants", "shira@x"], "method 'shira@x' is unknown"),
        (["scale", "--geometries", "tiny:int8"], "dtype 'int8' is unknown"),
        (["largest", "--largest", "giant"], "geometry 'giant' is unknown"),
        (["steps", "--device", "toaster"], "device='toaster' cannot be used"),
        (["report"], "holds no measurements"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, message, tmp_path, capsys):
    assert main([*words, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("benchmarks.speed: ")
    assert message in error


@pytest.mark.parametrize("command", ["decode", "report"])
def test_an_output_that_is_a_file_is_refused_before_anything_is_measured(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.__main__.measure", lambda options: pytest.fail("measured"))
    (tmp_path / "file").touch()
    assert main([command, "--output", str(tmp_path / "file")]) == 2
    assert "file is a file; name a folder" in capsys.readouterr().err


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "steps.json").write_text('{"part": "memory"}', encoding="utf-8")
    assert main(["report", "--output", str(tmp_path)]) == 2
