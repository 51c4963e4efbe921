"""What the tables of a report say."""

import itertools
import json
import re
from statistics import mean, stdev

import pytest

from benchmarks.__main__ import main
from benchmarks.report import write_report
from benchmarks.report.ranks import main_settings, mean_ranks, ordered_methods, ranks
from benchmarks.report.rows import make_rows
from benchmarks.settings import SettingsError

from .made import METHODS, make_result, markdown_tables, of_relation, table_with, various


def test_the_overview_shows_mean_and_sample_deviation(text):
    table = table_with(text, "mean rank", "trainable share")
    column = table[0].index("CoNLL04 (10 % of the training examples) entity F1")
    assert len(table) == 1 + len(METHODS)
    for method in METHODS[:3]:
        runs = [r for r in various() if r["run_info"]["experiment_name"] == method]
        here = [r for r in runs if r["run_info"]["train_config"]["fraction"] == 0.1]
        here = [r for r in here if r["run_info"]["train_config"]["dataset"] == "conll04"]
        scores = [100 * r["train_info"]["metrics"][-1]["test entity_f1"] for r in here]
        cell = next(line for line in table if line[0] == method)[column]
        assert cell.strip("*") == f"{mean(scores):.1f} ± {stdev(scores):.1f}"
        assert cell != cell.strip("*") or mean(scores) < best_mean("entity_f1")


def best_mean(metric):
    by_method = {}
    for result in various():
        config = result["run_info"]["train_config"]
        if (config["dataset"], config["fraction"]) == ("conll04", 0.1):
            score = 100 * result["train_info"]["metrics"][-1][f"test {metric}"]
            by_method.setdefault(result["run_info"]["experiment_name"], []).append(score)
    return max(map(mean, by_method.values()))


def test_one_cell_per_score_column_is_bold_and_it_is_the_highest(text):
    table = table_with(text, "mean rank")
    for column, title in enumerate(table[0]):
        if "F1" in title:
            values = {line[0]: float(m[1]) for line in table[1:] if (m := re.match(r"\**([\d.]+)", line[column]))}
            bold = [line[0] for line in table[1:] if line[column].startswith("**")]
            assert [values[name] for name in bold] == [max(values.values())] * len(bold)
            assert bold


def test_losses_have_a_table_in_which_the_lowest_is_bold(tmp_path):
    losses = {"a/a": (0.5, 0.7), "b/b": (0.125, 0.625), "c/c": (None, float("inf"))}
    results = []
    for method, of_seeds in losses.items():
        for seed, loss in enumerate(of_seeds):
            results.append(make_result(method, "wnut17", seed))
            results[-1]["train_info"]["metrics"][-1]["test loss"] = loss
    table = table_with(
        write_report(results, tmp_path)[0].read_text(encoding="utf-8"), "WNUT 2017, 10 % of the training examples"
    )
    cells = {line[0]: line[1] for line in table[1:]}
    deviations = [stdev(losses[method]) for method in ("a/a", "b/b")]
    assert cells == {
        "a/a": f"0.600 ± {deviations[0]:.3f}",
        "b/b": f"**0.375 ± {deviations[1]:.3f}**",
        "c/c": "–",
    }
    for result in results:
        del result["train_info"]["metrics"][-1]["test loss"]
    assert "nats" not in write_report(results, tmp_path / "none")[0].read_text(encoding="utf-8")


def test_ranks_are_averaged_over_data_sets():
    results = []
    for method, (joint, ner) in {"a/a": (0.9, 0.1), "b/b": (0.5, 0.5), "c/c": (0.1, 0.9)}.items():
        for seed in (0, 1):
            results.append(make_result(method, seed=seed, scores={"entity_f1": joint, "relation_f1": joint}))
            results.append(make_result(method, "wnut17", seed, scores={"f1": ner}))
    results += [make_result("d/d", "wnut17", seed, scores={"f1": 0.95}) for seed in (0, 1)]
    results.append(make_result("e/e", "wnut17", error="RuntimeError: none"))
    rows = make_rows(results)
    assert mean_ranks(rows) == {"a/a": (2.5, 2), "b/b": (2.5, 2), "c/c": (2.5, 2), "d/d": (1.0, 1)}
    assert ordered_methods(rows) == ["a/a", "b/b", "c/c", "d/d", "e/e"]
    assert ranks({"x": 3.0, "y": 5.0, "z": 3.0}, lambda *_: None) == {"x": 2.5, "y": 1.0, "z": 2.5}


def test_a_method_that_lacks_a_seed_is_neither_ranked_nor_best(tmp_path):
    results = [make_result(method, "wnut17", seed, scores={"f1": 0.2}) for method in ("a/a", "b/b") for seed in (0, 1)]
    results[0]["train_info"]["metrics"][-1]["test f1"] = 0.1
    results.append(make_result("c/c", "wnut17", 0, scores={"f1": 0.9}))
    results.append(make_result("c/c", "wnut17", 1, error="RuntimeError: out of memory"))
    assert mean_ranks(make_rows(results)) == {"a/a": (2.0, 1), "b/b": (1.0, 1)}
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    cells = {line[0]: line[3] for line in table_with(text, "mean rank", "WNUT 2017 F1")[1:]}
    assert cells == {"a/a": "15.0 ± 7.1", "b/b": "**20.0 ± 0.0**", "c/c": "90.0 (1 of 2 seeds)"}


def test_what_all_methods_share_is_not_bold(tmp_path):
    results = [make_result(method, "wnut17", scores={"f1": 0.0}) for method in ("a/a", "b/b")]
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert [line[3] for line in table_with(text, "mean rank", "WNUT 2017 F1")[1:]] == ["0.0", "0.0"]


@pytest.mark.parametrize("name", ["steps", "meta_steps", "batch_size", "max_length", "num_test_examples"])
def test_runs_of_other_budgets_are_not_mixed(name):
    results = [make_result("a/a"), make_result("b/b"), make_result("b/b", seed=1)]
    results[-1]["run_info"]["train_config"][name] = 3
    with pytest.raises(SettingsError, match=f"b/b on CoNLL04, 10 % of the training examples has {name}=3, other runs"):
        make_rows(results)


def test_failed_and_missing_seeds_are_told(text):
    table = table_with(text, "mean rank")
    column = table[0].index("WNUT 2017 F1")
    cells = {line[0]: line[column] for line in table}
    assert cells["lora/rank-8"] == "failed"
    assert cells["full/adamw"].strip("*").endswith("(1 of 2 seeds)")
    assert "±" not in cells["full/adamw"]
    line = "lora/rank-8 on WNUT 2017, 10 % of the training examples, seeds 0, 1 failed: RuntimeError: out of "
    assert f"- {line}&lt;b&gt;memory&lt;/b&gt;\n" in text
    assert "23 runs; 2 failed" in text


def test_the_table_of_a_data_set_shows_costs(text):
    table = next(t for t in markdown_tables(text) if "peak memory" in t[0] and "F1" in t[0])
    line = dict(zip(table[0], next(line for line in table if line[0] == "fishdip/density-1"), strict=True))
    runs = [make_result("fishdip/density-1", "wnut17", seed)["train_info"] for seed in range(2)]
    assert line["seeds"] == "2 of 2"
    assert line["learning rate"] == "0.01"
    assert (line["trainable"], line["share"], line["changed entries"]) == ("10,000", "1 %", "14,500")
    assert line["peak in training"] == f"{mean(run['memory_after_fit'] for run in runs) / 2**20:.0f} MiB"
    full = next(line for line in table if line[0] == "full/adamw")
    assert full[table[0].index("changed entries")] == full[table[0].index("trainable")] == "30,000"
    assert line["adapter"] == f"{80_000 / 2**20:.2f} MiB"
    seconds = mean(run["train_time"] for run in runs)
    assert line["training"] == (f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s")
    assert line["of it mask updates"] == f"{mean(run['mask_update_time'] for run in runs):.1f} s"
    assert line["peak memory"] == f"{mean(run['accelerator_memory_max'] for run in runs) / 2**20:.0f} MiB"
    assert next(line for line in table if line[0] == "full/adamw")[table[0].index("of it mask updates")] == "–"


def test_methods_without_training(tmp_path):
    results = [make_result(), make_result("in_context/4-examples", trainable=0, rates=())]
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    table = next(t for t in markdown_tables(text) if "peak memory" in t[0])
    assert {line[0]: line[table[0].index("learning rate")] for line in table[1:]} == {
        "lora/rank-8": "0.01",
        "in\\_context/4-examples": "–",
    }
    assert [line[table[0].index("peak in training")] == "–" for line in table[1:]] == [
        line[0].startswith("in") for line in table[1:]
    ]


def test_the_papers_figures_are_marked_as_theirs(text, tmp_path):
    theirs = table_with(text, "system (theirs)", "which columns")
    assert ["Fish-Dip", "1 %", "entity F1", "56.88 ± 2.8; 81.50 ± 0.9; 84.64 ± 0.8"] in [line[:4] for line in theirs]
    assert all("unknown" in line[-1] for line in theirs[1:])
    assert "T5-large, full test sets" in text
    ours = table_with(text, "method (ours)")
    assert ours[0][1:3] == ["1 % of the training examples, entity F1", "1 % of the training examples, relation F1"]
    assert {line[0] for line in ours[1:]} >= set(METHODS[:3])
    assert "FewRel" not in text
    text = write_report([make_result(dataset="fewrel")], tmp_path)[0].read_text(encoding="utf-8")
    assert any(line[0] == "BERT Pair" for line in table_with(text, "system (theirs)"))
    assert "ACE05" not in text


def test_learning_rates_tell_the_grid_and_its_edges(tmp_path):
    results = [make_result(rate=0.1), make_result(dataset="wnut17"), make_result("full/adamw", rates=())]
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert table_with(text, "rates tried")[1:] == [
        ["full/adamw", "adamw", "none: set by hand", "–", "–", "0.01 (1 of 1)", "–"],
        ["lora/rank-8", "adamw", "0.001, 0.01, 0.1", "18", "–", "0.01 (1 of 2), 0.1 (1 of 2)", "1 of 2"],
    ]


def test_rates_that_failed_are_told_even_if_all_did(tmp_path):
    failed = make_result(error="ValueError: none")
    for row in failed["run_info"]["rate_choice"]:
        row["error"] = "RuntimeError: out of memory"
    text = write_report([make_result(dataset="wnut17"), failed], tmp_path)[0].read_text(encoding="utf-8")
    (line,) = table_with(text, "rates tried")[1:]
    assert line[4:6] == ["0.001 (1 of 2), 0.01 (1 of 2), 0.1 (1 of 2)", "0.01 (1 of 1)"]


def test_the_budget_of_episodes_is_told(tmp_path):
    results = [of_relation("lora/rank-8", stopped_at=900), of_relation("in_context/4-examples", stopped_at=0)]
    results[0]["run_info"]["train_config"]["train_file"] = "train_wiki_partial.json"
    results.append(make_result())
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    table = table_with(text, "stopped at")
    steps, stopped = table[0].index("steps"), table[0].index("stopped at")
    assert {(line[0], line[steps], line[stopped]) for line in table[1:]} == {
        ("FewRel", "100 meta + 4 x 200", "900"),
        ("CoNLL04", "200", "200"),
    }
    assert "- FewRel: training examples are those of train\\_wiki\\_partial.json.\n" in text


def test_what_a_reader_must_know_of_a_method_stands_below_the_table(tmp_path):
    results = [make_result(), make_result("in_context/4-examples", trainable=0)]
    results[1]["train_info"]["in_context_shown"] = 3.25
    for interval in (20, None):
        results.append(make_result(f"fishdip/{interval}"))
        results[-1]["run_info"]["peft_config"] = {"peft_type": "FISHDIP", "update_interval": interval}
    for method, kind in (("houlsby/a", "HOULSBY"), ("compacter/a", "COMPACTER"), ("prompt/a", "PROMPT_TUNING")):
        results.append(make_result(method))
        results[-1]["run_info"]["peft_config"] = {"peft_type": kind}
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "- in\\_context/4-examples: 3.2 examples stood before a source on average" in text
    assert "- fishdip/20: the mask was chosen anew before steps 0, 50, 100, 150 of a run.\n" in text
    assert "- fishdip/None:" not in text
    assert "- houlsby/a: the layer norms stay frozen" in text
    assert "- compacter/a: the layer norms stay frozen" in text
    assert "- prompt/a: of an encoder-decoder, PEFT allocates the virtual tokens twice" in text


def test_several_models_have_an_overview_each(tmp_path):
    results = [make_result(model=model) for model in ("google-t5/t5-small", "/home/someone/models/own")]
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert sum("mean rank" in table[0] for table in markdown_tables(text)) == 2
    assert "someone" not in text
    assert "CoNLL04, 10 % of the training examples, own" in text


def test_of_too_many_settings_one_per_data_set_stands_for_all():
    results = [
        make_result(method, dataset, fraction=fraction)
        for method, dataset, fraction in itertools.product(
            ("a/a", "b/b"), ("conll04", "wnut17", "woz2"), (0.01, 0.1, 1.0)
        )
        if (method, dataset, fraction) != ("b/b", "conll04", 1.0)
    ]
    chosen = {setting.dataset: setting.fraction for setting in main_settings(make_rows(results))}
    assert chosen == {"wnut17": 1.0, "conll04": 0.1, "woz2": 1.0}
    assert len(main_settings(make_rows(results[:5]))) == 5


def test_the_results_of_several_folders_make_one_report(tmp_path, capsys):
    for model in ("one", "two"):
        path = tmp_path / model / "results" / "wnut17" / "fraction-0.1" / "full--adamw--seed0.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(make_result("full/adamw", "wnut17", model=model)), encoding="utf-8")
    folders = [str(tmp_path / model) for model in ("one", "two")]
    assert main(["report", "--output", *folders, "--to", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "2 runs" in text
    assert "in percent; one" in text
    assert "in percent; two" in text
    (tmp_path / "none").mkdir()
    assert main(["report", "--output", folders[0], str(tmp_path / "none"), "--to", str(tmp_path / "other")]) != 0
    assert "none holds no results" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
