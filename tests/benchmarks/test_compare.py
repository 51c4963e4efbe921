"""The whole way from the command line to the table, at a tiny size."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.base_model import denoising_batch, train_tokenizer
from benchmarks.settings import load_experiment
from benchmarks.training import warmup_and_decay

TINY = [
    "--base-steps",
    "2",
    "--d-model",
    "32",
    "--layers",
    "1",
    "--vocab-size",
    "400",
    "--steps",
    "4",
    "--batch-size",
    "2",
    "--max-test",
    "2",
]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert main(["compare", *TINY, "--output", str(folder)]) == 0
    return folder


def test_each_method_leaves_one_result_in_the_schema_of_method_comparison(output):
    files = sorted(path.name for path in output.glob("generated/*.json"))
    assert files == ["fishdip--density-5--seed0.json", "full--adamw--seed0.json", "lora--rank-8--seed0.json"]
    for name in files:
        result = json.loads((output / "generated" / name).read_text(encoding="utf-8"))
        assert set(result) == {"run_info", "train_info", "meta_info"}
        assert result["train_info"]["status"] == "success"
        assert result["run_info"]["error_msg"] == ""
        assert result["train_info"]["metrics"][-1]["step"] == 4
        assert 0 <= result["train_info"]["metrics"][-1]["test accuracy"] <= 1
        assert (result["run_info"]["peft_config"] is None) == name.startswith("full")


def test_fish_dip_trains_its_share_and_reports_its_mask_updates(output):
    info = json.loads((output / "generated" / "fishdip--density-5--seed0.json").read_text(encoding="utf-8"))[
        "train_info"
    ]
    base = info["num_total_params"] - info["num_trainable_params"]
    assert info["num_trainable_params"] == int(0.05 * base)
    assert [update["step"] for update in info["mask_updates"]] == [0]
    assert 0 < info["file_size"] < 100_000


def test_table_and_picture_show_all_methods(output):
    text = (output / "report.md").read_text(encoding="utf-8")
    assert all(title in text for title in ("fishdip/density-5", "lora/rank-8", "full/adamw"))
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(output, capsys):
    before = {path: path.read_bytes() for path in output.glob("generated/*.json")}
    assert main(["compare", *TINY, "--output", str(output)]) == 0
    assert capsys.readouterr().out.count("is there already") == 3
    assert {path: path.read_bytes() for path in output.glob("generated/*.json")} == before


def test_a_run_that_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    from benchmarks import __main__ as commands

    real = commands.run

    def run(experiment, *args):
        if experiment.method == "lora":
            raise RuntimeError("out of memory")
        return real(experiment, *args)

    monkeypatch.setattr(commands, "run", run)
    assert main(["compare", *TINY, "--methods", "lora", "full", "--output", str(tmp_path)]) == 0
    failed = json.loads((tmp_path / "generated" / "lora--rank-8--seed0.json").read_text(encoding="utf-8"))
    assert failed["train_info"]["status"] == "failed"
    assert "out of memory" in failed["run_info"]["error_msg"]
    assert "failed: RuntimeError" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--methods", "nonesuch"], "'nonesuch' is unknown"),
        (["compare", "--steps", "0"], "steps=0"),
        (["compare", "--data", "nowhere"], "nowhere"),
        (["report"], "holds no results"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    params = load_experiment("full/adamw", {"steps": 100}).params
    rates = [warmup_and_decay(step, params) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 9
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_the_vocabulary_falls_back_on_bytes_and_keeps_the_marks_of_the_format():
    tokenizer = train_tokenizer(["the old bridge was closed again", "a letter came on Monday"] * 20, 320)
    text = "[ Zoë | person ] = the"
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")


def test_denoising_keeps_whole_sentences_as_targets():
    import random

    rows = [[5, 6, 7, 8, 9, 10, 1], [11, 12, 1]]
    batch = denoising_batch(rows, random.Random(0))
    assert batch["labels"][0].tolist() == rows[0]
    assert batch["labels"][1].tolist() == [*rows[1], *[-100] * 4]
    for source, row in zip(batch["input_ids"].tolist(), rows, strict=True):
        kept = [token for token in source if token]
        assert [token for token in row if token in kept] == kept
        assert kept[-1] == 1
