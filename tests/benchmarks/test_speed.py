"""The benchmark of costs at a tiny geometry: its structure and its arithmetic, never its times."""

import gc
import json
import os
from dataclasses import asdict, replace
from pkgutil import resolve_name
from statistics import median

import pytest
import torch
from torch import nn

from benchmarks.memory import saved_for_backward
from benchmarks.speed import internals, models, steps
from benchmarks.speed.__main__ import main, make_parser
from benchmarks.speed.internals import PHASES, Phases
from benchmarks.speed.measure import in_child, in_turns, ratios
from benchmarks.speed.models import Workbench, make_base, multiply_adds, num_parameters
from benchmarks.speed.report import TABLES, make_pictures
from benchmarks.speed.settings import Method, Settings, settings_of
from benchmarks.speed.steps import (
    figures_of_size,
    measure_compilation,
    measure_largest,
    measure_steps,
    memory_of_method,
    methods_of,
    one_size,
)
from benchmarks.speed.targets import Finding, compilation, findings, linearity
from benchmarks.speed.targets import scale as scale_findings
from benchmarks.speed.update import differences, measure_selection, squared_gradients
from peft_fishdip import FishDipConfig

TINY = ["--geometry", "tiny", "--batch", "2", "--source", "6", "--target", "5", "--rounds", "2", "--warmup", "1"]
BRIEF = ["--examples", "12", "--step-batch", "3", "--timed-steps", "2", "--fisher-examples", "3"]
BRIEF += ["--fisher-lengths", "3", "40", "--new-tokens", "3"]

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def settings(*words, command="steps"):
    return settings_of(vars(make_parser().parse_args([command, *TINY, "--real-steps", "1", *words])))


def tables(name, part):
    return list(TABLES[name](part))


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What the imports made is left out when garbage is collected, which is done before memory is measured."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def bench():
    return Workbench(settings())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the steps, the update and the decoding of a tiny model."""
    folder = tmp_path_factory.mktemp("speed")
    for part in ("steps", "update", "decode"):
        assert main([part, *TINY, "--real-steps", "1", *BRIEF, "--output", str(folder)]) == 0
    return folder


def read(folder, part):
    return json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))


# ----- what is measured -----------------------------------------------------------------------------------------------


def test_every_method_has_a_turn_in_every_round(measured):
    steps = read(measured, "steps")
    names = {method.name for method in methods_of(settings())}
    assert steps["contestants"].keys() == names
    assert {name for name in names if "fishdip" in name} == {
        f"fishdip-{pattern}@{density}"
        for pattern in ("uniform", "clustered", "real")
        for density in (0.001, 0.01, 0.05)
    }
    assert all(sorted(order) == sorted(names) for order in steps["order"])
    assert len(steps["order"]) == 3
    assert len({tuple(order) for order in steps["order"]}) > 1
    for record in steps["contestants"].values():
        assert not record["error"]
        assert len(record["seconds"]) == 2
        assert len(record["warmup_seconds"]) == 1
        assert min(record["seconds"]) > 0


def test_the_file_tells_machine_and_settings(measured):
    part = read(measured, "steps")
    assert {"cpu", "cores", "threads", "packages", "gpu", "revision"} <= part["machine"].keys()
    assert part["settings"] == json.loads(
        json.dumps(asdict(replace(settings(*BRIEF), threads=torch.get_num_threads())))
    )


def test_ratios_in_the_report_are_those_of_the_raw_seconds(measured):
    contestants = read(measured, "steps")["contestants"]
    ours, lora = contestants["fishdip-clustered@0.01"]["seconds"], contestants["lora"]["seconds"]
    expected = [a / b for a, b in zip(ours, lora, strict=True)]
    (found,) = [x for x in findings({"steps": read(measured, "steps")}) if x.target == "step, clustered mask, to lora"]
    assert found.values == expected
    report = (measured / "report.md").read_text(encoding="utf-8")
    line = next(line for line in report.splitlines() if line.startswith("| step, clustered mask, to lora"))
    assert f"{median(expected):.3g} ({min(expected):.3g} to {max(expected):.3g}, 2x)" in line
    row = next(line for line in report.splitlines() if line.startswith("| Fish-Dip, 1 %, clustered mask"))
    assert [cell.strip() for cell in row.replace("\\|", "").split("|")][-3] == f"{median(expected):.3g}"


def test_the_parts_of_an_update_sum_to_the_whole(measured):
    split = read(measured, "update")["split"]
    assert split["phases"] == [*PHASES, "rest"]
    for whole, parts in zip(split["update_seconds"], split["update_phases"], strict=True):
        assert sum(parts.values()) == pytest.approx(whole)
        assert min(parts.values()) > 0
    for share, whole, seconds in zip(split["share"], split["update_seconds"], split["step_seconds"], strict=True):
        assert len(seconds) == 2
        assert share == pytest.approx(whole / (100 * median(seconds)))


def test_fisher_of_both_ways_agrees(measured):
    for record in read(measured, "update")["fisher"]:
        assert record["norm_difference"] < 1e-5
        assert len(record["ours"]) == len(record["one_by_one"]) == 2


def test_decoding_merged_and_unmerged_gives_the_same_tokens(measured):
    part = read(measured, "decode")
    assert part["decode"]["fishdip_merged"]["same_tokens"]
    assert all(len(record["seconds_per_token"]) == 2 for record in part["decode"].values())
    assert part["files"].keys() == {"fishdip-uniform@0.01", "lora", "shira@0.01", "supertuning@0.01", "full"}
    assert all(record["bytes"] > 0 and len(record["load_seconds"]) == 2 for record in part["files"].values())


def test_the_report_is_rebuilt_from_the_files(measured, capsys):
    before = {path: path.read_bytes() for path in [measured / "report.md", *measured.glob("pictures/*.svg")]}
    assert len(before) == 2
    for path in before:
        path.unlink()
    assert main(["report", "--output", str(measured)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert capsys.readouterr().out.strip() == before[measured / "report.md"].decode().strip()


# ----- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["uniform", "clustered", "real"])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.05])
def test_fishdip_has_a_mask_of_its_density(bench, pattern, density):
    model = bench.make(Method("fishdip", pattern, density)).model
    mask = model.base_model.mask()
    assert sum(map(len, mask.values())) == num_parameters(model, trainable=True) == int(density * bench.size)
    if pattern == "real":
        assert all(torch.equal(mask[name], bench.real_mask(density)[name]) for name in bench.shapes)


def test_clustered_entries_lie_in_a_tenth_of_rows_and_columns():
    scores = models.random_scores({"w": torch.Size([500, 400])}, "clustered", 0)["w"]
    rows, columns = (scores.view(-1).topk(20_000).indices // 400, scores.view(-1).topk(20_000).indices % 400)
    counts = rows.bincount(minlength=500)
    assert 30 < len(hot := counts.topk(70).indices[counts.topk(70).values > 100]) <= 70
    assert len(columns[~torch.isin(rows, hot)].unique()) <= 60
    uniform = models.random_scores({"w": torch.Size([500, 400])}, "uniform", 0)["w"].view(-1).topk(20_000).indices
    assert (uniform // 400).bincount(minlength=500).max() < 100


def test_the_dense_reference_moves_nothing_outside_of_its_mask(bench):
    alone = Workbench(settings())
    made = alone.make(Method("masked", "", 0.05))
    before = {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}
    made.step(2)
    moved = sum(int((parameter.detach() != before[name]).sum()) for name, parameter in made.model.named_parameters())
    assert 0.5 * 0.05 * alone.size < moved <= 0.05 * alone.size


def test_the_floor_has_gradients_at_the_embeddings_and_at_no_weight(bench):
    made = bench.make(Method("frozen"))
    outputs = []
    made.model.shared.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    made.model.encoder.embed_tokens.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    made.step()
    assert outputs
    assert all(output.grad is not None and output.grad.abs().sum() > 0 for output in outputs)
    assert all(parameter.grad is None for parameter in made.model.parameters())
    assert num_parameters(made.model, trainable=True) == 0


def test_shira_trains_about_as_many_entries(bench):
    density = 0.1  # a tiny model leaves little choice of ranks
    count = num_parameters(bench.make(Method("shira", "", density)).model, trainable=True)
    assert 0.5 < count / (density * bench.size) < 1.5


def test_methods_share_the_weights_but_no_parameters(bench):
    one, other = bench.make(Method("full")), bench.make(Method("frozen"))
    assert one.model.shared.weight is not other.model.shared.weight
    assert one.model.shared.weight.data_ptr() == other.model.shared.weight.data_ptr()
    assert one.model.lm_head.weight is one.model.shared.weight


def test_methods_are_built_anew_where_little_memory_is_free(monkeypatch):
    monkeypatch.setattr(steps, "memory_of", lambda device: (1, 10))
    result = measure_steps(settings("--methods", "lora", "full", "--rounds", "2", "--warmup", "0"))
    assert result["lifetime"].startswith("0 of 2 in memory")
    assert all(len(record["seconds"]) == 2 for record in result["contestants"].values())


def test_a_method_that_fails_is_recorded_and_the_others_go_on(monkeypatch):
    def broken(bench, method):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(models.MAKERS, "shira", broken)
    own = settings("--methods", "shira@0.01", "lora", "--rounds", "1", "--warmup", "0")
    part = measure_steps(own)
    assert part["contestants"]["shira@0.01"]["error"] == "RuntimeError: no such kernel"
    assert len(part["contestants"]["lora"]["seconds"]) == 1
    (table,) = tables("steps", part)
    assert "shira@0.01 failed: RuntimeError: no such kernel" in table.notes


def test_turns_come_in_random_order_and_errors_end_them():
    calls = []

    def broken():
        raise ValueError("no")

    turns = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    failed = {}
    results, order = in_turns({**turns, "d": broken}, 5, 0, failed)
    assert calls == [name for names in order for name in names if name != "d"]
    assert sorted(order[0]) == [*"abcd"]
    assert all(sorted(names) == [*"abc"] for names in order[1:])
    assert len({tuple(names) for names in order}) > 2
    assert (len(results["a"]), results["d"], failed) == (5, [], {"d": "ValueError: no"})
    with pytest.raises(ValueError, match="no"):
        in_turns({"d": broken}, 1, 0)


# ----- memory ---------------------------------------------------------------------------------------------------------


def test_saved_bytes_are_those_counted_by_hand():
    first, second = nn.Linear(3, 5), nn.Linear(5, 2, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(4, 3)
    # the first product saves x, ReLU its output, which the second product saves too; weights do not count
    assert saved_for_backward(model, lambda: model(x).sum()) == 4 * 4 * 3 + 4 * 4 * 5
    frozen = model.requires_grad_(False)
    x.requires_grad_(True)
    assert saved_for_backward(frozen, lambda: frozen(x).sum()) == 4 * 4 * 5
    assert saved_for_backward(first, lambda: first(x.detach()).sum()) == 0


def test_what_hooks_and_functions_keep_counts_too():
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.own = x.new_zeros(10)
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    weight = torch.ones(3, requires_grad=True)
    model = nn.Identity()
    assert saved_for_backward(model, lambda: Keeps.apply(weight).sum()) == 40

    def in_half():
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.half, torch.Tensor.float):
            return (weight * torch.ones(3).requires_grad_()).sum()

    assert saved_for_backward(model, in_half) == 2 * 6


def test_a_sparse_tensor_counts_by_its_positions_and_values():
    sparse = torch.eye(3).to_sparse_coo()

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.sparse = sparse
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    weight = nn.Parameter(torch.zeros(2))
    assert saved_for_backward(nn.Identity(), lambda: Keeps.apply(weight).sum()) == 2 * 24 + 12


def test_memory_figures_of_a_process_of_its_own(bench):
    figures = in_child(memory_of_method, settings(), "fishdip-uniform@0.01")
    assert figures["trainable"] == int(0.01 * figures["parameters"])
    assert figures["weights"] + figures["state"] + figures["activations"] == figures["peak"]
    part = {"contestants": {"fishdip-uniform@0.01": {"processes": [figures] * 2, "error": ""}}}
    (table,) = tables("memory", part)
    assert table.lines[0][1].value == pytest.approx(figures["peak"] / 1e6)
    made = bench.make(Method("fishdip", "uniform", 0.01))
    assert figures["saved"] == saved_for_backward(made.model, made.forward)


def end_process(settings):
    os._exit(3)


def raise_error(settings):
    raise ValueError("some\nreason")


def test_a_process_that_fails_says_why_in_one_line():
    assert in_child(raise_error, settings()) == {"error": "ValueError: some reason"}
    assert "process" in in_child(end_process, settings())["error"]


# ----- updates and sizes ----------------------------------------------------------------------------------------------


def test_phases_restore_what_they_have_wrapped():
    functions = [path for paths in PHASES.values() for path in paths]
    before = list(map(resolve_name, functions))
    with Phases() as phases:
        assert not any(now is own for now, own in zip(map(resolve_name, functions), before, strict=True))
        resolve_name(PHASES["selection"][0])({"a": torch.rand(5)}, 2)
    assert phases.seconds["selection"] > 0
    assert phases.scores.keys() == {"a"}
    assert list(map(resolve_name, functions)) == before


def test_selection_beside_topk():
    scores = {"a": torch.rand(30, 4), "b": torch.rand(50)}
    result = measure_selection(scores, settings("--density", "0.1"))
    assert result["same"]
    assert result["k"] == 17
    assert [len(result[way][figure]) for way in ("ours", "topk") for figure in ("seconds", "bytes")] == [2] * 4


def test_one_by_one_is_the_mean_of_squared_gradients(bench):
    examples = bench.examples(2, length=3)
    model = bench.shared().requires_grad_(True)
    found = squared_gradients(model, bench, examples)
    expected = torch.zeros_like(model.shared.weight)
    for example in examples:
        model.zero_grad()
        (3 * model(**bench.batch([example])).loss).backward()  # transformers' loss is the mean over 3 target tokens
        expected += model.shared.weight.grad**2 / 2
    torch.testing.assert_close(found["shared.weight"], expected, rtol=1e-4, atol=1e-10)
    same = differences(found, found)
    assert (same["norm_difference"], same["entry_difference"]) == (0.0, 0.0)
    other = {**found, "shared.weight": found["shared.weight"] * 1.5}
    assert differences(other, found)["norm_difference"] == pytest.approx(0.5)
    assert differences(other, found)["worst"] == "shared.weight"


def test_examples_have_the_lengths_that_were_asked_for(bench):
    assert {(len(x["input_ids"]), len(x["labels"])) for x in bench.examples(3)} == {(6, 5)}
    assert {(len(x["input_ids"]), len(x["labels"])) for x in bench.examples(3, length=4)} == {(4, 4)}


def test_operations_are_counted_by_hand(bench):
    attention, forward, head = 4 * 32 * 64, 2 * 32 * 64, 32 * 100
    on_source, on_target = attention + forward + attention // 2, attention + attention // 2 + forward + head
    assert multiply_adds(bench.base, bench.batch()) == 2 * (6 * on_source + 5 * on_target)
    with torch.device("meta"):
        assert num_parameters(make_base("tiny", torch.float32)) == bench.size


def test_a_size_that_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(steps, "memory_of", lambda device: (10, 10))
    record = one_size(settings(), "tiny:bfloat16")
    assert record["dtype"] == "bfloat16"
    assert "GB are free" in record["skipped"]


def test_steps_and_updates_of_a_size():
    names = ("frozen", "fishdip-uniform@0.01")
    words = ["--dtype", "bfloat16", "--scale-examples", "4", "--rounds", "1", "--methods", *names]
    record = figures_of_size(settings(*words))
    assert record["steps"]["contestants"].keys() == {*names}
    assert not any(method["error"] for method in record["steps"]["contestants"].values())
    assert len(record["update"]["update_seconds"]) == 1
    assert record["update"]["most_bytes"] > 0
    size = {"geometry": "tiny", "dtype": "bfloat16", "parameters": 9, "left_out": [], **record}
    part = {"settings": {"linear_from": 0}, "sizes": [size]}
    assert [table.caption for table in tables("scale", part)][1:] == ["Training steps: tiny, 9e-06 M, bfloat16"]
    assert [picture.name for picture in make_pictures({"scale": part})] == ["cost-by-size-bfloat16"]


def test_compiled_steps_take_turns_with_eager_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # what compiling does is another test's
    part = measure_compilation(settings("--rounds", "2", "--compiled-methods", "fishdip-uniform@0.1", "lora"))
    for record in part["contestants"].values():
        assert (len(record["eager"]), len(record["compiled"]), record["error"]) == (2, 2, "")
    part["contestants"]["fishdip-uniform@0.1"] |= {"eager": [1.0, 2.0], "compiled": [2.0, 3.0]}
    (finding,) = compilation({"compilation": part}, False)
    assert finding.values == [2.0, 1.5]
    assert finding.verdict.startswith("missed by")
    assert tables("compilation", part)[0].lines[0][-1].text == "1.75"


def test_what_cannot_be_compiled_is_recorded(monkeypatch):
    def refuse(**batch):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda model: refuse)
    part = measure_compilation(settings("--compiled-contestants", "fishdip-uniform@0.1"))
    assert "fishdip-uniform@0.1 failed:" in tables("compilation", part)[0].notes[0]
    (finding,) = compilation({"compilation": part}, False)
    assert finding.verdict == "not measured"


def test_the_largest_model_is_trained_in_a_process_of_its_own():
    words = ["--largest", "tiny:bfloat16", "--largest-tokens", "4", "--threads", "1"]
    part = measure_largest(settings(*words))
    size = part["size"]
    assert (part["settings"]["batch"], part["settings"]["source"]) == (1, 4)
    assert list(size["steps"]["contestants"]) == ["fishdip-uniform@0.01"]
    assert size["update"]["examples"] == 3
    finding = list(scale_findings({"largest": part}, False))[-1]
    assert finding.values == [size["update"]["most_bytes"] / 1e9]
    assert finding.verdict == "met"
    assert tables("largest", part)[0].lines[0][0].text == "tiny, 0.0363 M, bfloat16"
    too_big = {"geometry": "3b", "dtype": "float32", "parameters": 3e9, "skipped": "needs much"}
    assert "needs much" in tables("largest", {"size": too_big})[0].notes[0]
    finding = list(scale_findings({"largest": {"size": too_big}}, False))[-1]
    assert finding.verdict == "not measured"


def test_linearity_is_cost_per_parameter_to_the_smallest_that_is_big_enough():
    def size(parameters, step, update):
        contestants = {"fishdip-uniform@0.01": {"seconds": [step] * 3, "error": ""}}
        shown = {"geometry": "base", "dtype": "float32", "parameters": parameters}
        return {**shown, "steps": {"contestants": contestants}, "update": {"update_seconds": [update]}}

    part = {
        "settings": {"linear_from": 50},
        "sizes": [size(10, 9, 9), size(200, 5, 8), size(100, 2, 4), {"skipped": ""}],
    }
    values = [value for _, value in linearity(part)]
    assert values == pytest.approx([1.0, 1.25])


# ----- figures, targets, options --------------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]


def test_verdicts_tell_by_how_much_a_target_is_missed():
    assert Finding("", "", [1.0, 1.04, 1.2], most=1.05).verdict == "met"
    assert Finding("", "", [1.26], most=1.05).verdict == "missed by 20 %"
    assert Finding("", "", [1.5], least=2.0).verdict == "missed by 25 %"
    assert Finding("", "", [0.5], most=1.1, least=0.9).verdict.startswith("missed")
    assert Finding("", "").verdict == Finding("", "").measured == "not measured"


def test_targets_that_were_not_measured_are_listed(measured):
    found = {x.target: x.verdict for x in findings({"steps": read(measured, "steps")})}
    assert found["memory peak of steps, uniform mask, to lora"] == "not measured"
    assert found["large, bfloat16: memory of steps and updates"] == "not measured"


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


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "steps.json").write_text('{"part": "memory"}', encoding="utf-8")
    assert main(["report", "--output", str(tmp_path)]) == 2


def test_the_config_of_the_mask_is_the_users(bench):
    config = bench.make(Method("fishdip", "uniform", 0.01)).model.peft_config["default"]
    assert isinstance(config, FishDipConfig)
    assert config.target_modules is None


def test_costs_are_calibrated_by_measurement(monkeypatch, capsys):
    monkeypatch.setattr(internals, "SHAPES", ((40, 30, 20),))
    assert min(internals.calibrate()) > 0
    monkeypatch.setattr(internals, "calibrate", lambda: internals.COSTS)
    assert main(["calibrate"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("multiply", "dot", "move", "gather", "pick"))
    assert main(["calibrate", "--threads", "0"]) == 2
    assert "threads=0" in capsys.readouterr().err
