"""What cannot be done as asked is told in one line, before anything runs."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import main

SIZE = ["--steps", "1", "--batch-size", "2", "--max-length", "32", "--max-train", "4", "--max-test", "1"]
LORA = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "target_modules": ["q"]}


def refused(capsys, *arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--methods", "nonesuch"], "'nonesuch' is unknown; there are compacter/"),
        (["compare", "--tasks", "parsing"], "task 'parsing' is unknown; there are the tasks ner, relation"),
        (["compare", "--tasks", "joint"], "data set 'conll04' needs --data"),
        (["compare", "--steps", "0"], "steps=0"),
        (["compare", "--data", "nowhere"], "nowhere is no folder"),
        (["compare", "--update-interval", "0"], "--update-interval 0: must be at least 1 step"),
        (["compare", "--rates", "fast"], "--rates fast"),
        (["compare", "--rates", "0"], "greater than 0"),
        (["compare", "--fractions", "2"], "fraction=2.0"),
        (["compare", "--max-train", "1"], "1 training examples are too few to choose a learning rate by"),
        (["compare", "--part", "validation"], "'generated' has no validation part"),
        (["compare", "--rates-by", "validation"], "'generated' has no validation part"),
        (["compare", "--rate-task", "srl"], "--rate-task ewt_srl: must be one of the data sets, generated"),
        (["compare", "--rates-from", "nowhere", "--methods", "lora"], "--rates-from nowhere has no nowhere/rates/"),
        (["compare", "--seeds", "0", "-1"], "--seeds -1: must be from 0"),
        (["compare", "--seeds", str(2**32)], "must be from 0"),
        (["compare", "--model", "no/such/model"], "--model no/such/model"),
        (["compare", "--experiments", "nowhere"], "--experiments nowhere is no folder"),
        (["list", "--experiments", "nowhere"], "--experiments nowhere is no folder"),
        (["report"], "holds no results"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, base_model, arguments, message):
    model = ["--model", base_model] if arguments[0] == "compare" and "--model" not in arguments else []
    output = [] if arguments[0] == "list" else ["--output", str(tmp_path)]
    assert message in refused(capsys, *arguments, *model, *output)
    assert not list(tmp_path.iterdir())


def test_seeds_and_fractions_are_tried_on_all_data_before_anything_runs(tmp_path, capsys, base_model, data_folder):
    arguments = ["compare", "--model", base_model, "--data", str(data_folder), "--output", str(tmp_path), *SIZE]
    error = refused(capsys, *arguments, "--tasks", "ner", "relation", "--ways", "4")
    assert "data set 'fewrel'" in error
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_does_not_fit_is_named(tmp_path, capsys, base_model):
    folder = tmp_path / "mine" / "lora" / "odd"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, "r": "eight"}), encoding="utf-8")
    arguments = ["--experiments", str(tmp_path / "mine"), "--methods", "lora/odd", "--model", base_model]
    error = refused(capsys, "compare", *arguments, "--output", str(tmp_path / "runs"), *SIZE)
    assert f"{folder}/adapter_config.json does not fit the model: TypeError" in error
    assert not (tmp_path / "runs").exists()


def test_files_are_no_folders(tmp_path, capsys, base_model):
    (tmp_path / "file").touch()
    arguments = ["compare", "--model", base_model, "--output", str(tmp_path / "file")]
    assert "--output" in refused(capsys, *arguments)
    assert "file is a file; name a folder" in refused(capsys, "report", "--to", str(tmp_path / "file"))


def test_a_damaged_model_is_named(tmp_path, capsys, base_model):
    shutil.copytree(base_model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    error = refused(capsys, "compare", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "runs"))
    assert "SafetensorError" in error


@pytest.fixture(scope="module")
def done(tmp_path_factory, base_model):
    """A comparison with a model and an experiment of its own, all done."""
    root = tmp_path_factory.mktemp("done")
    shutil.copytree(base_model, root / "model")
    for name, rank in (("a", 2), ("b", 3)):
        (root / "mine" / "lora" / name).mkdir(parents=True)
        config = root / "mine" / "lora" / name / "adapter_config.json"
        config.write_text(json.dumps({**LORA, "r": rank}), encoding="utf-8")
    assert main(command(root)) == 0
    return root


@pytest.fixture
def changed(done, tmp_path):
    """A copy of it to be changed; the model stays where it was."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path


def command(root, *more, model=None):
    arguments = ["--model", str(model or root / "model"), "--experiments", str(root / "mine"), *SIZE]
    methods = ["--methods", "lora/a", "lora/b", "--rates", "0.01", "--seeds", "0"]
    return ["compare", *arguments, *methods, "--tasks", "generated", "--output", str(root / "runs"), *more]


def test_results_in_a_folder_below_are_named(done, capsys):
    error = refused(capsys, "report", "--output", str(done))
    assert f"{done} holds no results; there are some below it, pass --output {done / 'runs'}" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "2"], "training parameters was {"),
        (["--rates", "0.1"], "rates was [0.01], is [0.1]"),
        (["--data", "."], f"data was None, is {Path.cwd().name!r}"),
        (["--seeds", "1", "0"], "rate seed was 0, is 1); name seed 0 first in --seeds, or choose another --output"),
    ],
)
def test_results_made_in_another_way_are_not_mixed_in(done, capsys, more, message):
    error = refused(capsys, *command(done, *more))
    assert "runs has other results" in error
    assert message in error
    assert "choose another --output" in error


def test_results_of_an_experiment_that_has_changed_are_named(changed, done, capsys):
    same = [*command(changed, model=done / "model")]
    assert main(same) == 0
    capsys.readouterr()
    config = changed / "mine" / "lora" / "b" / "adapter_config.json"
    config.write_text(json.dumps({**LORA, "r": 4}), encoding="utf-8")
    error = refused(capsys, *same)
    folder = "generated/fraction-0.1"
    assert f"since: rates/{folder}/lora--b--rate0.01.json, results/{folder}/lora--b--seed0.json; delete these" in error
    for path in (changed / "runs").glob("r*/*/*/lora--b*.json"):
        path.unlink()
    assert main(same) == 0


def test_results_of_a_model_that_has_changed_are_named(done, capsys):
    config = done / "model" / "config.json"
    before = config.read_text(encoding="utf-8")
    config.write_text(f"{before} ", encoding="utf-8")
    error = refused(capsys, *command(done))
    config.write_text(before, encoding="utf-8")
    assert error.count(".json") == 4
