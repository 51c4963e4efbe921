import re

import pytest

from benchmarks.settings import SettingsError, TrainingParams, load_experiments, titles


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lora" / "rank-2"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (folder / "training_params.json").write_text('{"learning_rate": 0.5}', encoding="utf-8")
    (tmp_path / "full" / "adamw").mkdir(parents=True)
    return tmp_path


def only(title, overrides, root):
    (experiment,) = load_experiments([title], overrides, root)
    return experiment


def test_the_folder_overrides_the_defaults_and_the_command_line_the_folder(root):
    assert only("lora/rank-2", {}, root).params.learning_rate == 0.5
    assert only("lora/rank-2", {"learning_rate": 0.25}, root).params.learning_rate == 0.25
    assert only("full", {}, root).params.learning_rate == 0.001


def test_without_an_adapter_config_it_is_full_fine_tuning(root):
    assert only("full", {}, root).adapter is None
    assert only("lora", {}, root).adapter == root / "lora" / "rank-2"


def test_an_unknown_experiment_is_named_with_those_there_are(root):
    with pytest.raises(SettingsError, match=r"'lara' is unknown; there are full/adamw, lora/rank-2"):
        load_experiments(["full", "lara"], {}, root)


def test_a_method_stands_for_all_its_experiments_and_each_comes_once(root):
    (root / "lora" / "rank-4").mkdir()
    titles_of = [x.title for x in load_experiments(["lora", "lora/rank-2"], {}, root)]
    assert titles_of == ["lora/rank-2", "lora/rank-4"]
    assert [x.title for x in load_experiments(["all"], {}, root)] == ["full/adamw", "lora/rank-2", "lora/rank-4"]


@pytest.mark.parametrize("content", ["{", "[]", '{"peft_type": "LARA"}', '{"peft_type": "LORA", "rank": 3}', "{}"])
def test_a_broken_adapter_config_is_named_before_anything_runs(root, content):
    path = root / "lora" / "rank-2" / "adapter_config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        load_experiments(["lora"], {}, root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ('{"stepz": 3}', "'stepz'"),
        ('{"steps": "many"}', "'many'"),
        ('{"steps": 2.5}', "2.5"),
        ('{"steps": 0}', "steps=0"),
        ('{"weight_decay": -1.0}', "weight_decay=-1"),
    ],
)
def test_broken_training_params_are_named(root, content, message):
    (root / "full" / "adamw" / "training_params.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_experiments(["full"], {}, root)


def test_all_committed_experiments_load():
    experiments = load_experiments(["all"], {})
    assert [experiment.title for experiment in experiments] == titles()
    assert all(isinstance(experiment.params, TrainingParams) for experiment in experiments)
