import json

import pytest

from benchmarks.settings import SettingsError, TrainingParams, load_experiment, titles


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lora" / "rank-2"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (folder / "training_params.json").write_text('{"learning_rate": 0.5}', encoding="utf-8")
    (tmp_path / "full" / "adamw").mkdir(parents=True)
    return tmp_path


def test_the_folder_overrides_the_defaults_and_the_command_line_the_folder(root):
    assert load_experiment("lora/rank-2", {}, root).params.learning_rate == 0.5
    assert load_experiment("lora/rank-2", {"learning_rate": 0.25}, root).params.learning_rate == 0.25
    assert load_experiment("full", {}, root).params.learning_rate == 0.001


def test_without_an_adapter_config_it_is_full_fine_tuning(root):
    assert load_experiment("full", {}, root).adapter is None
    assert load_experiment("lora", {}, root).adapter == root / "lora" / "rank-2"


def test_an_unknown_experiment_is_named_with_those_there_are(root):
    with pytest.raises(SettingsError, match=r"'lara' is unknown; there are full/adamw, lora/rank-2"):
        load_experiment("lara", {}, root)


def test_a_method_with_several_experiments_needs_the_name(root):
    (root / "lora" / "rank-4").mkdir()
    with pytest.raises(SettingsError, match="not unique"):
        load_experiment("lora", {}, root)


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
        load_experiment("full", {}, root)


def test_all_committed_experiments_load():
    for title in titles():
        experiment = load_experiment(title, {})
        assert isinstance(experiment.params, TrainingParams)
        if experiment.adapter is not None:
            assert "peft_type" in json.loads((experiment.adapter / "adapter_config.json").read_text(encoding="utf-8"))
