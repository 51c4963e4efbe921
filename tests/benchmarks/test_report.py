"""The report of a comparison, from results made here."""

import itertools
import json
import math
import random
import re
from html.parser import HTMLParser
from statistics import mean, stdev
from xml.etree import ElementTree

import pytest

from benchmarks.problems import METRICS
from benchmarks.report import write_report
from benchmarks.report.course import first_fit_updates, loss_points
from benchmarks.report.labels import overlap, place, spread
from benchmarks.report.ranks import main_settings, mean_ranks, ordered_methods, ranks
from benchmarks.report.rows import make_rows
from benchmarks.settings import SettingsError

TASKS = {"conll04": "joint", "wnut17": "ner", "fewrel": "relation", "ewt_srl": "srl", "woz2": "dst"}
EVIL = "<script>alert(1)</script>|[x](y)$a_b$/&"
METHODS = ("fishdip/density-1", "lora/rank-8", "full/adamw", EVIL)
VOID = {"meta", "wbr"}


def make_result(
    method="lora/rank-8",
    dataset="conll04",
    seed=0,
    *,
    scores=None,
    fraction=0.1,
    protocol=None,
    error="",
    trainable=10_000,
    masks=None,
    rates=(0.001, 0.01, 0.1),
    rate=0.01,
    model="google-t5/t5-small",
):
    task = TASKS[dataset]
    chance = random.Random(f"{method} {dataset} {seed} {fraction}")
    if scores is None:
        scores = {name: chance.uniform(0.2, 0.8) for name in METRICS[task]}
    if task == "relation" and protocol is None:
        fraction, protocol = None, "5-way 1-shot"
    steps = range(0, 200, 50)
    if masks is None:
        masks = method.startswith("fishdip")
    updates = [
        {
            "step": step,
            "mask_overlap": 0.01 if step == 0 else chance.uniform(0.4, 0.7),
            "mask_union": trainable + 30 * step,
            "shares": {"attention": 0.4, "feed_forward": 0.3, "embedding": 0.25, "norm": 0.04, "relative_bias": 0.01},
        }
        for step in steps
    ]
    trace = [{"step": step + 50, "train loss": 3 * math.exp(-step / 100) * chance.uniform(0.9, 1.1)} for step in steps]
    return {
        "run_info": {
            "created_at": "2026-01-01T00:00:00+00:00",
            "total_time": 20.0,
            "experiment_name": method,
            "git_revision": "0123456789abcdef",
            "error_msg": error,
            "peft_config": None,
            "train_config": {
                "learning_rate": rate,
                "steps": 200,
                "meta_steps": 100,
                "num_episodes": 4,
                "batch_size": 8,
                "optimizer": "adamw",
                "model_id": model,
                "seed": seed,
                "task": task,
                "dataset": dataset,
                "protocol": protocol or f"{100 * fraction:g} % of the training examples",
                "fraction": fraction,
                "num_train_examples": 92,
                "num_test_examples": 288,
            },
            "rate_choice": [
                {"learning_rate": r, "scores": {}, "loss": 1.0, "held_out": 18, "error": ""} for r in rates
            ],
        },
        "train_info": {
            "accelerator_memory_max": chance.uniform(2e8, 9e8),
            "memory_after_fit": chance.uniform(1e8, 2e8),
            "train_time": chance.uniform(20, 300),
            "mask_update_time": chance.uniform(2, 8) if masks else 0.0,
            "eval_time": 5.0,
            "file_size": trainable * 8,
            "num_trainable_params": trainable,
            "num_base_params": 1_000_000,
            "num_total_params": 1_000_000 + trainable,
            "stopped_at": 200,
            "status": "failed" if error else "success",
            "metrics": [] if error else [*trace, {"step": 200, **{f"test {k}": v for k, v in scores.items()}}],
            "mask_updates": updates if masks and not error else [],
            "fit_begins": [0],
            "in_context_shown": None,
        },
        "meta_info": {
            "package_info": {"peft-version": "0.21.2"},
            "system_info": {
                "system": "Linux",
                "machine": "x",
                "python": "3.11",
                "num_threads": 1,
                "accelerator": "none",
            },
        },
    }


def various():
    """Two seeds of four methods, two data sets, one of them at two fractions; a method fails, one lacks a seed."""
    results = []
    for method, seed in itertools.product(METHODS, range(2)):
        trainable = 10_000 * (1 + METHODS.index(method))
        results += [make_result(method, seed=seed, fraction=share, trainable=trainable) for share in (0.01, 0.1)]
        error = "RuntimeError: out\nof <b>memory</b>" if method == "lora/rank-8" else ""
        if (method, seed) != ("full/adamw", 1):
            results.append(make_result(method, "wnut17", seed, error=error, trainable=trainable))
    return results


class Page(HTMLParser):
    """Tables as lists of rows of cells; everything that would load something."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.links, self.ids, self.best = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes.items() if name in ("href", "src", "xlink:href", "action")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            if "best" in attributes.get("class", "").split():
                self.best.append((len(self.tables) - 1, self.tables[-1][-1][0], len(self.tables[-1][-1]) - 1))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(various(), folder)


@pytest.fixture(scope="module")
def text(written):
    return (written[0] / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page((written[0] / "report.html").read_text(encoding="utf-8"))


def markdown_tables(text):
    """Header and lines of each table, cells stripped."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.M)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in line] for i, line in enumerate(block) if i != 1] for block in split]


def table_with(text, *titles):
    return next(table for table in markdown_tables(text) if set(titles) <= set(table[0]))


def test_all_files_are_there_and_returned(written):
    folder, paths = written
    assert paths[:2] == [folder / "report.md", folder / "report.html"]
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    kinds = {path.name.split("-")[0] for path in paths[2:]}
    assert kinds == {"fraction", "score", "size", "time", "memory", "loss", "overlap", "layers"}


def test_pictures_are_svg_that_loads_nothing_and_are_all_in_both_reports(written, text):
    folder, paths = written
    html = (folder / "report.html").read_text(encoding="utf-8")
    for path in paths[2:]:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        values = [(key, value) for element in root.iter() for key, value in element.attrib.items()]
        references = [value.removeprefix("#") for key, value in values if key.endswith("href")]
        references += [name for _, value in values for name in re.findall(r"url\(#(.*?)\)", value)]
        assert set(references) <= {value for key, value in values if key == "id"}
        assert not any(re.search(r"url\((?!#)|https?:", value) for _, value in values)
        assert f"](pictures/{path.name})" in text
        assert f'id="{path.stem}-figure_1"' in html


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


def test_ranks_are_averaged_over_data_sets():
    results = []
    for method, (joint, ner) in {"a/a": (0.9, 0.1), "b/b": (0.5, 0.5), "c/c": (0.1, 0.9)}.items():
        results.append(make_result(method, scores={"entity_f1": joint, "relation_f1": joint}))
        results.append(make_result(method, "wnut17", scores={"f1": ner}))
    results.append(make_result("d/d", "wnut17", scores={"f1": 0.95}))
    rows = make_rows(results)
    assert mean_ranks(rows) == {"a/a": (2.5, 2), "b/b": (2.5, 2), "c/c": (2.5, 2), "d/d": (1.0, 1)}
    assert ordered_methods(rows) == ["a/a", "b/b", "c/c", "d/d"]
    assert ranks({"x": 3.0, "y": 5.0, "z": 3.0}) == {"x": 2.5, "y": 1.0, "z": 2.5}


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


def test_the_page_has_the_same_tables(text, page):
    def plain(cell):
        for mark, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            cell = cell.replace(mark, sign)
        return re.sub(r"\\(.)", r"\1", cell.removeprefix("**").removesuffix("**"))

    assert page.tables == [[[plain(cell) for cell in line] for line in table] for table in markdown_tables(text)]
    bold = [
        (number, plain(line[0]), column)
        for number, table in enumerate(markdown_tables(text))
        for line in table[1:]
        for column, cell in enumerate(line)
        if cell.startswith("**")
    ]
    assert page.best == bold


def test_the_page_needs_nothing_else_and_escapes_what_comes_from_results(written, page):
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert html.count("<script") == 1
    assert "<script>alert" not in html
    assert "<script>" not in (written[0] / "report.md").read_text(encoding="utf-8")


def test_the_same_results_give_the_same_bytes_in_any_order(written, tmp_path):
    folder, paths = written
    results = json.loads(json.dumps(various()))
    random.Random(1).shuffle(results)
    for path in write_report(results, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
    assert len(list(tmp_path.rglob("*.svg"))) == len(paths) - 2


def test_what_has_nothing_to_show_is_left_out(tmp_path):
    paths = write_report([make_result("lora/rank-8", "wnut17")], tmp_path)
    assert {path.name.split("-")[0] for path in paths[2:]} == {"score", "time", "memory"}
    text = paths[0].read_text(encoding="utf-8")
    assert "## Overview" in text
    assert not re.search("^## (Masks|Training|The paper)", text, re.M)
    assert "**" not in "".join(cell for table in markdown_tables(text) for line in table for cell in line)


def test_only_failures_still_make_a_report(tmp_path):
    paths = write_report([make_result(error="ValueError: no")], tmp_path)
    assert len(paths) == 2
    assert "failed: ValueError: no" in paths[0].read_text(encoding="utf-8")


def test_methods_without_training(tmp_path):
    results = [make_result(), make_result("in_context/4-examples", trainable=0, rates=())]
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    table = next(t for t in markdown_tables(text) if "peak memory" in t[0])
    assert {line[0]: line[table[0].index("learning rate")] for line in table[1:]} == {
        "lora/rank-8": "0.01",
        "in\\_context/4-examples": "–",
    }


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


def of_relation(method, **info):
    result = make_result(method, "fewrel", **{"trainable": 0} if method.startswith("in_context") else {})
    result["train_info"].update(info)
    return result


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


def test_the_loss_of_episodes_is_cut_off():
    run = of_relation("fishdip/density-1", fit_begins=[0, 100, 150])
    assert [step for step, _ in loss_points(run)] == [50, 100]
    (row,) = make_rows([run])
    assert first_fit_updates(row) == [0, 50]
    run["train_info"]["fit_begins"] = [0]
    assert [step for step, _ in loss_points(run)] == [50, 100, 150, 200]
    assert first_fit_updates(row) == [0, 50, 100, 150]


def test_what_a_reader_must_know_of_a_method_stands_below_the_table(tmp_path):
    results = [make_result(), make_result("in_context/4-examples", trainable=0)]
    results[1]["train_info"]["in_context_shown"] = 3.25
    for method, kind in (("houlsby/a", "HOULSBY"), ("compacter/a", "COMPACTER"), ("prompt/a", "PROMPT_TUNING")):
        results.append(make_result(method))
        results[-1]["run_info"]["peft_config"] = {"peft_type": kind}
    text = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "- in\\_context/4-examples: 3.2 examples stood before a source on average" in text
    assert "- houlsby/a: the layer norms stay frozen" in text
    assert "- compacter/a: the layer norms stay frozen" in text
    assert "- prompt/a: of an encoder-decoder, PEFT allocates the virtual tokens twice" in text


def test_pictures_of_an_earlier_report_go_and_nothing_else(tmp_path):
    write_report([make_result(), make_result("full/adamw")], tmp_path)
    mine = tmp_path / "pictures" / "mine.svg"
    mine.touch()
    paths = write_report([make_result(dataset="wnut17")], tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*paths, mine}


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "pictures").touch()
    with pytest.raises(SettingsError, match=r"pictures cannot be a folder"):
        write_report([make_result()], tmp_path)


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


def broken(**changes):
    result = make_result()
    result["run_info"]["train_config"].update(changes)
    return result


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "no results"),
        ([make_result(), make_result()], "two results of seed 0"),
        ([broken(task="poetry")], "'poetry' is unknown; there are ner"),
        ([{"run_info": {}}], "train_config"),
        (
            [{"run_info": {"train_config": {"task": "ner"}, "experiment_name": "a/a"}, "train_info": {}}],
            "a/a has no dataset",
        ),
    ],
)
def test_bad_results_are_refused_and_nothing_is_written(tmp_path, results, message):
    with pytest.raises(SettingsError, match=message):
        write_report(results, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_labels_on_a_line_keep_their_order_and_their_distance():
    chance = random.Random(0)
    for _ in range(100):
        wanted = [chance.random() for _ in range(chance.randrange(1, 12))]
        got = spread(wanted, 0.08, 0.0, 1.0)
        assert [i for _, i in sorted(zip(wanted, range(20), strict=False))] == [
            i for _, i in sorted(zip(got, range(20), strict=False))
        ]
        assert all(b - a >= 0.08 - 1e-9 for a, b in itertools.pairwise(sorted(got)))
        assert min(got) >= -1e-9
        assert max(got) <= 1 + 1e-9
    assert spread([0.2, 0.5], 0.08, 0.0, 1.0) == [0.2, 0.5]


def test_labels_beside_points_do_not_touch():
    points = [(100.0 + 3 * i, 100.0 + 5 * (i % 3)) for i in range(8)]
    boxes = place(points, [(60.0, 9.0)] * 8, (0.0, 0.0, 330.0, 250.0))
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 330 and box[3] <= 250 for box in boxes)
