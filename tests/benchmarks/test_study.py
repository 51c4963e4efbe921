"""The study: its cells are comparisons that can be made, and its figures are means over what their runs say."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.__main__ import parse
from benchmarks.data_sets import DATA_SETS
from benchmarks.experiment import EXPERIMENTS, folders, load_experiments
from benchmarks.report.score_cells import NOTHING
from benchmarks.results import read_results
from benchmarks.study import conditions, report
from benchmarks.study.__main__ import main
from benchmarks.study.answer import answer
from benchmarks.study.cells import CELLS, NAMES, STUDY, Cell
from benchmarks.study.costs import cost_table
from benchmarks.study.pairs import pair_table
from benchmarks.study.summary import summarized

METHODS = ("fishdip/default", "lora/rank-8")
SIZE = ["--steps", "2", "--batch-size", "2", "--max-length", "48", "--rates", "own", "--fractions", "1.0"]


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_a_cell_is_a_comparison_of_known_methods_and_data_sets(cell, tmp_path):
    options = parse(cell.arguments(tmp_path / "data", tmp_path / "models"))
    assert tuple(options.methods) == cell.methods
    titles = [x.title for x in load_experiments(options.methods, {}, [EXPERIMENTS, options.experiments])]
    assert titles == list(cell.methods)
    assert all(method in NAMES for method in cell.methods)
    assert all(name in DATA_SETS for name in options.tasks)
    assert (options.max_train, options.part, len(options.seeds)) == (cell.num_train, cell.part, cell.seeds)
    if cell.rates_from:
        other = CELLS[cell.rates_from]
        assert options.rates_from == other.folder
        assert set(cell.methods) <= set(other.methods)
        assert (cell.rates, cell.tasks[0], cell.steps) == (other.rates, other.tasks[0], other.steps)


def test_all_experiments_of_the_study_belong_to_a_cell():
    for folder in ("methods", "variants"):
        own = {title for title, path in folders([STUDY / folder]).items() if path.is_relative_to(STUDY)}
        assert own <= {method for cell in CELLS.values() for method in cell.methods}


@pytest.fixture(scope="module")
def cell(base_model, data_folder, tmp_path_factory):
    """Two methods on two data sets, with two seeds."""
    root = tmp_path_factory.mktemp("study")
    arguments = ["--max-train", "4", "--seeds", "0", "1", "--max-plain", "0", "--methods", *METHODS, *SIZE]
    tasks = ["--data", str(data_folder), "--tasks", "conll04-ner", "wnut17", "--model", base_model]
    assert benchmarks(["compare", *arguments, *tasks, "--output", str(root / "tiny-4")]) == 0
    return Cell("tiny-4", "tiny", 4, ("conll04-ner", "wnut17"), METHODS, EXPERIMENTS, seeds=2, root=root)


def with_scores(cell, right):
    """The runs as if each had found so many of ten entities in ten test sentences, by method, data set and seed."""
    for path in cell.folder.glob("results/*/*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content["run_info"]["train_config"]
        count = right[content["run_info"]["experiment_name"], config["dataset"]][config["seed"]]
        every = " ".join(["1"] * 10)
        counts = {"correct": " ".join(["1"] * count + ["0"] * (10 - count)), "predicted": every, "gold": every}
        content["train_info"]["metrics"][-1]["test f1"] = count / 10
        content["train_info"]["test_counts"] = {"f1": [counts]}
        path.write_text(json.dumps(content), encoding="utf-8")


def test_scores_are_means_over_seeds_and_then_over_data_sets(cell):
    ours, lora = METHODS
    right = {(ours, "conll04-ner"): (3, 5), (ours, "wnut17"): (8, 10), (lora, "conll04-ner"): (2, 4)}
    with_scores(cell, {**right, (lora, "wnut17"): (1, 3)})
    summary = summarized(cell)
    assert summary.data_sets == ["conll04-ner", "wnut17"]
    assert [summary.score(method) for method in METHODS] == pytest.approx([65, 25])
    found = summary.difference(ours, lora)
    assert found.value == pytest.approx(40)
    assert 0 < found.low < 40 < found.high < 100
    same = summary.difference(lora, lora)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    losses = {}
    for result in read_results(cell.folder):
        name, config = result["run_info"]["experiment_name"], result["run_info"]["train_config"]
        losses.setdefault((name, config["dataset"]), []).append(result["train_info"]["metrics"][-1]["test loss"])
    expected = mean(mean(losses[ours, name]) for name in summary.data_sets)
    assert summary.mean(ours, lambda row: row.losses) == pytest.approx(expected)


def test_the_best_is_marked_with_what_is_not_told_apart_from_it(cell):
    ours = METHODS[0]
    names = ("conll04-ner", "wnut17")
    with_scores(cell, {(method, name): (9, 9) if method == ours else (2, 2) for method in METHODS for name in names})
    fields = [report.score_field(summarized(cell), method) for method in METHODS]
    assert [field.best for field in fields] == [True, False]
    assert [field.text.split()[0] for field in fields] == ["90.0", "20.0"]
    with_scores(cell, {(method, name): (5, 4) if method == ours else (4, 5) for method in METHODS for name in names})
    assert all(report.score_field(summarized(cell), method).best for method in METHODS)


def test_a_data_set_that_lacks_a_run_is_left_out(cell):
    path = next(cell.folder.glob("results/wnut17/*/lora--rank-8--seed1.json"))
    content = path.read_bytes()
    path.unlink()
    assert summarized(cell).data_sets == ["conll04-ner"]
    assert conditions.missing(summarized(cell)) == "tiny-4 has no complete runs yet of wnut17."
    path.write_bytes(content)
    assert conditions.missing(summarized(cell)) == ""
    larger = summarized(replace(cell, methods=(*METHODS, "full/adamw")))
    assert larger.methods == list(METHODS)
    assert conditions.missing(larger) == "tiny-4 has no complete runs yet of full fine-tuning."
    assert summarized(replace(cell, methods=("full/adamw",))) is None


def test_a_method_of_another_cell_is_shown_once_it_has_all_runs(cell, tmp_path):
    """So that a cell that is measured in part takes nothing from the tables of the one that it is shown with."""
    alone, beside = (replace(cell, methods=(method,), root=tmp_path) for method in METHODS)
    beside = replace(beside, name="beside", shown_with=alone.name)
    for path in cell.folder.glob("results/*/*/*.json"):
        owner = alone if path.name.startswith("fishdip") else beside
        target = owner.folder / path.relative_to(cell.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert summarized(alone, beside).methods == list(METHODS)
    next(beside.folder.glob("results/wnut17/*/*seed1.json")).unlink()
    partly = summarized(alone, beside)
    assert (partly.methods, partly.data_sets, partly.num_seeds) == ([METHODS[0]], ["conll04-ner", "wnut17"], 2)
    assert conditions.missing(partly) == "tiny-4 has no complete runs yet of LoRA r8."


def test_conditions_name_every_cell_that_was_measured_and_those_that_were_not(cell):
    beside = replace(cell, name="beside", methods=("full/adamw",), rates=("1e-3", "1e-2"), shown_with=cell.name)
    summary = summarized(cell, beside)
    assert conditions.missing(summary) == "tiny-4 has no complete runs yet of full fine-tuning."
    found = conditions.condition_table([summary], [cell, beside])
    (line,) = ([field.text for field in line] for line in found.lines)
    row = dict(zip(found.header, line, strict=True))
    assert (row["cell"], row["data sets"], row["runs"]) == ("tiny-4", "conll04-ner, wnut17", "8")
    assert row["learning rates"] == "as given"
    assert conditions.rates(beside) == "of 1e-3, 1e-2, by validation sentences of conll04-ner, one seed"
    assert conditions.missing_cells([cell, beside]) == "Not measured yet: beside."
    assert conditions.missing_cells([cell]) == ""


def test_a_seed_that_a_method_lacks_is_left_out(cell):
    """As it is where a cell is measured in part; so the means of all methods are over the same runs."""
    paths = [*cell.folder.glob("results/*/*/lora--rank-8--seed1.json")]
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    summary = summarized(cell)
    assert summary.data_sets == ["conll04-ner", "wnut17"]
    assert summary.num_seeds == 1
    assert {row.runs[0]["run_info"]["train_config"]["seed"] for row in summary.rows.values()} == {0}
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)


def test_the_answer_says_where_which_method_is_ahead(cell):
    """With counts for which the intervals are far from 0, or hold it."""
    ahead = {(m, name): (9, 9) if m == METHODS[0] else (2, 2) for m in METHODS for name in ("conll04-ner", "wnut17")}
    with_scores(cell, ahead)
    found = summarized(cell)
    assert "Compared with LoRA r8, Fish-Dip 1 % is ahead with tiny on 4 sentences." in answer([found])
    assert "reached by Fish-Dip 1 % with tiny on 4 and 8 sentences" in answer(
        [found, replace(found, cell=replace(cell, num_train=8))]
    )
    even = {(m, name): (5, 4) if m == METHODS[0] else (4, 5) for m in METHODS for name in ("conll04-ner", "wnut17")}
    with_scores(cell, even)
    assert "Fish-Dip 1 % is not told apart with tiny on 4 sentences." in answer([summarized(cell)])
    behind = {(m, name): (2, 2) if m == METHODS[0] else (9, 9) for m in METHODS for name in ("conll04-ner", "wnut17")}
    with_scores(cell, behind)
    text = answer([summarized(cell)])
    assert "Fish-Dip 1 % is behind with tiny on 4 sentences." in text
    assert "reached by LoRA r8 with tiny on 4 sentences" in text


def test_the_answer_names_the_best_of_the_adapters_where_another_method_leads(cell, monkeypatch):
    ours, other = METHODS
    monkeypatch.setitem(NAMES, other, "full fine-tuning")
    names = ("conll04-ner", "wnut17")
    with_scores(cell, {(method, name): (2, 2) if method == ours else (9, 9) for method in METHODS for name in names})
    told = "by full fine-tuning with tiny on 4 sentences (of the adapters by Fish-Dip 1 % with tiny on 4 sentences)"
    assert told in answer([summarized(cell)])
    with_scores(cell, {(method, name): (9, 9) if method == ours else (2, 2) for method in METHODS for name in names})
    assert "of the adapters" not in answer([summarized(cell)])


def test_pairs_have_the_same_optimizer_or_as_many_entries(cell, monkeypatch):
    ours, other = METHODS
    names = ("conll04-ner", "wnut17")
    with_scores(cell, {(method, name): (9, 9) if method == ours else (2, 2) for method in METHODS for name in names})
    summary = summarized(cell)

    def pairs():
        found = pair_table([summary], "Pairs", ("pair", "tiny"))
        return [tuple(field.text.split(" \\[")[0].split(" [")[0] for field in line) for line in found.lines]

    assert pairs() == [("Fish-Dip 1 % minus LoRA r8", "+70.0")]
    monkeypatch.setitem(NAMES, other, "random mask 2 %")
    assert pairs() == [("Fish-Dip 1 % minus random mask 2 %", "+70.0")]
    text = answer([summary])
    assert "as many changed entries, Fish-Dip 1 % is ahead with tiny on 4 sentences (random mask 2 %)." in text
    assert "LoRA" not in text
    monkeypatch.setitem(NAMES, ours, "Fish-Dip 5 % (SparseAdafactor)")
    assert pairs() == []
    assert "masks that stay" not in answer([summary]), "a mask of 2 % has fewer entries"
    monkeypatch.setitem(NAMES, other, "LoRA r8 (Adafactor)")
    assert pairs() == [("Fish-Dip 5 % (SparseAdafactor) minus LoRA r8 (Adafactor)", "+70.0")]
    told = "Compared with LoRA r8 (Adafactor), Fish-Dip 5 % (SparseAdafactor) is ahead with tiny on 4 sentences."
    assert told in answer([summary])


def test_each_data_set_has_its_scores_and_their_difference_to_lora(cell):
    ours, lora = METHODS
    right = {(ours, "conll04-ner"): (3, 5), (ours, "wnut17"): (8, 10), (lora, "conll04-ner"): (2, 4)}
    with_scores(cell, {**right, (lora, "wnut17"): (1, 3)})
    table = report.data_set_table(summarized(cell))
    assert table.header == ("method", "CoNLL04 entities, f1", "WNUT 2017, f1")
    texts = [[field.text.split(" ")[0] for field in line[1:]] for line in table.lines]
    assert texts == [["40.0", "90.0"], ["30.0", "20.0"], ["+10.0", "+70.0"]]


def test_costs_stand_beside_the_scores(cell):
    ours = METHODS[0]
    with_scores(
        cell, {(m, name): (6, 8) if m == ours else (5, 5) for m in METHODS for name in ("conll04-ner", "wnut17")}
    )
    results = {path: json.loads(path.read_text(encoding="utf-8")) for path in cell.folder.glob("results/*/*/*.json")}
    own = []
    for path, content in results.items():
        content["train_info"]["metrics"][-1].pop("calibration error", None)
        if content["run_info"]["experiment_name"] == ours:
            own.append(content)
            content["train_info"]["metrics"][-1]["calibration error"] = 0.25 * len(own)
        path.write_text(json.dumps(content), encoding="utf-8")
    assert len(own) == 4
    table = cost_table(summarized(cell), "Costs")
    texts = zip(*([field.text for field in line] for line in table.lines), strict=True)
    columns = dict(zip(table.header, texts, strict=True))
    assert columns["method"] == ("Fish-Dip 1 %", "LoRA r8")
    assert columns["calibration error"] == (f"{0.25 * (1 + 2 + 3 + 4) / 4:.2f}", NOTHING.text)
    assert columns["forgetting"] == (NOTHING.text, NOTHING.text)
    assert columns["spread"] == ("14.1", "0.0"), "of 60 and 80: 20 over the root of 2"
    assert columns["peak memory"][1] == "1.00"


def test_the_report_is_written_from_the_runs(cell, tmp_path, capsys, monkeypatch):
    with_scores(cell, {(m, name): (6, 6) for m in METHODS for name in ("conll04-ner", "wnut17")})
    variants = replace(cell, part="validation", seeds=2)
    monkeypatch.setattr(report, "CELLS", {"tiny-4": cell, "variants": variants})
    assert main(["report", "--to", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert text.count("60.0") >= 3
    assert "not told apart" in text
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["score-by-examples.svg", "score-by-size.svg"]
    assert all(f"pictures/{name}" in text for name in pictures)
    monkeypatch.setattr(report, "CELLS", {"other": replace(cell, methods=("full/adamw",))})
    assert main(["report", "--to", str(tmp_path)]) == 2
    assert "no cell has runs of all methods" in capsys.readouterr().err


def test_results_hold_no_path_of_the_machine(cell, base_model):
    files = [*cell.folder.rglob("*.json")]
    assert len(files) == 9
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert str(cell.root) not in text
        assert str(base_model) not in text
    config = read_results(cell.folder)[0]["run_info"]["train_config"]
    assert config["model_id"] == Path(base_model).name
