"""Tests of the entrants that recover a method's arguments from a problem."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from touchstone.arena import _ENTRANTS, Budget
from touchstone.nn.jets import by_autograd
from touchstone.pinns import gp_hm_entrant, insr_pde_entrant, multistage_nn
from touchstone.pinns.diffusion_sorption import DIFFUSION, HORIZON, retardation
from touchstone.pinns.dsorp import dsorp
from touchstone.pinns.equation_parts import factor, given_values
from touchstone.pinns.gp_hm import Mixture, nyquist
from touchstone.pinns.gp_hm_entrant import kernel, line_parts, plane_parts, solve_by_spectral_peaks
from touchstone.pinns.insr_pde import Siren
from touchstone.pinns.insr_pde_entrant import periodic_rows, rescaled, right_side, solve_by_stepping
from touchstone.pinns.multistage_nn import Stage, Sum, rms
from touchstone.pinns.multistage_nn_entrant import line_equation, remainder, solve_in_stages
from touchstone.pinns.problems import (
    Condition,
    Problem,
    ac,
    burgers,
    conv,
    end_values,
    heat,
    helm14,
    kdv,
    ks,
    lorenz,
    pois2d,
    pois_hd,
    pois_hf,
    pois_ms,
    reac5,
    wall_values,
    wave,
)
from touchstone.pinns.references import formula

VISCOSITY = 0.01 / math.pi


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WALLS = (wall_values(dims=1),)


def line(equation, name="line", conditions=WALLS, orders=(2,), low=0.0, high=2.0, solve=None):
    """A problem on an interval."""
    return Problem(name, (low,), (high,), orders, 1, equation, tuple(conditions), solve)


def arc():
    """u'' = -sin x on [0, pi], which a few steps solve."""
    reference = partial(formula, np.sin, np.linspace(0, np.pi, 101))
    return line(lambda u, x: u.d(0, 2) + torch.sin(x), "arc", high=math.pi, solve=reference)


def fading():
    """u_t = -u on a period, from sin x."""
    start = Condition("initial", reac5().conditions[0].place, lambda u, x: u.value - torch.sin(x[..., 1:]), (0, 0))
    reference = partial(formula, lambda t, x: np.exp(-t) * np.sin(x), np.linspace(0, 1, 21), np.linspace(0, 6, 31))
    return replace(reac5(), name="fading", equation=lambda u, _: u.d(0) + u.value, conditions=(start,), solve=reference)


def test_all_three_are_entered():
    assert {"gp-hm", "insr-pde", "multistage-nn"} <= set(_ENTRANTS["pinns"])


def test_right_sides_are_those_of_the_equations():
    u = draws(3, 7, 1)
    points = torch.rand(7, 2, dtype=torch.float64)
    known = {
        burgers: -u[0] * u[1] + VISCOSITY * u[2],
        heat: 0.05 * u[2],
        partial(conv, 30.0): -30 * u[1],
        reac5: 5 * u[0] * (1 - u[0]),
        ac: 1e-4 * u[2] - 5 * u[0] ** 3 + 5 * u[0],
        dsorp: HORIZON * DIFFUSION / retardation(u[0]) * u[2],
    }
    for make, wanted in known.items():
        assert torch.allclose(right_side(make(), u, points), wanted, rtol=1e-12, atol=1e-12)


def test_factors_tell_constants_from_everything_else():
    assert [factor(helm14(), stream) for stream in range(5)] == [1, 0, 1, 0, 1]
    assert [factor(wave(), stream) for stream in range(5)] == [0, 0, 1, 0, -4]
    assert [factor(pois_ms(), stream) for stream in range(3)] == [0, 0, 1]
    assert factor(burgers(), 0) is None and factor(burgers(), 2) is None  # u u_x
    assert factor(burgers(), 1) == 1 and factor(burgers(), 3) == pytest.approx(-VISCOSITY)
    assert factor(ac(), 0) is None
    assert factor(line(lambda u, x: x * u.d(0, 2)), 2) is None
    small = factor(line(lambda u, x: 1.234567e-4 * u.d(0, 2) - 1e3 * torch.sin(x)), 2)
    assert small == pytest.approx(1.234567e-4, rel=1e-7)


def test_given_values_are_recovered_and_fluxes_declined():
    places, values = given_values(replace(pois_hf(10), conditions=(wall_values(3.0, dims=1),)))
    assert torch.equal(values(places), torch.full((2, 1), 3.0, dtype=torch.float64))
    flux = Condition("boundary", wall_values(dims=1).place, lambda u, _: u.d(0), (1,))
    doubled = Condition("boundary", wall_values(dims=1).place, lambda u, _: 2 * u.value, (0,))
    for condition in (flux, doubled):
        with pytest.raises(ValueError, match="takes values"):
            given_values(replace(pois_hf(10), conditions=(condition,)))


def test_parts_of_a_line_with_a_reaction():
    x = torch.linspace(0, 2, 9, dtype=torch.float64)
    problem = line(lambda u, x: 2 * (u.d(0, 2) + x * u.value**3 - torch.cos(x)), conditions=[wall_values(0.5, dims=1)])
    source, ends, reaction = line_parts(problem, x)
    u = draws(9)
    assert torch.allclose(source, torch.cos(x)) and torch.allclose(ends, torch.full_like(ends, 0.5))
    assert torch.allclose(reaction(u), x * u**3)
    source, _, reaction = line_parts(pois_hf(10), x)
    assert reaction is None and torch.allclose(source, -100 * torch.sin(10 * x))


def test_parts_of_a_rectangle():
    grids = torch.linspace(0, 2, 5, dtype=torch.float64), torch.linspace(0, 2, 4, dtype=torch.float64)
    problem = replace(pois2d(2.0), equation=lambda u, p: 3 * (u.d(0, 2) + u.d(1, 2)) - 3 * p[..., :1] * p[..., 1:] ** 2)
    source, edges = plane_parts(replace(problem, conditions=(wall_values(0.25),)), grids)
    assert torch.allclose(source, grids[0][:, None] * grids[1] ** 2)
    assert torch.allclose(edges, torch.full_like(edges, 0.25))


def test_kernel_starts_as_published_for_seed_0_alone():
    grid = torch.linspace(0, 1, 50, dtype=torch.float64)
    published, shifted = Mixture(0.95 * nyquist(grid)), kernel(grid, 3)
    for first, second in zip(kernel(grid, 0).parameters(), published.parameters(), strict=True):
        assert torch.equal(first, second)
    assert (shifted.frequencies - published.frequencies).abs().max() <= 0.1 * published.frequencies[1] + 1e-12
    assert not torch.equal(shifted.weights, published.weights)


def test_rescaled_field_carries_its_derivatives():
    siren = Siren((1, 5, 5, 1), 2.0)
    weights, points = siren.start(torch.Generator().manual_seed(0)), torch.rand(6, 1, dtype=torch.float64)
    field = rescaled(siren, -0.5, 3.0)
    jet = by_autograd(lambda x: field(weights, x[0])[0][None], points[None], (2,))
    assert torch.allclose(field(weights, points, 2), jet.streams[0])
    ends = torch.tensor([[-0.5], [3.0]], dtype=torch.float64)
    assert torch.allclose(field(weights, ends), siren(weights, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)))


def test_periodic_rows_vanish_for_a_period_only():
    def field(weights, points, orders=0):  # the sine of a trainable frequency
        angle = weights * points
        return torch.stack([angle.sin(), weights * angle.cos(), -(weights**2) * angle.sin()][: 1 + orders])

    rows = periodic_rows(field, 0.0, 2 * math.pi, 2)
    assert rows(torch.tensor([3.0], dtype=torch.float64))[0].abs().max() < 1e-12
    value, _ = rows(torch.tensor([0.75], dtype=torch.float64))
    assert torch.allclose(value, torch.tensor([1.0, 0.75 * math.pi], dtype=torch.float64))
    assert periodic_rows(field, 0.0, 1.0, 1)(torch.ones(1, dtype=torch.float64))[0].shape == (1,)


def test_line_equation_in_rescaled_coordinates():
    equation, x = line_equation(pois_hf(10)), torch.linspace(-1, 1, 11, dtype=torch.float64)
    inner = 10 * math.pi  # sin 10 (x + 1) pi
    u = torch.stack(
        [
            f(inner * (x + 1)) * inner**n * s
            for n, (f, s) in enumerate([(torch.sin, 1), (torch.cos, 1), (torch.sin, -1)])
        ]
    )
    assert equation.residual(u, x).abs().max() < 1e-9
    assert (equation.places, equation.values) == ((-1.0, 1.0), (0.0, 0.0))
    step = torch.stack([torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x)])
    assert torch.allclose(equation.residual(u + step, x), torch.full_like(x, equation.leading))
    start = Condition("initial", lambda count: torch.zeros(count, 1), lambda u, _: u.value - 1, (0,))
    decay = line_equation(line(lambda u, _: u.d(0) + u.value, conditions=[start], orders=(1,), high=3.0))
    assert (decay.places, decay.values, decay.order) == ((-1.0,), (1.0,), 1)
    assert decay.leading == pytest.approx(2 / 3)


def test_remainder_is_the_equation_of_the_correction():
    equation, answer = line_equation(line(lambda u, x: u.d(0, 2) + u.value**2 - x)), Sum()
    answer.stages.append((0.3, Stage(0)))
    x, u = torch.linspace(-1, 1, 7, dtype=torch.float64), draws(3, 7)
    rest = remainder(equation, answer)
    assert torch.allclose(rest.residual(u, x), equation.residual(answer(x, 2) + u, x))
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(torch.tensor(rest.values, dtype=torch.float64), -answer(ends)[0])


@pytest.mark.parametrize(
    ("solve", "problem", "reason"),
    [
        (solve_by_spectral_peaks, helm14, "u_xx \\+ u_yy = f"),
        (solve_by_spectral_peaks, heat, "u_xx \\+ u_yy = f"),
        (solve_by_spectral_peaks, wave, "u_xx \\+ u_yy = f"),
        (solve_by_spectral_peaks, partial(lorenz, 1.0), "3 components"),
        (solve_by_spectral_peaks, partial(pois_hd, 10), "10 coordinates"),
        (solve_by_spectral_peaks, lambda: line(lambda u, x: u.d(0, 2) + u.d(0)), "is not u'' \\+ r\\(u\\) = f"),
        (solve_by_stepping, wave, "is not of the form u_t = F"),
        (solve_by_stepping, partial(pois2d, 1.0), "is not of the form u_t = F"),
        (solve_by_stepping, kdv, "order 3 in space"),
        (solve_by_stepping, ks, "order 4 in space"),
        (solve_by_stepping, pois_ms, "1 coordinate:"),
        (solve_by_stepping, lambda: replace(heat(), conditions=heat().conditions[:1]), "neither a period nor"),
        (solve_by_stepping, lambda: replace(heat(), conditions=(end_values(),)), "needs one initial condition"),
        (solve_in_stages, heat, "2 coordinates"),
        (solve_in_stages, partial(lorenz, 1.0), "3 components"),
        (solve_in_stages, lambda: line(lambda u, x: x * u.d(0, 2)), "constant factor of its highest derivative"),
    ],
)
def test_declines_say_why(solve, problem, reason):
    budget = Budget(30)
    with pytest.raises(ValueError, match=reason):
        solve(problem(), budget, 0)
    assert budget.spent() < 1


@pytest.mark.parametrize(
    ("solve", "make", "most"),
    [(solve_by_spectral_peaks, arc, 2.0), (solve_by_stepping, fading, 0.1), (solve_in_stages, arc, 0.5)],
)
def test_contestants_keep_their_budget_and_their_word(solve, make, most, monkeypatch):
    monkeypatch.setattr(gp_hm_entrant, "LINE", 60)
    monkeypatch.setattr(insr_pde_entrant, "POINTS", 260)
    problem, budget = make(), Budget(0.8)
    solution = solve(problem, budget, 5)
    assert 0.5 < budget.spent() / budget.seconds < 1.3
    points, truth = problem.reference()
    guess = solution.predict(torch.as_tensor(points, dtype=torch.float32)).numpy()
    assert guess.shape == truth.shape and solution.steps > 0
    assert np.linalg.norm(guess - truth) / np.linalg.norm(truth) == pytest.approx(solution.rel_l2, rel=1e-6)
    order = np.random.default_rng(0).permutation(len(points))[:50]  # at any places, in any order
    shuffled = solution.predict(torch.as_tensor(points[order], dtype=torch.float32)).numpy()
    assert np.allclose(shuffled, guess[order], rtol=0, atol=1e-9)
    assert solution.rel_l2 < most
    with pytest.raises(ValueError, match="leave the domain"):
        solution.predict(torch.full((1, len(problem.low)), 50.0))


def test_rectangles_are_predicted_at_scattered_points(monkeypatch):
    monkeypatch.setattr(gp_hm_entrant, "PLANE", 12)
    problem = pois2d(1.0)
    solution = solve_by_spectral_peaks(problem, Budget(0.4), 0)
    points, _ = problem.reference()
    grid = solution.predict(torch.as_tensor(points))[:, 0]
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:40]
    assert torch.allclose(solution.predict(torch.as_tensor(points)[some])[:, 0], grid[some], rtol=0, atol=1e-9)


def test_numbers_that_run_away_are_failures_and_no_declines():
    rootless = line(lambda u, x: u.d(0, 2) - 1 - u.value.sqrt())  # the solution is negative
    with pytest.raises(FloatingPointError, match="NaN"):
        solve_in_stages(rootless, Budget(0.3), 0)


def test_stages_get_smaller():
    answer = Sum()
    equation = line_equation(arc())
    left = []
    x = torch.linspace(-1, 1, 501, dtype=torch.float64)
    for number in range(2):
        rest = remainder(equation, answer)
        answer.stages += multistage_nn.solve(rest, number, 1, 10, 40)[0].stages
        left.append(rms(equation.residual(answer(x, 2), x)))
    assert left[1] < left[0] and rms(answer(x)[0] - torch.cos(math.pi / 2 * x)) < 0.01
