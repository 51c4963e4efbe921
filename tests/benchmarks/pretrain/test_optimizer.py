"""The step of each tensor, worked out without torch's optimizers."""

import math

import numpy as np
import pytest
import torch

from benchmarks.pretrain.optimizer import ScaledAdamW, schedule

from .tiny import tiny_settings


def rms(values):
    return math.sqrt(float(np.mean(np.square(values))))


def make(values):
    return {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}


START = {"large": [[3.0, -4.0]], "small": [0.01, 0.02, -0.02], "zero": [0.0, 0.0]}
GRADIENTS = {"large": [[0.5, -2.0]], "small": [1e-3, 0.0, 4.0], "zero": [1.0, -1.0]}


def step(optimizer, parameters, number, rate, factor=1.0):
    for name, parameter in parameters.items():
        parameter.grad = factor * torch.tensor(GRADIENTS[name])
    optimizer.step(number, rate)


def test_the_first_step_moves_each_entry_by_rate_times_rms():
    parameters = make(START)
    optimizer = ScaledAdamW(parameters, tiny_settings())
    step(optimizer, parameters, 0, 0.02)
    # Adam's first update is the gradient's sign, so the step is rate * max(0.001, RMS): sqrt(12.5), sqrt(3e-4), 0
    scales = {"large": math.sqrt(12.5), "small": math.sqrt(3e-4), "zero": 1e-3}
    for name, parameter in parameters.items():
        expected = np.array(START[name]) - 0.02 * scales[name] * np.sign(GRADIENTS[name])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5)
        assert parameter.grad is None


def test_many_steps_agree_with_the_formula_in_float64():
    settings = tiny_settings(rms_interval=3, weight_decay=0.1, beta1=0.8, beta2=0.95)
    parameters = make(START)
    optimizer = ScaledAdamW(parameters, settings)
    values = {name: np.array(value, dtype=np.float64) for name, value in START.items()}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    scales = {}
    for number in range(8):
        rate, factor = 0.05 / (number + 1), (-1.0) ** number * (number + 1)
        step(optimizer, parameters, number, rate, factor)
        for name, value in values.items():
            if number % 3 == 0:
                scales[name] = max(1e-3, rms(value))
            gradient = factor * np.array(GRADIENTS[name])
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            corrected = second[name] / (1 - 0.95 ** (number + 1))
            update = first[name] / (1 - 0.8 ** (number + 1)) / (np.sqrt(corrected) + 1e-8)
            values[name] = value * (1 - rate * scales[name] * 0.1) - rate * scales[name] * update
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-4, atol=1e-9)
    assert optimizer.scales == pytest.approx(scales, rel=1e-4)


def test_the_rms_is_measured_when_it_is_due():
    parameters = make(START)
    optimizer = ScaledAdamW(parameters, tiny_settings(rms_interval=2))
    seen = []
    for number in range(4):
        before = rms(parameters["large"].detach().numpy())
        step(optimizer, parameters, number, 0.1)
        seen.append(optimizer.scales["large"] == pytest.approx(before, rel=1e-6))
    assert seen == [True, False, True, False]


def test_state_goes_on_bit_by_bit():
    plain, parameters = make(START), make(START)
    one, two = (ScaledAdamW(p, tiny_settings(rms_interval=4)) for p in (plain, parameters))
    for number in range(6):
        step(one, plain, number, 0.03, number - 2.5)
    for number in range(3):
        step(two, parameters, number, 0.03, number - 2.5)
    state = {name: tensor.clone() for name, tensor in two.state().items()}
    copied = {name: torch.nn.Parameter(value.detach().clone()) for name, value in parameters.items()}
    three = ScaledAdamW(copied, tiny_settings(rms_interval=4))
    three.load_state(state)
    for number in range(3, 6):
        step(three, copied, number, 0.03, number - 2.5)
    for name, parameter in plain.items():
        assert torch.equal(parameter, copied[name])


def test_the_rate_rises_stays_and_falls():
    settings = tiny_settings(learning_rate=0.02, warmup_tokens=100, decay_share=0.2, final_share=0.05)
    for tokens, progress, expected in (
        (0, 0.0, 0.0),
        (50, 0.05, 0.01),
        (100, 0.1, 0.02),
        (800, 0.8, 0.02),
        (900, 0.9, 0.02 * (0.05 + 0.95 * 0.5)),
        (1000, 1.0, 0.001),
    ):
        assert schedule(tokens, progress, settings) == pytest.approx(expected, abs=1e-12)
    assert schedule(0, 0.0, tiny_settings(warmup_tokens=0)) == pytest.approx(0.02)
    assert schedule(1000, 1.0, tiny_settings(decay_share=0.0)) == pytest.approx(0.02)
