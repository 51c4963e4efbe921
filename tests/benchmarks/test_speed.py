"""The benchmark of costs at a tiny geometry: its structure and its arithmetic, never its times."""

import gc
import json
from dataclasses import replace
from statistics import median

import pytest
import torch
from torch import nn

from benchmarks.settings import SettingsError
from benchmarks.speed import calibrate
from benchmarks.speed.__main__ import main
from benchmarks.speed.child import run_in_child
from benchmarks.speed.clock import Spread, ratios
from benchmarks.speed.compilation import measure_compilation
from benchmarks.speed.contestants import Workbench
from benchmarks.speed.data import collate, make_examples
from benchmarks.speed.fisher import differences, squared_gradients
from benchmarks.speed.geometry import count_parameters, multiply_adds
from benchmarks.speed.largest import measure_largest
from benchmarks.speed.lifetime import choose_lifetime
from benchmarks.speed.options import make_parser, settings_of
from benchmarks.speed.patterns import make_positions, shared_out
from benchmarks.speed.phases import PHASES, Phases, importers
from benchmarks.speed.pictures import by_size
from benchmarks.speed.saved import saved_for_backward
from benchmarks.speed.scale import one_size, scale_of
from benchmarks.speed.selection import cat_and_topk, measure_selection
from benchmarks.speed.settings import PRESETS, Settings
from benchmarks.speed.spec import Spec, specs_of
from benchmarks.speed.steps import measure_steps
from benchmarks.speed.tables import compilation_table, largest_table, memory_table, scale_tables
from benchmarks.speed.targets import Finding, compilation, findings, largest, linearity
from peft_fishdip import FishDipConfig

TINY = ["--geometry", "tiny", "--batch", "2", "--source", "6", "--target", "5", "--rounds", "2", "--warmup", "1"]
BRIEF = ["--examples", "12", "--step-batch", "3", "--timed-steps", "2", "--fisher-examples", "3"]
BRIEF += ["--fisher-lengths", "3", "40", "--new-tokens", "3"]

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:Unsupported layer type:UserWarning")


def settings(*words, command="steps"):
    return settings_of(make_parser().parse_args([command, *TINY, "--real-steps", "1", *words]))


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


def test_every_contestant_has_a_turn_in_every_round(measured):
    steps = read(measured, "steps")
    names = {spec.name for spec in specs_of(settings())}
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
    assert Settings.from_dict(part["settings"]) == replace(settings(*BRIEF), threads=torch.get_num_threads())


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
    for share, whole, steps in zip(split["share"], split["update_seconds"], split["step_seconds"], strict=True):
        assert len(steps) == 2
        assert share == pytest.approx(whole / (100 * median(steps)))


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


# ----- contestants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["uniform", "clustered", "rows", "real"])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.05])
def test_fishdip_has_the_mask_of_its_name(bench, pattern, density):
    contestant = bench.make(Spec("fishdip", pattern, density))
    mask = contestant.model.base_model.mask()
    real = pattern == "real"
    expected = bench.real.positions(density) if real else make_positions(bench.shapes, pattern, density, 0)
    assert all(torch.equal(mask[name], expected[name]) for name in bench.shapes)
    assert contestant.trainable == sum(map(len, mask.values())) == int(density * bench.size)


def test_clustered_entries_lie_in_a_tenth_of_rows_and_columns():
    positions = make_positions({"w": torch.Size([50, 40])}, "clustered", 0.1, 0)["w"]
    rows, columns = positions // 40, positions % 40
    assert len(positions) == 200
    busiest_rows = rows.bincount(minlength=50).topk(5).indices
    outside = columns[~torch.isin(rows, busiest_rows)]
    assert len(outside.unique()) <= 4
    in_rows = make_positions({"w": torch.Size([50, 40])}, "rows", 0.05, 0)["w"]
    assert len((in_rows // 40).unique()) <= 5


def test_entries_are_shared_out_in_proportion_and_none_is_lost():
    counts = shared_out({"a": 1000, "b": 333, "c": 7}, 0.05)
    assert sum(counts.values()) == int(0.05 * 1340)
    assert counts == {"a": 50, "b": 17, "c": 0}


def test_the_dense_reference_moves_nothing_outside_of_its_mask(bench):
    alone = Workbench(settings())
    contestant = alone.make(Spec("masked", "", 0.05))
    before = {name: parameter.detach().clone() for name, parameter in contestant.model.named_parameters()}
    contestant.step()
    positions = make_positions(alone.shapes, "uniform", 0.05, 0)
    for name, parameter in contestant.model.named_parameters():
        moved = (parameter.detach() != before[name]).view(-1).nonzero().view(-1)
        assert set(moved.tolist()) <= set(positions[name].tolist())


def test_the_floor_has_gradients_at_the_embeddings_and_at_no_weight(bench):
    contestant = bench.make(Spec("frozen"))
    outputs = []
    contestant.model.shared.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    contestant.model.encoder.embed_tokens.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    contestant.step()
    assert outputs
    assert all(output.grad is not None and output.grad.abs().sum() > 0 for output in outputs)
    assert all(parameter.grad is None for parameter in contestant.model.parameters())
    assert contestant.trainable == 0


def test_shira_trains_about_as_many_entries(bench):
    density = 0.1  # a tiny model leaves little choice of ranks
    count = bench.make(Spec("shira", "", density)).trainable
    assert 0.5 < count / (density * bench.size) < 1.5


def test_contestants_share_the_weights_but_no_parameters(bench):
    one, other = bench.make(Spec("full")), bench.make(Spec("frozen"))
    assert one.model.shared.weight is not other.model.shared.weight
    assert one.model.shared.weight.data_ptr() == other.model.shared.weight.data_ptr()
    assert one.model.lm_head.weight is one.model.shared.weight


def test_contestants_can_be_rebuilt_for_each_turn(bench):
    own = settings("--lifetime", "rebuild", "--contestants", "lora", "full", "--rounds", "1", "--warmup", "0")
    result = measure_steps(own)
    assert result["lifetime"] == "rebuilt for each turn"
    assert all(len(record["seconds"]) == 1 for record in result["contestants"].values())


def test_what_does_not_fit_is_rebuilt():
    rebuilt, reason = choose_lifetime(settings(), [Spec("full"), Spec("lora")], 10**13)
    assert rebuilt
    assert "GB" in reason
    assert not choose_lifetime(settings(), [Spec("full")], 10**4)[0]


def test_a_contestant_that_fails_is_recorded_and_the_others_go_on(monkeypatch):
    def broken(bench, spec):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(measure_steps.__globals__["Workbench"].make.__globals__["MAKERS"], "shira", broken)
    own = settings("--contestants", "shira@0.01", "lora", "--rounds", "1", "--warmup", "0")
    contestants = measure_steps(own)["contestants"]
    assert contestants["shira@0.01"]["error"] == "RuntimeError: no such kernel"
    assert len(contestants["lora"]["seconds"]) == 1


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
    figures = run_in_child("memory", settings(), contestant="fishdip-uniform@0.01")
    assert figures["trainable"] == int(0.01 * figures["parameters"])
    assert figures["weights"] + figures["state"] + figures["activations"] == figures["peak"]
    record = {"contestants": {"fishdip-uniform@0.01": {"processes": [figures] * 2, "error": ""}}}
    assert memory_table(record).lines[0][1].value == pytest.approx(figures["peak"] / 1e6)
    contestant = bench.make(Spec("fishdip", "uniform", 0.01))
    assert figures["saved"] == saved_for_backward(contestant.model, contestant.forward)


def test_a_process_that_fails_says_why_in_one_line(monkeypatch, tmp_path):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho some lines >&2\necho the reason >&2\nexit 3\n", encoding="utf-8")
    failing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(failing))
    assert run_in_child("memory", settings()) == {"error": "process ended with status 3: the reason"}


def test_a_contestant_is_unknown_to_a_process_too(capsys):
    message = json.dumps({"settings": settings().as_dict(), "arguments": {"contestant": "lara"}})
    assert main(["child", "memory", message]) == 2
    assert "'lara' is unknown" in capsys.readouterr().err


# ----- updates and sizes ----------------------------------------------------------------------------------------------


def test_phases_wrap_a_function_wherever_it_was_imported_and_give_it_back():
    from peft_fishdip import selection

    original = selection.top_k
    before = importers(original, "top_k")
    assert len(before) > 1
    with Phases(torch.device("cpu")) as phases:
        assert importers(original, "top_k") == []
        selection.top_k({"a": torch.rand(5)}, 2)
    assert importers(original, "top_k") == before
    assert phases.seconds["selection"] > 0
    assert phases.scores.keys() == {"a"}


def test_a_function_that_is_gone_is_named():
    with pytest.raises(SettingsError, match=r"no function peft_fishdip.selection:top_l.*phases\.py"):
        Phases(torch.device("cpu"), {"selection": ("peft_fishdip.selection:top_l",)})


def test_selection_beside_topk():
    scores = {"a": torch.rand(30, 4), "b": torch.rand(50)}
    result = measure_selection(scores, 0.1, rounds=2)
    assert result["same"]
    assert result["k"] == 17
    flat = torch.cat([score.view(-1) for score in scores.values()])
    a, b = cat_and_topk(scores, 17)
    assert set(torch.cat([a, b + 120]).tolist()) == set(flat.topk(17).indices.tolist())


def test_one_by_one_is_the_mean_of_squared_gradients(bench):
    examples = make_examples(2, 4, 3, 100, seed=0)
    model = bench.shared().requires_grad_(True)
    total = squared_gradients(model, examples, torch.device("cpu"))
    expected = torch.zeros_like(model.shared.weight)
    for example in examples:
        model.zero_grad()
        (3 * model(**collate([example])).loss).backward()  # transformers' loss is the mean over 3 target tokens
        expected += model.shared.weight.grad**2
    torch.testing.assert_close(total["shared.weight"], expected, rtol=1e-4, atol=1e-10)
    assert differences(total, total)[:2] == (0.0, 0.0)


def test_examples_have_the_lengths_that_were_asked_for():
    full = make_examples(3, 8, 4, 100, seed=0)
    assert {(len(x["input_ids"]), len(x["labels"])) for x in full} == {(8, 4)}
    mixed = make_examples(50, 80, 40, 100, seed=0, shortest=0.25)
    lengths = [len(x["input_ids"]) for x in mixed]
    assert min(lengths) >= 20
    assert 40 < sum(lengths) / 50 < 60


def test_operations_are_counted_by_hand(bench):
    attention, forward, head = 4 * 32 * 64, 2 * 32 * 64, 32 * 100
    on_source, on_target = attention + forward + attention // 2, attention + attention // 2 + forward + head
    assert multiply_adds(bench.base, 2, 6, 5) == 2 * (6 * on_source + 5 * on_target)
    assert count_parameters("tiny") == bench.size


def test_a_size_that_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setitem(one_size.__globals__, "free_memory", lambda device: 10)
    record = one_size(settings(), "tiny:bfloat16")
    assert record["dtype"] == "bfloat16"
    assert "GB are free" in record["skipped"]


def test_steps_and_updates_of_a_size():
    names = ("frozen", "fishdip-uniform@0.01")
    words = ["--dtype", "bfloat16", "--scale-examples", "4", "--rounds", "1", "--contestants", *names]
    record = scale_of(settings(*words))
    assert record["steps"]["contestants"].keys() == {*names}
    assert not any(contestant["error"] for contestant in record["steps"]["contestants"].values())
    assert len(record["update"]["update_seconds"]) == 1
    assert record["update"]["most_bytes"] > 0
    size = {"geometry": "tiny", "dtype": "bfloat16", "parameters": 9, "left_out": [], **record}
    part = {"settings": {"linear_from": 0}, "sizes": [size]}
    tables = list(scale_tables(part))
    assert [table.caption for table in tables][1:] == ["Training steps: tiny, 9e-06 M, bfloat16"]
    assert [picture.name for picture in by_size(part)] == ["cost-by-size-bfloat16"]


def test_compiled_steps_take_turns_with_eager_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # what compiling does is another test's
    part = measure_compilation(settings("--rounds", "2", "--compiled-contestants", "fishdip-uniform@0.1", "lora"))
    for record in part["contestants"].values():
        assert (len(record["eager"]), len(record["compiled"]), record["error"]) == (2, 2, "")
    part["contestants"]["fishdip-uniform@0.1"] |= {"eager": [1.0, 2.0], "compiled": [2.0, 3.0]}
    (finding,) = compilation({"compilation": part})
    assert finding.values == [2.0, 1.5]
    assert finding.verdict.startswith("missed by")
    assert compilation_table(part["contestants"]).lines[0][-1].text == "1.75"


def test_what_cannot_be_compiled_is_recorded(monkeypatch):
    def refuse(**batch):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda model: refuse)
    part = measure_compilation(settings("--compiled-contestants", "fishdip-uniform@0.1"))
    assert "fishdip-uniform@0.1 failed:" in compilation_table(part["contestants"]).notes[0]
    (finding,) = compilation({"compilation": part})
    assert finding.verdict == "not measured"


def test_the_largest_model_is_trained_in_a_process_of_its_own():
    words = ["--largest", "tiny:bfloat16", "--largest-tokens", "4", "--threads", "1"]
    size = measure_largest(settings(*words))["size"]
    assert list(size["steps"]["contestants"]) == ["fishdip-uniform@0.01"]
    assert size["update"]["examples"] == 3
    (finding,) = largest({"largest": {"size": size}})
    assert finding.values == [size["update"]["most_bytes"] / 1e9]
    assert finding.verdict == "met"
    assert largest_table(size).lines[0][0].text == "tiny, 0.0363 M, bfloat16"
    too_big = {"geometry": "3b", "dtype": "float32", "parameters": 3e9, "skipped": "needs much"}
    assert "needs much" in largest_table(too_big).notes[0]
    (finding,) = largest({"largest": {"size": too_big}})
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


def test_spread_and_ratios():
    spread = Spread.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (spread.low, spread.quarter, spread.median, spread.three_quarters, spread.high) == (1, 2, 3, 4, 5)
    assert Spread.of([2.0]).three_quarters == 2
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


def test_an_adapter_gives_its_mask(bench, tmp_path):
    trained = bench.fishdip(Spec("fishdip", "uniform", 0.02), seed=3)
    trained.save_pretrained(str(tmp_path), save_embedding_layers=False)
    again = Workbench(settings("--adapter", str(tmp_path)))
    names = [spec.name for spec in specs_of(again.settings, real=again.real.density) if spec.pattern == "real"]
    assert names == ["fishdip-real@0.02"]
    assert all(
        torch.equal(found, trained.base_model.mask()[name]) for name, found in again.real.positions(0.02).items()
    )
    with pytest.raises(SettingsError, match=r"no real mask of density 0\.01; there are 0\.02"):
        again.real.positions(0.01)


def test_presets_and_options():
    assert (settings().batch, settings().source, settings().patterns) == (2, 6, ("uniform", "clustered", "real"))
    options = make_parser().parse_args(["steps", "--preset", "gpu", "--batch", "3"])
    gpu = settings_of(options)
    assert (gpu.geometry, gpu.batch, gpu.source, gpu.device) == ("large", 3, 256, "cuda")
    default = settings_of(make_parser().parse_args(["all"]))
    assert (default.geometry, default.batch, default.source, default.target) == ("small", 4, 128, 64)
    assert Settings.from_dict(json.loads(json.dumps(gpu.as_dict()))) == gpu
    assert PRESETS.keys() == {"cpu", "gpu"}


def test_every_option_is_documented(capsys):
    for name in ("steps", "report"):
        with pytest.raises(SystemExit):
            make_parser().parse_args([name, "--help"])
    assert "--fisher-lengths" in capsys.readouterr().out
    assert all(len(item.metadata["help"]) > 10 for item in Settings.__dataclass_fields__.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps", "--geometry", "huge"], "geometry='huge' is unknown"),
        (["steps", "--dtype", "float8"], "dtype='float8' must be one of"),
        (["steps", "--rounds", "0"], "rounds=0 must be greater than 0"),
        (["steps", "--densities", "0.1", "2"], "densities=2.0 must be at most 1"),
        (["steps", "--patterns", "dots"], "pattern 'dots' is unknown"),
        (["steps", "--contestants", "lora@0.1"], "contestant 'lora@0.1' is unknown"),
        (["steps", "--contestants", "shira@x"], "contestant 'shira@x' is unknown"),
        (["scale", "--geometries", "tiny:int8"], "geometry 'tiny:int8' is unknown"),
        (["largest", "--largest", "giant"], "geometry 'giant' is unknown"),
        (["steps", "--device", "toaster"], "device='toaster' cannot be used"),
        (["steps", *TINY, "--model", "no-folder"], "model='no-folder' cannot be read"),
        (["steps", *TINY, "--adapter", "no-folder"], "adapter='no-folder' is none of Fish-Dip"),
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
    model = bench.fishdip(Spec("fishdip", "uniform", 0.01))
    config = model.peft_config["default"]
    assert isinstance(config, FishDipConfig)
    assert config.target_modules is None


def test_costs_are_calibrated_by_measurement(monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "SHAPES", ((40, 30, 20),))
    monkeypatch.setattr(calibrate, "ROUNDS", 1)
    monkeypatch.setattr(calibrate, "seconds", lambda work, device: (work(), 2e-6)[1])
    assert calibrate.calibrate() == pytest.approx((2000 / 24_000, 2000 / 240, 2000 / 1400, 2000 / 280, 2000 / 12))
    assert main(["calibrate"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("multiply", "dot", "move", "gather", "pick"))
    assert main(["calibrate", "--threads", "0"]) == 2
    assert "threads=0" in capsys.readouterr().err
