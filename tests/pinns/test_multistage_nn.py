"""Multi-stage networks: frequency and size of a residue, derivatives carried forward, and that stages add digits."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.multistage_nn import (
    Equation,
    Report,
    Stage,
    Sum,
    amplitude,
    dominant_frequency,
    fit,
    optimise,
    peak_frequency,
    rms,
    solve,
)

X = torch.linspace(-1, 1, 4001, dtype=torch.float64)


@pytest.mark.parametrize("frequency", [3, 10, 40])
def test_zero_crossings_find_the_frequency(frequency):
    wave = torch.sin(2 * math.pi * frequency * X + 0.3)
    assert abs(dominant_frequency(wave, 2.0) / frequency - 1) < 0.05
    assert dominant_frequency(wave * 1e-12, 2.0) == dominant_frequency(wave, 2.0)
    assert np.isclose(dominant_frequency(wave, 4.0), dominant_frequency(wave, 2.0) / 2)


@pytest.mark.parametrize("frequency", [3, 10, 40])
def test_the_spectrum_finds_the_frequency_under_a_ripple(frequency):
    wave = torch.sin(2 * math.pi * frequency * X + 0.3) + 0.4 * torch.sin(2 * math.pi * 173 * X)
    assert abs(peak_frequency(wave, 2.0) / frequency - 1) < 0.05
    assert dominant_frequency(wave, 2.0) > 1.05 * frequency
    assert peak_frequency(torch.ones(10), 2.0) == 0.25


def test_a_function_without_crossings_has_half_a_period():
    assert dominant_frequency(torch.ones(10), 2.0) == 0.25


@pytest.mark.parametrize("order, leading", [(1, 1.0), (2, 1.0), (2, -3.0)])
def test_amplitude_rule_is_exact_for_a_wave(order, leading):
    size, frequency = 3e-5, 8.0
    angle = 2 * math.pi * frequency
    slope = {1: angle * torch.cos(angle * X), 2: -(angle**2) * torch.sin(angle * X)}[order]
    estimate = amplitude(leading * size * slope, frequency, leading, order)
    assert abs(estimate / rms(size * torch.sin(angle * X)) - 1) < 0.01


@pytest.mark.parametrize("kappa", [None, 12.0])
def test_forward_derivatives(kappa):
    stage = Stage(0, kappa)
    for bias in stage.biases:
        torch.nn.init.normal_(bias, std=0.2)
    x = X[::100].clone().requires_grad_()
    value, first, second = stage(x, 2)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert (first - slope).abs().max() < 1e-12
    assert (second - bend).abs().max() < 1e-9
    assert torch.equal(stage(x)[0], value)


def test_kappa_sets_the_frequency_of_the_first_layer():
    def fastest(kappa):
        stage = Stage(3, kappa)
        slope = (stage.kappa * stage.weights[0]).abs().max().item()
        return slope / (2 * math.pi)

    assert 0.6 * 20 < fastest(2 * math.pi * 20) <= 20
    assert np.isclose(fastest(2 * math.pi * 20), 20 * fastest(2 * math.pi))


def test_the_first_stage_is_tanh_and_the_next_are_tuned():
    answer, reports = fit(torch.sin, 0, stages=2, adam=5, lbfgs=20, fewest=50, most=200)
    (_, first), (size, second) = answer.stages
    assert first.kappa is None
    assert second.kappa == 2 * math.pi * reports[1].frequency
    assert size == reports[1].size == reports[1].residue
    plain, reports = fit(torch.sin, 0, stages=2, adam=5, lbfgs=20, fewest=50, most=200, scaled=False, normalised=False)
    assert plain.stages[1][1].kappa == 1.0
    assert [report.size for report in reports] == [1.0, 1.0]


def test_normalised_residue_has_unit_size():
    # before training the loss of a stage with zero output is the mean square of what it is given
    wanted = []

    class Silent(Stage):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            for weight in (self.weights[-1], self.biases[-1]):
                weight.data.zero_()

    import touchstone.pinns.multistage_nn as module

    original, module.Stage = module.Stage, Silent
    try:
        answer, reports = fit(
            lambda x: 1e-7 * torch.sin(9 * x) + 1e-8, 0, stages=1, adam=1, lbfgs=0, fewest=12000, most=12000
        )
    finally:
        module.Stage = original
    wanted = reports[0].losses[0]
    assert isinstance(reports[0], Report)
    assert abs(wanted - 1) < 1e-3  # the size was measured on a denser grid
    assert answer.stages[0][0] == reports[0].size
    residue = torch.sin(9 * X)
    assert abs(rms(residue / rms(residue)) - 1) < 1e-12


@pytest.mark.parametrize("frequency", [10.0, 40.0])
def test_points_are_dense_enough_for_the_frequency(frequency):
    def wave(x):
        return torch.sin(2 * math.pi * frequency * x + 0.3)

    (report,) = fit(wave, 0, stages=1, adam=1, lbfgs=0, fewest=20)[1]
    assert report.points > 3 * math.pi * 2.1 * frequency  # at least 3 pi a period on [-1.05, 1.05]
    forced = Equation(lambda u, x: u[1] - wave(x), 1, 1.0, (-1.0,), (0.0,), torch.zeros_like)
    (report,) = solve(forced, 0, stages=1, adam=1, lbfgs=0, fewest=20)[1]
    assert report.points > 3 * math.pi * 2 * frequency
    assert fit(wave, 0, stages=1, adam=1, lbfgs=0, fewest=20, most=50)[1][0].points == 50


@pytest.mark.parametrize("size", [3e-9, 1.0, 40.0])
def test_every_stage_is_given_a_target_of_size_one(size, monkeypatch):
    import touchstone.pinns.multistage_nn as module

    class Silent(Stage):
        def forward(self, x, order=0):
            return 0 * super().forward(x, order)

    # the size of a constant is the same on every grid; stages that stay silent leave it all to the next one
    monkeypatch.setattr(module, "Stage", Silent)
    _, reports = fit(lambda x: torch.full_like(x, -size), 0, stages=3, adam=1, lbfgs=0, fewest=20, most=60)
    for report in reports:
        assert abs(report.losses[0] - 1) < 1e-12 and abs(report.size / size - 1) < 1e-12
    _, reports = fit(
        lambda x: torch.full_like(x, -size), 0, stages=1, adam=1, lbfgs=0, fewest=20, most=60, normalised=False
    )
    assert abs(reports[0].losses[0] / size**2 - 1) < 1e-12


def test_a_stage_with_zero_output_changes_nothing():
    answer = Sum()
    answer.stages.append((0.7, Stage(0)))
    before, silent = answer(X, 2), Stage(1, 30.0)
    silent.weights[-1].data.zero_()
    answer.stages.append((1e-3, silent))
    assert torch.equal(answer(X, 2), before)


def target(x):
    return torch.sin(2 * x + 1) + 0.2 * torch.exp(1.3 * x)


def test_float32_stops_where_float64_goes_on():
    answer, reports = fit(target, 0, stages=2, adam=60, lbfgs=200, fewest=80, most=200)
    exact = target(X)
    error = [rms(exact - answer(X)[0]), rms(exact - answer(X)[0].float().double())]
    assert all(weight.dtype == torch.float64 for _, stage in answer.stages for weight in stage.parameters())
    assert reports[1].residue < 1e-3 * reports[0].residue
    assert error[0] < reports[1].residue / 10
    single = sum(size * stage.float()(X.float()) for size, stage in answer.stages)[0].double()
    assert rms(exact - single) > 2e-8  # the rounding of a sum of order one
    assert error[1] > 1e-8


def test_training_is_deterministic():
    runs = [fit(target, 3, stages=1, adam=20, lbfgs=20, fewest=60, most=60)[0](X) for _ in range(2)]
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], fit(target, 4, stages=1, adam=20, lbfgs=20, fewest=60, most=60)[0](X))


def test_lbfgs_finds_the_minimum_of_a_parabola():
    class Parabola(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))

    valley = Parabola()
    losses = optimise(valley, lambda: (valley.place * torch.tensor([1.0, 30.0])).square().sum(), adam=3, lbfgs=50)
    assert losses[-1] < 1e-20 < losses[0]


DECAY = Equation(
    residual=lambda u, x: u[1] + u[0] ** 2,
    order=1,
    leading=1.0,
    places=(-1.0,),
    values=(1.0,),
    exact=lambda x: 1 / (x + 2),
)


def test_stages_solve_an_equation_and_use_its_residue_only():
    def forbidden(x):
        raise AssertionError("the reference is not for training")

    equation = Equation(DECAY.residual, 1, 1.0, DECAY.places, DECAY.values, forbidden)
    answer, reports = solve(equation, 0, stages=2, adam=50, lbfgs=150, fewest=60)
    first = Sum()
    first.stages = answer.stages[:1]
    errors = [rms(DECAY.exact(X) - part(X)[0]) for part in (first, answer)]
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 5
    assert reports[1].size == pytest.approx(reports[1].residue / (2 * math.pi * reports[1].frequency))


def test_a_forcing_tunes_the_first_stage():
    rate = 6 * math.pi  # u'' = -rate^2 sin(rate x), three cycles a unit of length
    equation = Equation(
        residual=lambda u, x: u[2] + rate**2 * torch.sin(rate * x),
        order=2,
        leading=1.0,
        places=(-1.0, 1.0),
        values=(0.0, 0.0),
        exact=lambda x: torch.sin(rate * x),
    )
    answer, reports = solve(equation, 0, stages=1, adam=2, lbfgs=2, fewest=60)
    assert answer.stages[0][1].kappa == pytest.approx(rate)
    assert reports[0].size == pytest.approx(math.sqrt(0.5), rel=1e-3)
    assert solve(DECAY, 0, stages=1, adam=2, lbfgs=2, fewest=60)[0].stages[0][1].kappa is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unchecked(dominant_frequency)(torch.tensor([torch.nan, 1.0]), 2.0), "values holds 1 NaN"),
        (lambda: unchecked(dominant_frequency)(torch.zeros(0), 2.0), "values is empty"),
        (lambda: unchecked(dominant_frequency)(torch.zeros(2, 3), 2.0), "values has shape"),
        (lambda: unchecked(dominant_frequency)(torch.ones(3), 0.0), "length is 0.0"),
        (lambda: unchecked(peak_frequency)(torch.tensor([torch.nan, 1.0]), 2.0), "values holds 1 NaN"),
        (lambda: unchecked(peak_frequency)(torch.ones(3), -1.0), "length is -1.0"),
        (lambda: unchecked(amplitude)(torch.tensor([torch.inf]), 1.0, 1.0, 2), "residue holds 1"),
        (lambda: unchecked(amplitude)(torch.zeros(1, 2), 1.0, 1.0, 2), "residue has shape"),
        (lambda: unchecked(amplitude)(torch.ones(2), 0.0, 1.0, 2), "frequency is 0.0"),
        (lambda: unchecked(fit)(torch.log, 0), "target holds"),
        (lambda: unchecked(fit)(torch.sin, 0, stages=0), "stages is 0"),
        (lambda: unchecked(solve)(DECAY, 0, stages=0), "stages is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_small_loss_is_minimised_like_a_large_one():
    # a narrow valley; with a loss this small PyTorch's L-BFGS alone keeps no curvature and stops far from (1, 1)
    places = torch.nn.ParameterList([torch.tensor([-1.0, 1.5], dtype=torch.float64)])

    def valley():
        x, y = places[0]
        return 1e-12 * (100 * (y - x**2) ** 2 + (1 - x) ** 2)

    history = optimise(places, valley, adam=0, lbfgs=200)
    assert (places[0] - 1).abs().max() < 1e-6
    assert history[0] == pytest.approx(1e-12 * (100 * 0.25 + 4)) and history[-1] < 1e-20
