"""The loop all methods share, and what is measured around it."""

import math

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForSeq2SeqLM

from benchmarks import fitting
from benchmarks.features import collate
from benchmarks.fitting import fit, mean_loss, shuffled_batches
from benchmarks.masks import layer_group, shares
from benchmarks.memory import MemoryMeter
from benchmarks.optimizers import make_optimizer, warmup_and_decay
from benchmarks.outcome import Trace
from benchmarks.settings import SettingsError, default_params
from peft_fishdip import FishDipConfig, SparseAdafactor

CPU = torch.device("cpu")
FEATURES = [
    {"input_ids": [5 + i, 6, 7, 1], "attention_mask": [1] * 4, "labels": [5 + i, 9, 1][: 2 + i % 2]} for i in range(7)
]


def params(**changes):
    return default_params().updated({"steps": 6, "batch_size": 3, "log_every": 4, **changes}, "test")


@pytest.fixture
def model(base_model):
    return AutoModelForSeq2SeqLM.from_pretrained(base_model)


def fish_dip(model, **changes):
    return get_peft_model(model, FishDipConfig(task_type="SEQ_2_SEQ_LM", density=0.05, **changes))


def test_a_pass_takes_every_example_once_in_another_order():
    batches = shuffled_batches(FEATURES, 3, seed=0)
    passes = [[row for _ in range(3) for row in next(batches)["input_ids"][:, 0].tolist()] for _ in range(2)]
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(5, 12))


def test_batches_are_padded_and_masked():
    batch = collate([FEATURES[0], {"input_ids": [8, 1], "attention_mask": [1, 1], "labels": [7, 8, 1]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [8, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 9, -100], [7, 8, 1]]


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = [warmup_and_decay(step, 100, 0.1) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 9
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_without_a_warm_up_the_learning_rate_falls_from_the_first_step_on():
    assert [warmup_and_decay(step, 4, 0.0) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_training_leaves_a_trace(model):
    trace = Trace()
    before = mean_loss(model, FEATURES, 2, CPU)
    fit(model, FEATURES, params(learning_rate=0.01), 6, 0, CPU, trace)
    fit(model, FEATURES, params(learning_rate=0.01), 3, 0, CPU, trace)
    assert trace.step == 9
    assert [row["step"] for row in trace.metrics] == [4, 6, 8, 9]
    assert mean_loss(model, FEATURES, 2, CPU) < before
    assert trace.updates == []
    assert trace.begins == [0, 6]


def test_figures_of_a_trace_go_on_over_all_fits(model):
    """Of seven examples in batches of three, every third batch has one example."""
    trace = Trace()
    for _ in range(2):
        fit(model, FEATURES, params(), 4, 0, CPU, trace)
    samples = [row["train samples"] for row in trace.metrics]
    assert samples == [3 + 3 + 1 + 3, 20]
    assert trace.samples == 20
    own = [len(f["input_ids"]) + len(f["labels"]) for f in FEATURES]
    once = sum(own)
    assert once + 3 * min(own) <= trace.metrics[0]["train total tokens"] <= once + 3 * max(own)
    assert trace.metrics[1]["train total tokens"] == 2 * trace.metrics[0]["train total tokens"] == trace.tokens
    first, second = (row["elapsed time"] for row in trace.metrics)
    assert 0 < first < second <= trace.train_time
    assert trace.metrics[1]["tokens / sec"] == pytest.approx(trace.tokens / second)


def test_gradients_are_clipped_and_the_model_is_in_training_mode(model, monkeypatch):
    norms, modes = [], []
    real = fitting.make_optimizer

    def spied(*args):
        optimizer = real(*args)
        parameters = optimizer.param_groups[0]["params"]

        def look(*_):
            norms.append(torch.cat([x.grad.flatten() for x in parameters if x.grad is not None]).norm().item())

        optimizer.register_step_pre_hook(look)
        return optimizer

    monkeypatch.setattr(fitting, "make_optimizer", spied)
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    model.eval()
    fit(model, FEATURES, params(max_grad_norm=0.125), 3, 0, CPU, Trace())
    assert norms == pytest.approx([0.125] * 3, rel=1e-3)
    assert modes == [True] * 3


def test_training_ends_early_once_there_is_nothing_left_to_learn(model):
    trace = Trace()
    fit(model, FEATURES, params(early_stop_loss=1e9, early_stop_steps=3), 6, 0, CPU, trace)
    assert trace.step == 3
    assert [row["step"] for row in trace.metrics] == [3]


def test_mask_updates_come_before_their_steps_and_are_noted(model):
    trace = Trace()
    fit(fish_dip(model, update_interval=2), FEATURES, params(), 6, 0, CPU, trace)
    assert [update["step"] for update in trace.updates] == [0, 2, 4]
    for update in trace.updates:
        assert math.isclose(sum(update["shares"].values()), 1.0)
        assert update["mask_examples"] == 3
    assert 0 < trace.update_time < trace.train_time


def test_the_optimizer_follows_the_mask(model, monkeypatch):
    tuned = fish_dip(model, update_interval=2)
    optimizers, real = [], tuned.base_model.update_mask
    monkeypatch.setattr(
        tuned.base_model,
        "update_mask",
        lambda *a, **options: optimizers.append(options["optimizer"]) or real(*a, **options),
    )
    fit(tuned, FEATURES, params(), 3, 0, CPU, Trace())
    vector = next(x for x in tuned.parameters() if x.requires_grad)
    assert [optimizer.param_groups[0]["params"][0] is vector for optimizer in optimizers] == [True, True]


def test_a_fixed_mask_is_chosen_once_in_a_run_of_several_fits(model):
    trace, tuned = Trace(), fish_dip(model, update_interval=None)
    for _ in range(2):
        fit(tuned, FEATURES, params(), 6, 0, CPU, trace)
    assert [update["step"] for update in trace.updates] == [0]


@pytest.mark.parametrize(("wanted", "examples", "used"), [(0.1, 2, 2), (4, 7, 4), (0.1, 7, 3)])
def test_as_many_examples_score_the_parameters_as_the_config_says(model, wanted, examples, used):
    trace, tuned = Trace(), fish_dip(model, num_samples=wanted, sample_selection="random")
    fit(tuned, FEATURES[:examples], params(), 1, 0, CPU, trace)
    assert [update["mask_examples"] for update in trace.updates] == [used]


def test_training_changes_no_field_of_the_config(model):
    """Not even during an update: the adapter reads it then."""
    tuned = fish_dip(model, num_samples=3, update_interval=2)
    before, during = tuned.base_model.peft_config["default"].to_dict(), []
    model.register_forward_pre_hook(lambda *_: during.append(tuned.base_model.peft_config["default"].to_dict()))
    fit(tuned, FEATURES, params(), 3, 0, CPU, Trace())
    assert all(config == before for config in during)
    assert len(during) > 3


@pytest.mark.filterwarnings("ignore:.*no example")
def test_a_random_mask_stays(model):
    tuned = fish_dip(model, update_interval=2, auto_update=False)
    mask = {name: positions.clone() for name, positions in tuned.base_model.mask().items()}
    fit(tuned, FEATURES, params(mask="random"), 6, 0, CPU, Trace())
    assert all(torch.equal(positions, mask[name]) for name, positions in tuned.base_model.mask().items())


def test_mean_loss_is_the_loss_per_target_token_whatever_the_batches(model):
    model.train()
    alone = mean_loss(model, FEATURES, 1, CPU)
    assert model.training
    model.eval()
    assert alone == pytest.approx(mean_loss(model, FEATURES, 7, CPU), rel=1e-5)
    total = sum(model(**collate([f])).loss.item() * len(f["labels"]) for f in FEATURES)
    assert alone == pytest.approx(total / sum(len(f["labels"]) for f in FEATURES), rel=1e-5)
    assert not model.training


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sparse_adafactor", SparseAdafactor), ("adafactor", None)]
)
def test_optimizers_take_the_trainable_parameters_alone(model, name, kind):
    tuned = fish_dip(model)
    optimizer = make_optimizer(tuned, params(optimizer=name, learning_rate=0.25, weight_decay=0.125))
    assert kind is None or isinstance(optimizer, kind)
    found = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [id(p) for p in found] == [id(p) for p in tuned.parameters() if p.requires_grad]
    assert [optimizer.param_groups[0][option] for option in ("lr", "weight_decay")] == [0.25, 0.125]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(SettingsError, match="optimizer='sgd' must be one of adamw, adafactor, sparse_adafactor"):
        params(optimizer="sgd")


def test_layers_by_kind(model):
    kinds = {name: layer_group(name) for name, _ in model.named_parameters()}
    assert kinds["shared.weight"] == "embedding"
    assert kinds["encoder.block.0.layer.0.SelfAttention.q.weight"] == "attention"
    assert kinds["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == "relative_bias"
    assert kinds["encoder.block.0.layer.0.layer_norm.weight"] == "norm"
    assert kinds["decoder.block.0.layer.1.EncDecAttention.o.weight"] == "attention"
    assert kinds["decoder.block.0.layer.2.DenseReluDense.wo.weight"] == "feed_forward"
    assert "other" not in kinds.values()
    names = [f"a.{part}.weight" for part in ("self_attn.q_proj", "mlp.fc1", "embed_tokens", "conv")]
    assert [layer_group(name) for name in names] == ["attention", "feed_forward", "embedding", "other"]


def test_shares_of_a_mask():
    mask = {"shared.weight": torch.arange(3), "x.layer_norm.weight": torch.arange(1), "y.layer_norm.weight": []}
    assert shares(mask) == {"embedding": 0.75, "norm": 0.25}
    assert shares({}) == {}


def test_memory_counts_what_a_run_needs_at_most_and_forgets_the_one_before():
    growth = []
    for size in (50_000_000, 5_000_000):  # float32: 200 and 20 MB
        meter = MemoryMeter(CPU)
        block = torch.ones(size)
        del block
        growth.append(meter.growth())
    assert 190e6 < growth[0] < 300e6
    assert 15e6 < growth[1] < 100e6


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_bf16_computes_losses_and_mask_updates_in_bfloat16_and_keeps_the_weights(model, bf16, dtype):
    tuned = fish_dip(model, update_interval=2)
    seen = set()
    tuned.base_model.model.register_forward_hook(lambda module, args, output: seen.add(output.logits.dtype))
    fit(tuned, FEATURES, params(bf16=bf16), 3, seed=0, device=CPU, trace=Trace())
    assert seen == {dtype}
    assert {parameter.dtype for parameter in tuned.parameters() if parameter.is_floating_point()} == {torch.float32}
