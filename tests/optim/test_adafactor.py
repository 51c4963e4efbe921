"""SparseAdafactor does to sparse deltas what transformers' Adafactor does to a whole model with masked gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Adafactor, Trainer, TrainerCallback, TrainingArguments, get_linear_schedule_with_warmup

from peft_fishdip import FishDipCallback, SparseAdafactor

from ..support.models import (
    Convolutions,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    scales_of,
    seq2seq_examples,
    shapes_of,
    tied_t5,
    train,
    tuned,
)

TOLERANCE = 3e-6
RECIPE = {"lr": 1e-2, "scale_parameter": True, "relative_step": False, "warmup_init": False}


class DenseAdafactor:
    """A full copy of the model, whose gradients are multiplied by a mask before transformers' Adafactor steps."""

    def __init__(self, base: nn.Module, dtype: torch.dtype | None = None, **options: Any) -> None:
        self.model = copy.deepcopy(base).to(dtype)
        self.parameters = dict(self.model.named_parameters())
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.mask = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in self.parameters.items()}
        self.largest: dict[str, float] = {}
        self.optimizer = Adafactor(self.parameters.values(), **{**RECIPE, **options})

    def take_mask(self, model: Any, adapter: str | None = None) -> None:
        """The mask that a tuned model has now."""
        for name, positions in model.base_model.mask(adapter).items():
            self.mask[name] = torch.zeros(self.mask[name].numel(), dtype=torch.bool)
            self.mask[name][positions] = True
            self.mask[name] = self.mask[name].view_as(self.parameters[name])
            momentum = self.optimizer.state[self.parameters[name]].get("exp_avg")
            if momentum is not None:
                momentum.mul_(self.mask[name])  # where ours begins anew, and outside of which nothing moves

    def give(self, gradients: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].to(parameter) * self.mask[name]

    def mask_gradients(self) -> None:
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None
            parameter.grad *= self.mask[name]

    def delta(self, name: str) -> Tensor:
        return (self.parameters[name].detach().double() - self.start[name].double()).flatten()


def difference(model: Any, dense: DenseAdafactor, adapter: str | None = None) -> float:
    """The largest difference of a delta, as a share of the largest delta that its tensor has had so far."""
    worst = 0.0
    for name, (positions, values) in model.base_model.delta(adapter).items():
        expected = dense.delta(name)
        found = torch.zeros_like(expected)
        found[positions] = values.double()
        dense.largest[name] = max(dense.largest.get(name, 0.0), float(expected.abs().max()))
        worst = max(worst, float((found - expected).abs().max()) / max(dense.largest[name], 1e-12))
    return worst


def scores_of(model: Any, seed: int) -> dict[str, Tensor]:
    """Scores that make random masks, of different densities in different tensors and rows."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, shape in shapes_of(model).items():
        rows = torch.rand(shape[:1], generator=generator).view(-1, *[1] * (len(shape) - 1))
        scores[name] = torch.rand(shape, generator=generator) * rows * torch.rand(1, generator=generator)
    return scores


def gradients_of(model: Any, step: int) -> dict[str, Tensor]:
    """Gradients as models have them: tensors, rows, columns and steps differ in size."""
    generator = torch.Generator().manual_seed(1000 + step)
    gradients = {}
    for index, (name, shape) in enumerate(shapes_of(model).items()):
        size = torch.randn(1, generator=generator).exp() * 10.0 ** -(index % 5)
        gradient = torch.randn(shape, generator=generator) * size
        if len(shape) > 1:
            gradient *= torch.randn(shape[-1], generator=generator).exp()
            gradient *= torch.randn(shape[-2], 1, generator=generator).exp()
        gradients[name] = gradient
    return gradients


def give(model: Any, gradients: dict[str, Tensor], adapter: str = "default") -> None:
    """The gradient of the trainable vector that follows from those of the deltas."""
    vector, scales, mask = flat_of(model, adapter), scales_of(model, adapter), model.base_model.mask(adapter)
    parts = [gradients[name].flatten()[positions] * scales[name] for name, positions in mask.items()]
    vector.grad = torch.cat(parts).to(vector.dtype)


def run_both(
    build: Callable[[], nn.Module],
    steps: int,
    options: dict[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float64,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
    mask_every: int = 10,
    **settings: Any,
) -> float:
    """Give both the same gradients; the largest difference over all steps."""
    base = build()
    dense = DenseAdafactor(base, dtype, **(options or {}))
    model = tuned(base, **settings)
    optimizer = SparseAdafactor(model, **{"lr": 1e-2, **(options or {})})
    schedulers = [LambdaLR(o, schedule) for o in (optimizer, dense.optimizer)] if schedule else []
    worst = 0.0
    for step in range(steps):
        if step % mask_every == 0:
            model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            dense.take_mask(model)
        gradients = gradients_of(model, step)
        give(model, gradients)
        dense.give(gradients)
        if clip is not None:
            for parameters in (model.parameters(), dense.parameters.values()):
                assert nn.utils.clip_grad_norm_(parameters, clip) > clip
        optimizer.step()
        dense.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        worst = max(worst, difference(model, dense))
    return worst


def rising_and_falling(step: int) -> float:
    return min(1.0, step / 5) * max(0.1, 1 - step / 60)


@pytest.mark.parametrize("build", [tied_t5, bert_classifier, Convolutions], ids=["t5", "bert", "convolutions"])
@pytest.mark.parametrize("density", [0.01, 0.2])
@pytest.mark.parametrize("delta_scale", ["none", "rms"])
def test_it_tracks_the_dense_optimizer_over_many_masks(build: Any, density: float, delta_scale: str) -> None:
    worst = run_both(build, 50, density=density, delta_scale=delta_scale, schedule=rising_and_falling)
    assert worst < TOLERANCE


def test_it_tracks_the_dense_optimizer_over_hundreds_of_steps() -> None:
    assert run_both(tied_t5, 250, mask_every=50, density=0.02) < TOLERANCE


def test_it_tracks_the_dense_optimizer_in_float32() -> None:
    # a dense weight is base and delta in one float32, and so rounds the delta coarsely
    assert run_both(tied_t5, 40, dtype=torch.float32, density=0.02) < 2e-5


@pytest.mark.parametrize("clip", [1e-4, 1e-2])
def test_it_tracks_the_dense_optimizer_with_clipped_gradients(clip: float) -> None:
    assert run_both(tied_t5, 40, clip=clip, density=0.02, schedule=rising_and_falling) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"eps": (1e-3, 1.0)},
        {"clip_threshold": 0.1},
        {"clip_threshold": 1e6},
        {"decay_rate": -0.3},
        {"scale_parameter": False, "lr": 1e-3},
        {"beta1": 0.9},
        {"beta1": 0.0},
        {"lr": 0.3},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_to_the_dense_optimizer(options: dict[str, Any]) -> None:
    assert run_both(tied_t5, 30, options, density=0.05) < TOLERANCE


def test_a_base_in_bfloat16_is_one_in_float32_that_has_its_values() -> None:
    def rounded() -> nn.Module:
        return tied_t5().bfloat16()

    assert run_both(rounded, 40, density=0.05) < TOLERANCE
    assert run_both(rounded, 20, density=0.05, delta_scale="rms") < TOLERANCE


@pytest.mark.parametrize("delta_scale", ["none", "rms"])
def test_a_training_run_is_that_of_the_dense_optimizer(delta_scale: str) -> None:
    """Masks by Fisher information, gradients of real losses, the whole recipe of the paper."""
    base = tied_t5().double()
    model, dense = tuned(copy.deepcopy(base), density=0.02, delta_scale=delta_scale), DenseAdafactor(base)
    optimizer = SparseAdafactor(model)
    schedulers = [get_linear_schedule_with_warmup(o, 0, 32) for o in (optimizer, dense.optimizer)]
    examples = seq2seq_examples(12)
    clip = 1.0 if delta_scale == "none" else 1e9

    def loss() -> float:
        with torch.no_grad():
            return model(**padded(examples)).loss.item()

    before = loss()
    for step in range(32):
        if step % 8 == 0:
            update = model.base_model.update_mask(examples, optimizer=optimizer)
            assert step == 0 or 0 < update.overlap < 1
            dense.take_mask(model)
        batch = padded([examples[(3 * step + i) % len(examples)] for i in range(3)])
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        dense.model(**batch).loss.backward()
        dense.mask_gradients()
        nn.utils.clip_grad_norm_(dense.parameters.values(), clip)
        for stepper in (optimizer, dense.optimizer, *schedulers):
            stepper.step()
        optimizer.zero_grad()
        dense.optimizer.zero_grad()
        assert difference(model, dense) < TOLERANCE
    assert loss() < before - 0.01


def test_delta_scale_makes_no_difference_to_the_bits() -> None:
    results = []
    for delta_scale in ("none", "rms"):
        model = tuned(tied_t5(), density=0.05, delta_scale=delta_scale)
        optimizer = SparseAdafactor(model, weight_decay=0.1, beta1=0.5)
        for step in range(12):
            if step % 4 == 0:
                model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            give(model, gradients_of(model, step))
            optimizer.step()
        results.append((model.base_model.delta(), set(scales_of(model).values())))
    (none, one), (rms, scales) = results
    assert one == {1.0}
    assert len(scales) > 2
    assert all(torch.equal(none[name][1], rms[name][1]) and none[name][1].any() for name in none if len(none[name][1]))


def test_weight_decay_shrinks_the_delta_and_not_the_weight() -> None:
    """In units of lr times the RMS of the weight."""
    model = tuned(nn.Sequential(nn.Linear(8, 4, bias=False)), density=0.5)
    vector = flat_of(model)
    with torch.no_grad():
        vector.copy_(torch.linspace(-1, 1, 16))
    before = vector.detach().clone()
    weight = model.base_model.model[0].effective("weight").detach()
    optimizer = SparseAdafactor(model, lr=0.1, weight_decay=0.5)
    vector.grad = torch.zeros(16)
    optimizer.step()
    rate = 0.1 * float(weight.square().mean().sqrt())
    torch.testing.assert_close(vector.detach(), before * (1 - 0.5 * rate))


# ----- what it keeps --------------------------------------------------------------------------------------------------


def test_its_state_is_of_the_size_of_rows_columns_and_mask() -> None:
    base = nn.Sequential(nn.Linear(96, 128), nn.Conv2d(4, 8, 3), nn.Embedding(200, 64))
    model = tuned(base, density=0.01)
    k, total = flat_of(model).numel(), sum(p.numel() for p in base.parameters())
    optimizer = SparseAdafactor(model)
    for step in range(3):
        model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
        give(model, gradients_of(model, step))
        optimizer.step()
    state = optimizer.state[flat_of(model)]
    # a linear weight and bias, 8 * 4 kernels of 3 x 3 and a bias, an embedding
    rows, columns = 128 + 128 + 32 * 3 + 8 + 200, 96 + 1 + 32 * 3 + 1 + 64
    assert {name: len(value) for name, value in state.items() if name != "step"} == {
        "exp_avg_sq_row": rows,
        "exp_avg_sq_col": columns,
    }
    (place,) = optimizer.stats.values()
    held = [value for value in vars(place).values() if isinstance(value, Tensor)]
    tensors = len(model.base_model.mask())
    assert sum(value.nbytes for value in held) <= 12 * k + 8 * (6 * tensors + 36)  # 36 matrices
    assert 12 * k < 4 * total / 10


def test_rows_and_columns_are_not_re_indexed_even_if_there_are_as_many_as_entries() -> None:
    model = tuned(nn.Sequential(nn.Linear(8, 8, bias=False)), density=1 / 8)
    vector = flat_of(model)
    optimizer = SparseAdafactor(model, beta1=0.9)
    model.base_model.set_mask({"0.weight": torch.eye(8)}, optimizer=optimizer)
    vector.grad = torch.arange(1.0, 9.0)
    optimizer.step()
    before = {name: copy.deepcopy(value) for name, value in optimizer.state[vector].items()}
    assert before["exp_avg_sq_row"].shape == before["exp_avg"].shape == vector.shape
    scores = torch.eye(8)
    scores[0, 0], scores[7, 0] = 0, 1
    model.base_model.set_mask({"0.weight": scores}, optimizer=optimizer)
    now = optimizer.state[vector]
    assert torch.equal(now["exp_avg_sq_row"], before["exp_avg_sq_row"])
    assert torch.equal(now["exp_avg_sq_col"], before["exp_avg_sq_col"])
    kept = before["exp_avg"][1:]
    assert torch.equal(now["exp_avg"], torch.cat([kept[:-1], torch.zeros(1), kept[-1:]]))


@pytest.mark.parametrize("options", [{}, {"beta1": 0.9}], ids=str)
def test_a_resumed_run_goes_on_with_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    examples = seq2seq_examples(8)

    def go_on(model: Any, optimizer: Any, steps: range) -> Tensor:
        def update(step: int) -> None:
            if steps[step] % 4 == 0:
                model.base_model.update_mask(examples, optimizer=optimizer)

        train(model, examples, len(steps), optimizer, update)
        return flat_of(model).detach().clone()

    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model, **options)
    go_on(model, optimizer, range(6))
    model.save_pretrained(str(tmp_path))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    twin, state = copy.deepcopy((model, optimizer.state_dict()))
    of_twin = SparseAdafactor(twin, **options)
    of_twin.load_state_dict(state)
    expected = go_on(model, optimizer, range(6, 12))

    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path), is_trainable=True)
    anew = SparseAdafactor(loaded, lr=0.5, **options)
    anew.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert torch.equal(go_on(loaded, anew, range(6, 12)), expected)
    assert torch.equal(go_on(twin, of_twin, range(6, 12)), expected)


def test_a_state_keeps_its_precision_over_a_vector_in_bfloat16() -> None:
    model = tuned(bert_classifier().bfloat16(), density=0.05)
    flat_of(model).data = flat_of(model).data.bfloat16()
    optimizer = SparseAdafactor(model)
    give(model, gradients_of(model, 0))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert flat_of(model).dtype == torch.bfloat16
    assert flat_of(model).any()
    anew = SparseAdafactor(model)
    anew.load_state_dict(saved)
    for name, value in saved["state"][0].items():
        found = anew.state[flat_of(model)][name]
        assert found == value if name == "step" else torch.equal(found, value) and found.dtype == torch.float64


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model, beta1=0.9)
    give(model, gradients_of(model, 0))
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())

    def state(other: Any, make: Any) -> dict[str, Any]:
        flat_of(other).grad = torch.ones_like(flat_of(other))
        stepper = make(other)
        stepper.step()
        return stepper.state_dict()

    def adafactor(other: Any) -> Any:
        return Adafactor([flat_of(other)], **RECIPE)

    row = r"'exp_avg_sq_row' has shape"
    strangers = [
        (lambda: state(tuned(bert_classifier()), SparseAdafactor), row + r" \(\d+,\), not \(\d+,\)"),
        (lambda: state(tuned(tied_t5()), lambda m: SparseAdafactor(m, beta1=0.5)), "'exp_avg' has shape"),
        (lambda: state(tuned(tied_t5()), adafactor), row + " None"),
        (lambda: torch.optim.SGD([flat_of(model)], lr=0.1).state_dict(), "it has no option 'eps'"),
    ]
    for make, message in strangers:
        with pytest.raises(ValueError, match=f"this state does not fit: {message}.* load one that a SparseAdafactor"):
            optimizer.load_state_dict(make())
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for name, value in before["state"][0].items():
            assert torch.equal(torch.as_tensor(after["state"][0][name]), torch.as_tensor(value))


# ----- what it trains -------------------------------------------------------------------------------------------------


def test_modules_that_are_trained_whole_get_ordinary_adafactor() -> None:
    base = bert_classifier()
    model = tuned(copy.deepcopy(base), density=0.02, modules_to_save=["classifier"], task_type="SEQ_CLS")
    dense = DenseAdafactor(base, torch.float64)
    optimizer = SparseAdafactor(model)
    whole = {
        name: dict(model.named_parameters())[f"base_model.model.classifier.modules_to_save.default.{name}"]
        for name in ("weight", "bias")
    }
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == (
        flat_of(model).numel() + whole["weight"].numel() + whole["bias"].numel()
    )
    for step in range(12):
        if step % 4 == 0:
            model.base_model.set_mask(scores_of(model, step), optimizer=optimizer)
            dense.take_mask(model)
        gradients = gradients_of(model, step)
        for name, parameter in whole.items():
            gradient = torch.randn(parameter.shape)
            parameter.grad = gradient
            gradients[f"classifier.{name}"] = gradient
            dense.mask[f"classifier.{name}"].fill_(True)
        give(model, gradients)
        dense.give(gradients)
        optimizer.step()
        dense.optimizer.step()
        assert difference(model, dense) < TOLERANCE
        for name, parameter in whole.items():
            torch.testing.assert_close(
                parameter.detach().double(), dense.parameters[f"classifier.{name}"].detach(), rtol=1e-5, atol=1e-6
            )


def test_several_adapters_are_stepped_independently() -> None:
    model = tuned(tied_t5(), density=0.02)
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    dense = {name: DenseAdafactor(tied_t5(), torch.float64) for name in ("default", "other")}
    optimizer = SparseAdafactor(model)
    assert [p is flat_of(model, "default") for group in optimizer.param_groups for p in group["params"]] == [True]
    optimizer.add_param_group({"params": [flat_of(model, "other")], "lr": 3e-2})
    for group in dense["other"].optimizer.param_groups:
        group["lr"] = 3e-2
    for step in range(9):
        for name, twin in dense.items():
            if step % 3 == 0:
                seed = step + 50 * (name == "other")
                model.base_model.set_mask(scores_of(model, seed), optimizer=optimizer, adapter_name=name)
                twin.take_mask(model, name)
            if name == "default" or step % 2:  # the other one has no gradient at times
                gradients = gradients_of(model, step)
                give(model, gradients, name)
                twin.give(gradients)
                twin.optimizer.step()
        optimizer.step()
        optimizer.zero_grad()
        for name, twin in dense.items():
            assert difference(model, twin, name) < TOLERANCE


def test_a_step_without_gradients_changes_nothing() -> None:
    model = tuned(tied_t5(), density=0.02, init_weights=False)
    optimizer = SparseAdafactor(model, weight_decay=0.1)
    before = flat_of(model).detach().clone()
    assert optimizer.step() is None
    assert not optimizer.state
    assert torch.equal(flat_of(model).detach(), before)


def test_a_closure_is_called_with_gradients_on() -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    model.base_model.set_mask(scores_of(model, 0))
    optimizer = SparseAdafactor(model)

    def closure() -> float:
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss.item()

    before = optimizer.step(closure)
    after = optimizer.step(closure)
    assert after is not None
    assert after < before


@pytest.mark.parametrize("gradient", [0.0, 1e-25, 1e15])
def test_gradients_of_any_size_are_followed(gradient: float) -> None:
    model = tuned(tied_t5(), density=0.02)
    optimizer = SparseAdafactor(model)
    for _ in range(3):
        flat_of(model).grad = torch.full_like(flat_of(model), gradient)
        optimizer.step()
    assert flat_of(model).isfinite().all()
    assert bool(flat_of(model).any()) == (gradient > 0)


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.values: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["lr_scheduler"].get_last_lr()[0])
        self.values.append(flat_of(kwargs["model"]).detach().clone())


@pytest.mark.parametrize("by", ["optimizers", "optimizer_cls_and_kwargs"])
def test_a_trainer_runs_the_recipe_and_resumes_it(by: str, tmp_path: Path) -> None:
    def run(**arguments: Any) -> Recorder:
        model, recorder = tuned(bert_classifier(), density=0.05, update_interval=2), Recorder()
        how: dict[str, Any] = {
            "optimizers": {"optimizers": (SparseAdafactor(model), None)},
            "optimizer_cls_and_kwargs": {"optimizer_cls_and_kwargs": (SparseAdafactor, {"model": model, "lr": 1e-2})},
        }[by]
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=6,
                per_device_train_batch_size=2,
                save_steps=3,
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=classifier_examples(10),
            data_collator=padded,
            callbacks=[FishDipCallback(), recorder],
            **how,
        ).train(**arguments)
        return recorder

    whole = run()
    assert whole.rates == pytest.approx([1e-2 * (1 - step / 6) for step in range(1, 7)])
    assert whole.values[-1].abs().max() > 0
    resumed = run(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(resumed.values) == 3
    assert all(torch.equal(a, b) for a, b in zip(resumed.values, whole.values[3:], strict=True))


# ----- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, r"lr=0 must be a number above 0, such as 1e-2"),
        ({"lr": -1e-2}, r"lr=-0.01 must be a number above 0"),
        ({"lr": math.nan}, r"lr=nan must be"),
        ({"lr": math.inf}, r"lr=inf must be"),
        ({"lr": None}, r"lr=None must be a number above 0"),
        ({"eps": 1e-30}, r"eps=1e-30 must be two numbers"),
        ({"eps": (0.0, 1e-3)}, r"eps=\(0.0, 0.001\) must be two numbers, the first above 0"),
        ({"eps": (1e-30, -1.0)}, r"eps=\(1e-30, -1.0\) must be"),
        ({"clip_threshold": 0}, r"clip_threshold=0 must be a number above 0, such as 1.0"),
        ({"decay_rate": 0.8}, r"decay_rate=0.8 must be a number in \[-1, 0\), such as -0.8"),
        ({"beta1": 1.0}, r"beta1=1.0 must be None or a number in \[0, 1\)"),
        ({"weight_decay": -0.1}, r"weight_decay=-0.1 must be a number of at least 0"),
        ({"scale_parameter": 1}, r"scale_parameter=1 must be True or False"),
        ({"relative_step": True}, r"relative_step=True: SparseAdafactor has no such option, only lr, .* LR scheduler"),
        ({"momentum": 0.9}, r"momentum=0.9: SparseAdafactor has no such option"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    with pytest.raises(ValueError, match=message):
        SparseAdafactor(model, **options)
    with pytest.raises(ValueError, match=message):
        SparseAdafactor(model, params=[{"params": [flat_of(model)], **options}])


def test_a_model_without_an_adapter_to_train_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"no vector of a Fish-Dip adapter .* of Sequential; make .*get_peft_model"):
        SparseAdafactor(plain)
    model = tuned(plain, density=0.5)
    with pytest.raises(ValueError, match="no vector of a Fish-Dip adapter"):
        SparseAdafactor(model, params=[nn.Parameter(torch.zeros(3))])
    with pytest.raises(TypeError, match=r"model is a generator; give SparseAdafactor the model itself.*params="):
        SparseAdafactor(model.parameters())  # type: ignore[arg-type]


def test_a_step_is_refused_while_the_adapter_is_merged_or_after_its_vector_was_replaced() -> None:
    model = tuned(nn.Sequential(nn.Linear(4, 4)), density=0.5, init_weights=False)
    optimizer = SparseAdafactor(model)
    before = flat_of(model).detach().clone()
    flat_of(model).grad = torch.ones_like(before)
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"adapter 'default' is merged; call unmerge_adapter\(\) first"):
        optimizer.step()
    assert torch.equal(flat_of(model).detach(), before)
    assert not optimizer.state
    model.unmerge_adapter()
    old = flat_of(model)
    [name] = [name for name, parameter in model.named_parameters() if parameter is old]
    model.get_submodule(name.removesuffix(".flat")).flat = nn.Parameter(before.clone())
    with pytest.raises(ValueError, match=r"the vector of adapter 'default' has been replaced .* SparseAdafactor anew"):
        optimizer.step()
    assert torch.equal(old.detach(), before)
