"""Passivity and acceleration: the dissipation law, forms of Nesterov's method, rates against spectral radii, known functions."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.helpers import unchecked
from touchstone.dynamics import passivity_acceleration as passive
from touchstone.dynamics import passivity_acceleration_baselines as rivals

GENERATOR = np.random.default_rng(3)
DATA = GENERATOR.standard_normal((40, 4))
LABELS = np.sign(DATA @ np.array([1.0, -2.0, 0.5, 0.0]) + GENERATOR.standard_normal(40))


def small_logistic():
    return rivals.logistic(DATA, LABELS, 50.0)


def test_storage_decays_at_the_set_rate_for_a_function_that_is_not_quadratic():
    objective, times, epsilon, gain = small_logistic(), np.linspace(0, 1.2, 25), 0.4, 3.0
    start, velocity = np.array([2.0, 1.0, -1.0, 0.5]), np.array([-1.0, 2.0, 0.0, 1.0])
    points, velocities = passive.controlled_flow(objective, start, velocity, times, gain, epsilon)
    off = np.stack([passive.off_manifold(objective, x, y, gain) for x, y in zip(points, velocities, strict=True)])
    storage = (off**2).sum(1) / 2 * np.exp(2 * times / epsilon)
    assert np.abs(storage / storage[0] - 1).max() < 1e-7
    assert np.linalg.norm(points[-1] - start) > 0.5  # the point has moved while the law held


def test_small_epsilon_is_gradient_flow():
    objective, times, gain = small_logistic(), np.linspace(0, 2, 9), 3.0
    start = np.array([2.0, 1.0, -1.0, 0.5])
    velocity = -gain * objective.gradient(start)
    flow = solve_ivp(lambda _, x: -gain * objective.gradient(x), (0, 2), start, t_eval=times, rtol=1e-10, atol=1e-12)
    far, near = (
        np.abs(passive.controlled_flow(objective, start, velocity + kick, times, gain, epsilon)[0] - flow.y.T).max()
        for kick, epsilon in ((1.0, 0.02), (1.0, 0.002))
    )
    assert near < 0.15 * far < 0.01
    on_it = passive.controlled_flow(objective, start, velocity, times, gain, 5.0)[0]
    np.testing.assert_allclose(on_it, flow.y.T, atol=1e-8)  # the manifold is invariant at any epsilon


def test_forced_flow_is_the_second_order_equation_with_hessian_damping():
    objective, start, times = small_logistic(), np.array([2.0, 1.0, -1.0, 0.5]), np.linspace(0, 10, 21)
    mu = objective.convexity
    for step in (0.0, 0.3 / objective.smoothness):

        def rate(_, z, step=step):
            x, y = z[:4], z[4:]
            slope = objective.gradient(x)
            damping = 2 * mu**0.5 * y + step**0.5 * objective.hessian_product(x, y)
            return np.concatenate([y, -damping - (1 + (mu * step) ** 0.5) * slope])

        velocity = -2 * step**0.5 * objective.gradient(start) / (1 + (mu * step) ** 0.5)
        path = solve_ivp(
            rate, (0, 10), np.concatenate([start, velocity]), "DOP853", t_eval=times, rtol=1e-11, atol=1e-13
        )
        np.testing.assert_allclose(passive.forced_flow(objective, start, times, step), path.y[:4].T, atol=1e-8)

    def fast(_, z):
        x, v = z[:4], z[4:]
        return np.concatenate([mu**0.5 * (v - x), -(mu**0.5) * (v - x + objective.gradient(x) / mu)])

    path = solve_ivp(fast, (0, 10), np.concatenate([start, start]), "DOP853", t_eval=times, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(passive.forced_flow(objective, start, times), path.y[:4].T, atol=1e-8)


def test_forms_of_nesterovs_method_agree():
    objective, start = small_logistic(), np.array([2.0, 1.0, -1.0, 0.5])
    step = 1 / objective.smoothness
    points = passive.nesterov(objective, start, 300)
    np.testing.assert_allclose(passive.nesterov_by_differences(objective, start, 300, step), points, atol=1e-12)
    np.testing.assert_allclose(passive.nesterov_by_fast_variable(objective, start, 300, step), points, atol=1e-12)
    two_step = rivals.nesterov(objective.smoothness, objective.convexity)
    np.testing.assert_allclose(rivals.run(two_step, objective, start, 300), points, atol=1e-12)
    assert np.linalg.norm(points[-1] - objective.minimiser) < 1e-9


def test_without_the_difference_of_gradients_it_is_heavy_ball_and_without_forcing_gradient_descent():
    objective, start = small_logistic(), np.array([2.0, 1.0, -1.0, 0.5])
    step = 0.7 / objective.smoothness
    beta = passive.momentum(objective, step)
    plain = passive.nesterov_by_differences(objective, start, 50, step, corrected=False)
    heavy = rivals.run(rivals.TwoStep(step, beta), objective, start, 50)
    np.testing.assert_allclose(plain, heavy, atol=1e-13)
    descent = rivals.run(rivals.TwoStep(step), objective, start, 50)
    np.testing.assert_allclose(passive.nesterov(objective, start, 50, step, beta=0.0), descent, atol=1e-13)
    contracted = passive.nesterov(objective, start, 50, step, forced=False)
    off = contracted[1:] - contracted[:-1] + step * np.stack([objective.gradient(x) for x in contracted[:-1]])
    first = -beta * step * objective.gradient(start)
    np.testing.assert_allclose(off, beta ** np.arange(50)[:, None] * first, atol=1e-13)


@pytest.mark.parametrize("name", ["gradient_descent", "heavy_ball", "nesterov", "triple_momentum"])
def test_observed_rate_is_the_spectral_radius(name):
    eigenvalues = rivals.random_spectrum(20, 400.0, seed=0)
    objective = rivals.quadratic(eigenvalues)
    method = getattr(rivals, name)(1.0, 0.0025)
    points = rivals.run(method, objective, np.ones(20), 2200)
    rate = passive.fitted_rate(np.linalg.norm(points, axis=1))
    assert abs(rate - rivals.spectral_radius(method, eigenvalues)) < 1e-3
    known = {"gradient_descent": 399 / 401, "heavy_ball": 19 / 21, "nesterov": 0.95, "triple_momentum": 0.95}[name]
    assert abs(rivals.spectral_radius(method, eigenvalues) - known) < 1e-6
    if name == "nesterov":
        np.testing.assert_allclose(passive.nesterov(objective, np.ones(20), 2200), points, rtol=1e-6, atol=1e-13)


def test_spectral_radius_is_that_of_the_iteration_matrix():
    method = rivals.TwoStep(0.6, 0.5, 0.3, 0.2)
    for value in (0.1, 0.7, 2.9):
        a, b, c, _ = method
        matrix = np.array([[1 + b - a * value * (1 + c), -b + a * c * value], [1.0, 0.0]])
        radius = np.abs(np.linalg.eigvals(matrix)).max()
        assert abs(rivals.spectral_radius(method, np.array([value])) - radius) < 1e-12


def test_heavy_ball_cycles_where_the_others_converge():
    objective, start = rivals.three_pieces(), np.array([3.3])
    heavy = rivals.run(rivals.heavy_ball(25.0, 1.0), objective, start, 500)
    cycle = np.sort(heavy[-3:, 0])
    np.testing.assert_allclose(cycle, [-2208 / 1225, 792 / 1225, 2592 / 1225], atol=1e-9)  # in closed form
    assert abs(passive.nesterov(objective, start, 200)[-1, 0]) < 1e-6
    assert abs(rivals.run(rivals.triple_momentum(25.0, 1.0), objective, start, 200)[-1, 0]) < 1e-6


@pytest.mark.parametrize(
    "make",
    [small_logistic, rivals.three_pieces, lambda: rivals.chain(7), lambda: rivals.quadratic(np.array([0.5, 2.0]))],
)
def test_derivatives_minimiser_and_constants_of_the_functions(make):
    objective = make()
    point = np.linspace(0.3, 0.6, len(objective.minimiser)) + (1.0 if make is rivals.three_pieces else 0.0)
    direction, h = np.cos(np.arange(len(point)) + 1.0), 1e-5
    slope = (objective.value(point + h * direction) - objective.value(point - h * direction)) / (2 * h)
    assert abs(slope - objective.gradient(point) @ direction) < 1e-8
    curved = (objective.gradient(point + h * direction) - objective.gradient(point - h * direction)) / (2 * h)
    np.testing.assert_allclose(curved, objective.hessian_product(point, direction), atol=1e-8)
    assert np.abs(objective.gradient(objective.minimiser)).max() < 1e-14
    bend = direction @ objective.hessian_product(point, direction) / (direction @ direction)
    assert objective.convexity * (1 - 1e-12) <= bend <= objective.smoothness * (1 + 1e-12)


def test_convex_rule_meets_its_bound_on_the_chain():
    objective = rivals.chain(60)
    points = passive.nesterov(objective, np.zeros(60), 120, beta=lambda k: (k - 1) / (k + 2))
    least = objective.value(objective.minimiser)
    assert abs(least - (-1 + 1 / 61) / 8) < 1e-14
    k = np.arange(2, 121)
    gaps = np.array([objective.value(x - objective.gradient(x)) for x in points])[k] - least
    distance = objective.minimiser @ objective.minimiser
    assert (gaps <= 2 * distance / (k + 1.0) ** 2).all()
    # k + 1 gradients reach k + 1 links, and no point with the other links at zero is better than this
    assert (gaps >= (1 / (k + 2) - 1 / 61) / 8 - 1e-15).all()


def test_bad_input_is_named():
    objective = rivals.quadratic(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="start has shape"):
        unchecked(passive.nesterov)(objective, np.zeros(3), 5)
    with pytest.raises(ValueError, match="start holds 1 NaN"):
        unchecked(passive.nesterov)(objective, np.array([math.nan, 0.0]), 5)
    with pytest.raises(ValueError, match="steps is 0"):
        unchecked(rivals.run)(rivals.TwoStep(0.1), objective, np.ones(2), 0)
    with pytest.raises(ValueError, match="epsilon is -1"):
        unchecked(passive.controlled_flow)(objective, np.ones(2), np.ones(2), np.ones(1), 1.0, -1.0)
    with pytest.raises(ValueError, match="step is -0.1"):
        unchecked(passive.forced_flow)(objective, np.ones(2), np.ones(1), -0.1)
    with pytest.raises(ValueError, match="convexity is 0"):
        unchecked(passive.nesterov_by_fast_variable)(rivals.chain(2), np.ones(2), 3, 1.0)
    with pytest.raises(ValueError, match="errors"):
        unchecked(passive.fitted_rate)(np.array([1.0, 0.0, 1.0, 1.0]))
    assert abs(passive.fitted_rate(np.append(3 * 0.5 ** np.arange(50.0), np.zeros(9))) - 0.5) < 1e-12
    with pytest.raises(ValueError, match="eigenvalues must be positive"):
        unchecked(rivals.quadratic)(np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="condition is 1"):
        unchecked(rivals.logistic)(DATA, LABELS, 1.0)
    with pytest.raises(ValueError, match="dim is 0"):
        unchecked(rivals.chain)(0)
