import json
import re

import pytest

from benchmarks.experiment import folders, load_experiments
from benchmarks.settings import SettingsError, TrainingParams

LORA = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM"}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lora" / "rank-2"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(LORA), encoding="utf-8")
    (folder / "training_params.json").write_text('{"learning_rate": 0.5}', encoding="utf-8")
    (tmp_path / "full" / "adamw").mkdir(parents=True)
    (tmp_path / "full" / "adamw" / "training_params.json").write_text("{}", encoding="utf-8")
    return tmp_path


def only(title, overrides, root):
    (experiment,) = load_experiments([title], overrides, [root])
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
        load_experiments(["full", "lara"], {}, [root])


def test_a_method_stands_for_all_its_experiments_and_each_comes_once(root):
    (root / "lora" / "rank-4").mkdir()
    (root / "lora" / "rank-4" / "adapter_config.json").write_text(json.dumps(LORA), encoding="utf-8")
    titles_of = [x.title for x in load_experiments(["lora", "lora/rank-2"], {}, [root])]
    assert titles_of == ["lora/rank-2", "lora/rank-4"]
    assert [x.title for x in load_experiments(["all"], {}, [root])] == ["full/adamw", "lora/rank-2", "lora/rank-4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ("{}", "peft_type=None"),
        (json.dumps({**LORA, "peft_type": "LARA"}), "'LARA' is unknown"),
        (json.dumps({**LORA, "peft_type": ["LORA"]}), "['LORA'] is unknown"),
        (json.dumps({**LORA, "rank": 3}), "LORA has no field rank"),
        (json.dumps({**LORA, "task_type": "QUESTION_ANS"}), "task_type='QUESTION_ANS' must be one of SEQ_2_SEQ_LM, "),
    ],
)
def test_a_broken_adapter_config_is_named_before_anything_runs(root, content, message):
    path = root / "lora" / "rank-2" / "adapter_config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        load_experiments(["lora"], {}, [root])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "JSON object"),
        ('{"stepz": 3}', "'stepz'"),
        ('{"log_every": "many"}', "'many'"),
        ('{"log_every": 2.5}', "2.5"),
        ('{"log_every": true}', "True"),
        ('{"fixed_rate": 1}', "fixed_rate=1 must be of type bool"),
        ('{"log_every": 0}', "log_every=0"),
        ('{"max_grad_norm": 0}', "max_grad_norm=0 must be greater than 0"),
        ('{"steps": 9}', "sets steps, but budgets are the same for all methods; .*--steps"),
        ('{"max_length": 9, "batch_size": 1, "meta_steps": 1}', "sets batch_size, max_length, meta_steps, but"),
        ('{"weight_decay": -1.0}', "weight_decay=-1"),
        ('{"mask": "random"}', "mask='random' is for adapters of type FISHDIP alone"),
    ],
)
def test_broken_training_params_are_named(root, content, message):
    (root / "full" / "adamw" / "training_params.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_experiments(["full"], {}, [root])


def test_all_committed_experiments_load():
    experiments = load_experiments(["all"], {})
    assert [experiment.title for experiment in experiments] == list(folders())
    assert all(isinstance(experiment.params, TrainingParams) for experiment in experiments)


def test_the_interval_between_masks_is_that_of_the_command_line_where_a_mask_moves():
    before, after = (load_experiments(["all"], {}, update_interval=interval) for interval in (None, 7))
    moving = [experiment.title for experiment in after if "update_interval" in (experiment.adapter_settings or {})]
    assert {"fishdip/default", "fishdip/density-1", "fishdip/paper"} <= set(moving)
    for old, new in zip(before, after, strict=True):
        if old.adapter is None:
            assert new.adapter_settings is None
            continue
        file = json.loads((old.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        moves = file["peft_type"] == "FISHDIP" and file.get("update_interval", "auto") is not None
        assert old.adapter_settings == file
        assert new.adapter_settings == {**file, "update_interval": 7} if moves else file
        configs = old.adapter_config().to_dict(), new.adapter_config().to_dict()
        assert {key for key, value in configs[0].items() if configs[1][key] != value} == (
            {"update_interval"} if moves else set()
        )
        assert not moves or configs[1]["update_interval"] == 7


def test_folders_of_ones_own_come_beside_ours(root, tmp_path_factory):
    more = tmp_path_factory.mktemp("more") / "mine"
    for folder in (more / "lora" / "rank-64", more / ".git" / "refs", more / "lora" / ".cache", more / "__x__" / "y"):
        folder.mkdir(parents=True)
    (more / "lora" / "rank-64" / "adapter_config.json").write_text(json.dumps(LORA), encoding="utf-8")
    (more / "lora" / "rank-64" / ".DS_Store").touch()
    loaded = load_experiments(["lora"], {}, [root, more])
    assert [experiment.title for experiment in loaded] == ["lora/rank-2", "lora/rank-64"]
    assert list(folders([root, more])) == ["full/adamw", "lora/rank-2", "lora/rank-64"]
    with pytest.raises(SettingsError, match="has the same title; rename"):
        folders([root, root])
    with pytest.raises(SettingsError, match="nowhere is no folder"):
        folders([root, root / "nowhere"])


@pytest.mark.parametrize("names", [[], ["adapter_config.jsn"], ["training_params.json", "notes.txt"]])
def test_a_folder_that_is_no_experiment_is_refused(root, names):
    folder = root / "lora" / "odd"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"odd has {', '.join(sorted(names)) or 'nothing'}; an experiment has"):
        load_experiments(["lora/odd"], {}, [root])


def test_the_papers_recipe_has_a_rate_of_its_own():
    (paper,) = load_experiments(["fishdip/paper"], {})
    assert (paper.params.fixed_rate, paper.params.learning_rate, paper.params.warmup_share) == (True, 0.01, 0.0)
    assert paper.params.optimizer == "sparse_adafactor"
    fixed = [experiment.title for experiment in load_experiments(["all"], {}) if experiment.params.fixed_rate]
    assert fixed == ["fishdip/paper"]
