"""The config: every field is checked, and everything survives JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
from peft import PeftConfig, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

import peft_fishdip
from peft_fishdip import FishDipConfig, FishDipModel
from peft_fishdip import config as config_module

from .support.models import bert_classifier, flat_of, random_scores, tuned

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"density": 0}, ValueError, r"density=0 is outside of \(0, 1\]"),
    ({"density": 0.0}, ValueError, r"density=0\.0 is outside"),
    ({"density": -0.1}, ValueError, r"density=-0\.1 is outside"),
    ({"density": 1.5}, ValueError, r"density=1\.5 is outside"),
    ({"density": float("nan")}, ValueError, "density=nan is outside"),
    ({"density": "1%"}, TypeError, "density='1%' must be a number"),
    ({"density": True}, TypeError, "density=True must be a number"),
    ({"density": None}, TypeError, "density=None must be a number"),
    ({"update_interval": 0}, ValueError, "update_interval=0 must be a positive int"),
    ({"update_interval": -5}, ValueError, "update_interval=-5 must be"),
    ({"update_interval": 2.5}, ValueError, r"update_interval=2\.5 must be"),
    ({"update_interval": "often"}, ValueError, "update_interval='often' must be a positive int .* 'auto', or None"),
    ({"update_interval": True}, ValueError, "update_interval=True must be"),
    ({"num_samples": 0}, ValueError, "num_samples=0 must be a positive int or a float"),
    ({"num_samples": -1}, ValueError, "num_samples=-1 must be"),
    ({"num_samples": 0.0}, ValueError, r"num_samples=0\.0: a float is a share"),
    ({"num_samples": 1.5}, ValueError, r"num_samples=1\.5: a float is a share"),
    ({"num_samples": "3"}, ValueError, "num_samples='3' must be"),
    ({"num_samples": True}, ValueError, "num_samples=True must be"),
    (
        {"sample_selection": "lowest"},
        ValueError,
        "sample_selection='lowest' is unknown; choose one of highest_loss, random",
    ),
    ({"importance": "hessian"}, ValueError, "importance='hessian' is unknown; choose one of fisher, absolute"),
    ({"example_loss": "max"}, ValueError, "example_loss='max' is unknown; choose one of sum, mean"),
    ({"dropped": "keep"}, ValueError, "dropped='keep' is unknown; choose one of freeze, reset"),
    ({"init_mask": None}, ValueError, "init_mask=None is unknown; choose one of random, magnitude"),
    ({"delta_scale": 2.0}, ValueError, r"delta_scale=2\.0 is unknown; choose one of auto, rms, none"),
    ({"max_support": 0.5}, ValueError, r"max_support=0\.5 must be a number >= 1"),
    ({"max_support": float("nan")}, ValueError, "max_support=nan must be"),
    ({"max_support": float("inf")}, ValueError, "max_support=inf must be"),
    ({"max_support": "2"}, ValueError, "max_support='2' must be"),
    ({"max_support": True}, ValueError, "max_support=True must be"),
    ({"seed": -1}, ValueError, r"seed=-1 must be an int in \[0, 2\*\*63\)"),
    ({"seed": 2**63}, ValueError, "seed=9223372036854775808 must be"),
    ({"seed": 1.0}, ValueError, r"seed=1\.0 must be an int"),
    ({"seed": True}, ValueError, "seed=True must be an int"),
    ({"auto_update": 1}, TypeError, "auto_update=1 must be True or False"),
    ({"init_weights": "yes"}, TypeError, "init_weights='yes' must be True or False"),
    ({"counts": {"a": [1, -2]}}, ValueError, r"counts\['a'\]=\[1, -2\] must be two ints >= 0"),
    ({"support_sizes": [7]}, ValueError, r"support_sizes=\[7\] must map base parameters to numbers"),
    ({"support_sizes": {"a": -7}}, ValueError, r"support_sizes\['a'\]=-7 must be an int >= 0"),
    ({"num_updates": -1}, ValueError, "num_updates=-1 must be an int >= 0"),
    ({"target_modules": 5}, TypeError, "target_modules=5 must be a name or a list of names"),
    ({"exclude_modules": ["q", 1]}, TypeError, r"exclude_modules=\['q', 1\] must be a name or a list"),
    ({"modules_to_save": "classifier"}, TypeError, "modules_to_save='classifier' must be a list of names"),
    ({"modules_to_save": [""]}, ValueError, r"modules_to_save=\[''\] has an empty name; name modules"),
    ({"layers_to_transform": "1"}, TypeError, "layers_to_transform='1' must be the index of a layer"),
    ({"layers_to_transform": [0, -1]}, TypeError, r"layers_to_transform=\[0, -1\] must be the index"),
    ({"target_modules": "("}, ValueError, r"target_modules='\(' is no regular expression: missing \).*\. Correct it"),
    ({"exclude_modules": "*q"}, ValueError, r"exclude_modules='\*q' is no regular expression: nothing to repeat"),
    ({"layers_to_transform": 0, "layers_pattern": ["a", "["]}, ValueError, r"layers_pattern='\[' is no regular expr"),
    ({"id2label": ["A"]}, ValueError, r"id2label=\['A'\] must map numbers to names"),
    ({"id2label": {"1": "A"}}, ValueError, r"id2label=\{'1': 'A'\} must name the classes 0, 1, \.\.\."),
    ({"id2label": {"0": 5}}, ValueError, "must name the classes 0, 1"),
    ({"layers_pattern": "layer"}, ValueError, "layers_pattern='layer' says where layers_to_transform counts"),
]


@pytest.mark.parametrize(("fields", "error", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_refused_with_field_value_and_remedy(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FishDipConfig(**fields)


def test_defaults_are_those_of_the_contract() -> None:
    config = FishDipConfig()
    expected = {
        "target_modules": None,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": None,
        "density": 0.01,
        "update_interval": "auto",
        "num_samples": 0.1,
        "sample_selection": "highest_loss",
        "importance": "fisher",
        "example_loss": "sum",
        "dropped": "freeze",
        "max_support": 2.0,
        "init_mask": "random",
        "delta_scale": "auto",
        "auto_update": True,
        "seed": 0,
        "init_weights": True,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_every_field_survives_json(tmp_path: Path) -> None:
    config = FishDipConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules=["q", "v"],
        exclude_modules=["lm_head"],
        layers_to_transform=[0, 2],
        layers_pattern="block",
        modules_to_save=["classifier"],
        density=0.25,
        update_interval=None,
        num_samples=1.0,
        sample_selection="random",
        importance="absolute",
        example_loss="mean",
        dropped="reset",
        max_support=1.5,
        init_mask="magnitude",
        delta_scale="rms",
        seed=2**62,
        init_weights=False,
        support_sizes={"a.weight": 7},
    )
    config.save_pretrained(str(tmp_path))
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, FishDipConfig)
    assert loaded.to_dict() == {**config.to_dict(), "inference_mode": loaded.inference_mode}
    assert isinstance(loaded.num_samples, float)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["peft_type"] == "FISHDIP"
    assert "trainable_token_indices" not in stored


def test_a_config_of_version_0_1_loads_and_is_saved_as_one_of_today(tmp_path: Path) -> None:
    """It had the number of active and inactive entries per tensor, and of mask updates."""
    FishDipConfig(density=0.05).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    fields = json.loads(path.read_text())
    del fields["support_sizes"]
    path.write_text(json.dumps({**fields, "counts": {"a.weight": [3, 4], "b.weight": [0, 0]}, "num_updates": 7}))
    loaded = FishDipConfig.from_pretrained(str(tmp_path))
    assert loaded.support_sizes == {"a.weight": 7, "b.weight": 0}
    loaded.save_pretrained(str(tmp_path))
    assert json.loads(path.read_text()).keys() == fields.keys() | {"support_sizes"}


def test_one_config_serves_many_models_and_saving_one_does_not_touch_the_others(tmp_path: Path) -> None:
    config = FishDipConfig(density=0.05, seed=3)
    first = get_peft_model(bert_classifier(), config)
    mask = first.base_model.mask()
    first.base_model.set_mask(random_scores(first))
    first.save_pretrained(str(tmp_path))
    second = get_peft_model(bert_classifier(), config)
    assert all(torch.equal(second.base_model.mask()[name], positions) for name, positions in mask.items())


def test_help_describes_every_field_and_its_choices() -> None:
    own = [field for field in dataclasses.fields(FishDipConfig) if field.name in FishDipConfig.__annotations__]
    shown = " ".join((FishDipConfig.__doc__ or "").split())
    for field in own:
        assert f"{field.name} = {field.default!r}: {' '.join(field.metadata['help'].split())}" in shown


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("sample_selection", {"highest_loss", "random", "all"}),
        ("example_loss", {"sum", "mean"}),
        ("dropped", {"freeze", "reset"}),
        ("init_mask", {"random", "magnitude"}),
        ("delta_scale", {"auto", "rms", "none"}),
    ],
)
def test_a_field_of_choices_has_a_type_that_lists_them(name: str, choices: set[str]) -> None:
    kind = vars(config_module)[FishDipConfig.__annotations__[name]]
    assert set(get_args(kind)) == choices
    for choice in choices:
        assert getattr(FishDipConfig(**{name: choice}), name) == choice


def test_modules_to_save_of_a_caller_are_not_changed() -> None:
    mine = ["pooler"]
    model = tuned(bert_classifier(), density=0.1, task_type="SEQ_CLS", modules_to_save=mine)
    assert mine == ["pooler"]
    assert {"pooler", "classifier"} <= set(model.peft_config["default"].modules_to_save)
    tuned(bert_classifier(), density=0.1, task_type="SEQ_CLS", modules_to_save={"pooler"})  # PEFT needs a list


def test_importing_registers_the_type() -> None:
    assert PeftType.FISHDIP == "FISHDIP"
    assert PeftType("FISHDIP") is PeftType.FISHDIP is PeftType["FISHDIP"]
    assert PeftType.FISHDIP.value == PeftType.FISHDIP.name == "FISHDIP"
    assert PeftType.FISHDIP in list(PeftType)
    assert len(set(PeftType)) == len(list(PeftType))
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.FISHDIP] is FishDipConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.FISHDIP] is FishDipModel
    assert pickle.loads(pickle.dumps(PeftType.FISHDIP)) is PeftType.FISHDIP
    assert repr(PeftType.FISHDIP) == "<PeftType.FISHDIP: 'FISHDIP'>"
    assert sorted(PeftType, key=lambda member: member.value)
    assert set(peft_fishdip.__all__) <= set(dir(peft_fishdip))


def test_a_fresh_process_unpickles_a_config_by_itself_and_may_import_twice(tmp_path: Path) -> None:
    path = tmp_path / "config.pickle"
    path.write_bytes(pickle.dumps(FishDipConfig(density=0.5)))
    code = (
        f"import pathlib, pickle, sys; config = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())\n"
        "from peft import PeftType\n"
        "assert config.density == 0.5 and config.peft_type is PeftType.FISHDIP\n"
        "member, count = PeftType.FISHDIP, len(PeftType)\n"
        "for name in [name for name in sys.modules if name.startswith('peft_fishdip')]: del sys.modules[name]\n"
        "import peft_fishdip\n"
        "assert PeftType.FISHDIP is member and len(PeftType) == count\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


def test_peft_itself_is_unmodified_but_for_the_type() -> None:
    others = [member for member in PeftType if member is not PeftType.FISHDIP]
    assert all(isinstance(member.value, str) for member in others)
    assert not hasattr(peft, "FishDipConfig")


def test_layers_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"layers_to_transform=\[99\] leaves nothing to tune"):
        tuned(bert_classifier(), density=0.1, target_modules=["query"], layers_to_transform=[99])


def test_target_modules_select_as_elsewhere_in_peft() -> None:
    def names(**settings: Any) -> list[str]:
        return list(tuned(bert_classifier(), density=0.1, **settings).base_model.mask())

    everything = names()
    assert everything == list(dict(bert_classifier().named_parameters()))
    assert names(target_modules=["query"]) == [name for name in everything if ".query." in name]
    assert names(target_modules=r".*\.1\..*\.(key|value)") == [
        name for name in everything if ".1." in name and (".key." in name or ".value." in name)
    ]
    assert names(exclude_modules=["LayerNorm"]) == [name for name in everything if "LayerNorm" not in name]
    assert names(target_modules=["query"], layers_to_transform=[1], layers_pattern="layer") == [
        name for name in everything if ".1." in name and ".query." in name
    ]
    assert names(target_modules=r".*\.(query|key)", layers_to_transform=1) == [
        name for name in everything if ".layer.1." in name and (".query." in name or ".key." in name)
    ]
    assert names(layers_to_transform=0, layers_pattern="layer") == [name for name in everything if ".layer.0." in name]
    linear = names(target_modules="all-linear")
    assert linear == [name for name in everything if "embeddings" not in name and "LayerNorm" not in name]


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS"])
def test_a_classifier_that_peft_trains_whole_is_no_part_of_the_mask(task_type: str) -> None:
    base = bert_classifier()
    total = sum(p.numel() for name, p in base.named_parameters() if not name.startswith("classifier"))
    model = tuned(base, density=0.1, task_type=task_type)
    assert not [name for name in model.base_model.mask() if name.startswith("classifier")]
    assert flat_of(model).numel() == int(0.1 * total)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sum("classifier" in name for name in trainable) == 2
    assert len(trainable) == 3
