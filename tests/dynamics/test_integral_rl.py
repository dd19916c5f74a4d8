"""Integral reinforcement learning: weights against kernels, evaluation against Lyapunov equations, Newton's order."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm, solve_continuous_are, solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.special import gamma, kv

from tests.helpers import unchecked
from touchstone.dynamics import integral_rl as irl
from touchstone.dynamics import integral_rl_baselines as baselines

A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-0.1, -0.5, -0.7]])
B, Q, R = np.array([[0.0], [0.0], [1.0]]), np.eye(3), np.eye(1)
LENGTH = 0.1


def linear(start=(2.0, -2.0, 3.0)):
    return irl.LinearPlant(A, B, Q, R, np.array(start))


def nonlinear(start=(1.0, 1.0)):
    """The paper's second task; its value is x1^2 / 2 + x2^2."""

    def drift(x):
        return np.stack(
            [x[..., 1] - x[..., 0], x[..., 1] * np.sin(x[..., 0]) ** 2 / 2 - (x[..., 0] + x[..., 1]) / 2], -1
        )

    def gain(x):
        return np.stack([0 * x[..., 0], np.sin(x[..., 0])], -1)[..., None]

    def features(x):
        return np.stack([x[..., 0] ** 2, x[..., 0] * x[..., 1], x[..., 1] ** 2], -1)

    def slope(x):
        none = 0 * x[..., 0]
        rows = [[2 * x[..., 0], none], [x[..., 1], x[..., 0]], [none, 2 * x[..., 1]]]
        return np.stack([np.stack(row, -1) for row in rows], -2)

    return irl.AffinePlant(drift, gain, features, slope, np.eye(2), np.eye(1), np.array(start))


def kernel(smoothness, scale, distance):
    """The Matern kernel by Bessel functions, for any smoothness."""
    s = np.sqrt(2 * smoothness) * max(abs(distance), 1e-12) / scale
    return 2 ** (1 - smoothness) / gamma(smoothness) * s**smoothness * kv(smoothness, s)


@pytest.mark.parametrize("smoothness", [0.5, 1.5, 2.5, 3.5])
def test_weights_integrate_kernel_translates_exactly(smoothness):
    rule = irl.bayesian_quadrature(6, LENGTH, smoothness)
    nodes = np.linspace(0, LENGTH, 6)
    for node in nodes:
        found = sum(c * kernel(smoothness, 0.3, node - t) for c, t in zip(rule.weights, nodes, strict=True))
        ends = [(0.0, node), (node, LENGTH)]
        exact = sum(
            quad(lambda t, at: kernel(smoothness, 0.3, at - t), *pair, (node,), epsabs=1e-13)[0] for pair in ends
        )
        assert abs(found - exact) < 1e-9


def test_posterior_variance_is_the_squared_worst_case_error():
    rule = irl.bayesian_quadrature(3, 1.0, 1.5, length_scale=0.4)
    grid, share = np.polynomial.legendre.leggauss(200)
    grid, share, nodes = (grid + 1) / 2, share / 2, np.linspace(0, 1, 3)
    points = np.concatenate([grid, nodes])
    measure = np.concatenate([share, -rule.weights])  # the integral minus the rule
    gram = np.array([[kernel(1.5, 0.4, a - b) for b in points] for a in points])
    assert abs(measure @ gram @ measure - rule.variance) < 1e-5 * rule.variance + 1e-9
    variances = [irl.bayesian_quadrature(n, LENGTH, 3.5).variance for n in (2, 3, 5, 9)]
    assert all(0 < b < a for a, b in zip(variances, variances[1:], strict=False))


def test_roughest_kernel_tends_to_the_trapezoidal_rule():
    rule = irl.bayesian_quadrature(7, LENGTH, 0.5, length_scale=100 * LENGTH).weights
    trapezoidal = baselines.trapezoidal(7, LENGTH)
    assert np.abs(rule / trapezoidal - 1).max() < 1e-3
    near = irl.bayesian_quadrature(7, LENGTH, 0.5, length_scale=0.1 * LENGTH).weights
    assert np.abs(near / trapezoidal - 1).max() > 1e-3


def test_classical_rules_are_exact_for_their_polynomials():
    time = np.linspace(0, LENGTH, 9)
    for degree, power in [(1, 2), (3, 4)]:
        rule = {1: baselines.trapezoidal, 3: baselines.simpson}[degree](9, LENGTH)
        assert abs(rule @ time**degree - LENGTH**power / power) < 1e-15
        assert abs(rule @ time ** (degree + 1) - LENGTH ** (power + 1) / (power + 1)) > 1e-12


def test_riccati_reference_and_limit_of_all_iterations():
    P = solve_continuous_are(A, B, Q, R)
    assert abs(P[0, 0] - 2.35503) < 1e-5
    np.testing.assert_allclose(B.T @ P, [[0.90499, 1.89310, 1.59700]], atol=1e-5)
    model = baselines.kleinman(A, B, Q, R, np.zeros((1, 3)), 12)
    np.testing.assert_allclose(model[-1], P, atol=1e-10)
    plant = linear()
    learned = irl.policy_iteration(plant, np.zeros(6), None, 10, LENGTH, 12)
    np.testing.assert_allclose(plant.matrix(learned[-1]), P, atol=1e-7)
    np.testing.assert_allclose(plant.feedback(learned[-1]), B.T @ P, atol=1e-7)


def test_exact_integrals_return_the_lyapunov_solution():
    plant, K = linear(), np.array([[0.3, 0.8, 0.5]])
    weights = np.array([0.0, 0.0, 0.3, 0.0, 0.8, 0.5])  # the last column of P is K
    np.testing.assert_allclose(plant.feedback(weights), K)
    P = solve_continuous_lyapunov((A - B @ K).T, -(Q + K.T @ R @ K))
    found = irl.evaluate(plant, plant.sample(weights, 2, 10, LENGTH), None)
    assert np.linalg.norm(plant.matrix(found) - P) < 1e-8 * np.linalg.norm(P)


def test_quadrature_error_is_a_perturbed_lyapunov_equation_whatever_the_start():
    rule, times = baselines.trapezoidal(4, LENGTH), np.linspace(0, LENGTH, 4)
    flow = [expm(A * t) for t in times]
    cost = sum(c * F.T @ Q @ F for c, F in zip(rule, flow, strict=True))
    expected = solve_discrete_lyapunov(flow[-1].T, cost)  # F'PF - P + cost = 0
    for start in [(2.0, -2.0, 3.0), (1.0, 1.0, -1.0)]:
        plant = linear(start)
        found = plant.matrix(irl.evaluate(plant, plant.sample(np.zeros(6), 4, 10, LENGTH), rule))
        assert np.linalg.norm(found - expected) < 1e-7 * np.linalg.norm(expected)
    exact = solve_continuous_lyapunov(A.T, -Q)
    assert np.linalg.norm(expected - exact) > 1e-4


def test_newton_order_with_exact_integrals_and_floor_with_a_rule():
    plant, P = linear(), solve_continuous_are(A, B, Q, R)
    runs = {
        n: irl.policy_iteration(plant, np.zeros(6), baselines.trapezoidal(n, LENGTH), 10, LENGTH, 11) for n in (5, 9)
    }
    floor = {n: np.linalg.norm(plant.matrix(w[-1]) - P) for n, w in runs.items()}
    assert 3.5 < floor[5] / floor[9] < 4.5  # half the step, a quarter of the error
    assert np.linalg.norm(runs[5][-1] - runs[5][-2]) < 1e-3 * floor[5]
    exact = irl.policy_iteration(plant, np.zeros(6), None, 10, LENGTH, 9)
    errors = np.array([np.linalg.norm(plant.matrix(w) - P) for w in exact])
    a, b, c = errors[errors > 1e-6][-3:]
    assert np.log(c / b) / np.log(b / a) > 1.8


def test_nonlinear_optimum_solves_the_equation_and_is_a_fixed_point():
    plant, best = nonlinear(), np.array([0.5, 0.0, 1.0])
    x = np.random.default_rng(0).standard_normal((50, 2))
    u = plant.policy(best, x)
    np.testing.assert_allclose(u[:, 0], -np.sin(x[:, 0]) * x[:, 1], atol=1e-12)
    rate = plant.drift(x) + np.einsum("...ni,...i->...n", plant.gain(x), u)
    hamiltonian = irl.running_cost(x, u, plant.Q, plant.R) + np.einsum("...pn,...n,p->...", plant.slope(x), rate, best)
    np.testing.assert_allclose(hamiltonian, 0, atol=1e-12)
    found = irl.policy_iteration(plant, np.array([-1.0, 3.0, 1.5]), None, 20, LENGTH, 6)
    assert np.linalg.norm(found[0] - best) > 1e-2
    np.testing.assert_allclose(found[-1], best, atol=1e-9)


def test_linear_and_general_plants_agree():
    K_weights = np.array([0.0, 0.0, 0.3, 0.0, 0.8, 0.5])
    plant = linear()
    i, j = np.triu_indices(3)
    both = np.where(i == j, 1.0, 2.0)

    def slope(x):
        rows = np.zeros((*x.shape[:-1], 6, 3))
        for row, (a, b) in enumerate(zip(i, j, strict=True)):
            rows[..., row, a] += both[row] * x[..., b]
            rows[..., row, b] += both[row] * x[..., a]
        return rows

    general = irl.AffinePlant(
        lambda x: x @ A.T, lambda x: np.broadcast_to(B, (*x.shape[:-1], 3, 1)), plant.features, slope, Q, R, plant.start
    )
    one, two = plant.sample(K_weights, 4, 5, LENGTH), general.sample(K_weights, 4, 5, LENGTH)
    for name in ("states", "controls", "costs", "integrals"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-9)
    assert one.states.shape == (5, 4, 3)
    np.testing.assert_array_equal(one.states[:-1, -1], one.states[1:, 0])


def test_bad_input_is_named():
    quadrature, evaluate = unchecked(irl.bayesian_quadrature), unchecked(irl.evaluate)
    with pytest.raises(ValueError, match="points"):
        quadrature(1, LENGTH)
    with pytest.raises(ValueError, match="length"):
        quadrature(4, -1.0)
    with pytest.raises(ValueError, match="smoothness is 2"):
        quadrature(4, LENGTH, 2.0)
    plant = linear()
    samples = plant.sample(np.zeros(6), 4, 10, LENGTH)
    with pytest.raises(ValueError, match="rule has shape"):
        evaluate(plant, samples, np.ones(5))
    with pytest.raises(ValueError, match="do not determine 6 weights"):
        evaluate(plant, plant.sample(np.zeros(6), 4, 5, LENGTH), None)
    with pytest.raises(ValueError, match="first"):
        unchecked(irl.policy_iteration)(plant, np.full(6, np.nan), None, 10, LENGTH, 3)
    with pytest.raises(ValueError, match="iterations"):
        unchecked(irl.policy_iteration)(plant, np.zeros(6), None, 10, LENGTH, 0)
    with pytest.raises(ValueError, match="Simpson"):
        unchecked(baselines.simpson)(4, LENGTH)
    with pytest.raises(ValueError, match="points is 1"):
        unchecked(baselines.trapezoidal)(1, LENGTH)
    with pytest.raises(ValueError, match="K leaves"):
        unchecked(baselines.kleinman)(A, B, Q, R, np.array([[-5.0, 0.0, 0.0]]), 2)
