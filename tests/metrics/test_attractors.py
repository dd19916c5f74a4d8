"""Attractor metrics on answers known beforehand."""

import numpy as np
import pytest
from scipy.linalg import expm

from tests.helpers import unchecked
from touchstone.data import ode
from touchstone.metrics import attractors as metric

# without the run-time shape checks, which cost more than the arithmetic
LORENZ = ode.System("lorenz", unchecked(ode.lorenz63), unchecked(ode.lorenz63_jacobian), (0.0, 0.0, 25.0), 0.906)
tangent_step = unchecked(ode.tangent_step)


@pytest.fixture(scope="module")
def lorenz():
    """Two independent batches of Lorenz-63 runs on the attractor, by the midpoint rule."""
    states = np.array([0.0, 0.0, 25.0]) + np.random.default_rng(0).standard_normal((40, 3))
    orbit = []
    for _ in range(2600):
        half = states + 0.01 * LORENZ.field(states)  # midpoint rule
        states = states + 0.02 * LORENZ.field(half)
        orbit.append(states)
    series = np.stack(orbit, 1)[:, 600:]
    series = (series - series.mean((0, 1))) / series.std((0, 1))
    return series[:20], series[20:]


def test_divergences_vanish_on_the_same_series(lorenz):
    truth, _ = lorenz
    assert abs(metric.state_space_divergence(truth, truth)) < 1e-12
    assert abs(metric.mixture_divergence(truth, truth)) < 1e-12
    assert abs(metric.spectral_distance(truth, truth)) < 1e-12


def test_state_space_divergence_ranks_known_models(lorenz):
    truth, other = lorenz
    random = np.random.default_rng(0)
    shuffled = np.stack([random.permutation(truth[..., i].ravel()) for i in range(3)], -1)
    same = metric.state_space_divergence(truth, other)
    assert same < 0.3
    assert 2.5 < metric.state_space_divergence(truth, shuffled) < 5
    fixed = metric.state_space_divergence(truth, np.zeros_like(truth))
    assert 12 < fixed < 16
    assert metric.state_space_divergence(truth, truth * np.nan) == pytest.approx(fixed, abs=0.5)
    assert metric.state_space_divergence(truth, truth * 1e6) > 8
    assert metric.mixture_divergence(truth, other) < 0.1 < metric.mixture_divergence(truth, 0 * truth)


def test_state_space_divergence_of_two_bins():
    truth = np.array([[0.0]] * 3 + [[1.0]])
    model = np.array([[0.0]] + [[1.0]] * 3)
    expected = 0.75 * np.log(3) + 0.25 * np.log(1 / 3)
    assert metric.state_space_divergence(truth, model, bins=2, pseudocount=1e-12) == pytest.approx(expected)


def test_spectral_distance_bounds_and_time_reversal(lorenz):
    truth, other = lorenz
    near = metric.spectral_distance(truth, other)
    assert 0 < near < 0.05
    assert metric.spectral_distance(truth, other[:, ::-1]) == pytest.approx(near, rel=1e-9)
    noise = metric.spectral_distance(truth, np.random.default_rng(0).standard_normal(truth.shape))
    assert near < noise <= 1
    assert metric.spectral_distance(truth, np.ones_like(truth)) == 1
    assert metric.spectral_distance(truth, truth * np.nan) == 1
    time = np.linspace(0, 1, 2000, endpoint=False)[None, :, None]
    slow, fast = np.sin(2 * np.pi * 50 * time), np.sin(2 * np.pi * 800 * time)
    assert metric.spectral_distance(slow, fast) > 0.99


def test_valid_prediction_time_of_exponential_error():
    dt, exponent, first = 0.01, 0.9, 1e-3
    time = dt * np.arange(1, 2001)
    truth = np.zeros((2, 2000, 3))
    forecast = first * np.exp(exponent * time)[None, :, None] + truth
    forecast[1, 10] = np.nan
    found = metric.valid_prediction_time(truth, forecast, dt, exponent, np.ones(3))
    assert found[0] == pytest.approx(np.log(0.4 / first), abs=2 * dt)
    assert found[1] == pytest.approx(10 * dt * exponent)
    perfect = metric.valid_prediction_time(truth, truth, dt, exponent, np.ones(3))
    np.testing.assert_allclose(perfect, 2000 * dt * exponent)


def test_lorenz63_exponents(lorenz):
    # 700 runs of 20 time units; the starts mix slowly
    start = np.array([0.0, 0.0, 25.0]) + np.random.default_rng(3).standard_normal((700, 3))
    start = unchecked(ode.integrate)(LORENZ, start, np.array([20.0]), 1e-4)[:, 0]

    def advance(states, tangents):
        for _ in range(4):
            states, tangents = tangent_step(LORENZ, 0.02, states, tangents)
        return states, tangents

    found = metric.lyapunov_exponents(advance, start, steps=250, dt=0.08, count=1, drop=40)[:, 0]
    assert found.mean() == pytest.approx(0.906, abs=0.01)
    assert found.std() / np.sqrt(len(found)) < 0.004
    found = metric.lyapunov_exponents(advance, start[:60], steps=150, dt=0.08, count=3, drop=40)
    assert found.mean(0)[1] == pytest.approx(0, abs=0.03)
    assert found.mean(0).sum() == pytest.approx(-13.667, abs=0.02)


def test_exponents_of_a_linear_map():
    matrix = np.array([[2.0, 1.0], [0.0, 0.5]])

    def advance(states, tangents):
        return states, matrix @ tangents

    found = metric.lyapunov_exponents(advance, np.zeros((1, 2)), steps=200, dt=0.1, count=2, drop=50)
    np.testing.assert_allclose(found[0], np.log([2, 0.5]) / 0.1, atol=1e-6)


def test_exact_spectrum_of_a_linear_flow():
    rates = np.array([0.7, 0.1, -0.4, -2.0])
    basis = np.eye(4) + 0.3 * np.random.default_rng(0).normal(size=(4, 4))
    step = expm(0.1 * basis @ np.diag(rates) @ np.linalg.inv(basis))
    found = metric.lyapunov_exponents(
        lambda states, tangents: (states, step @ tangents), np.zeros((2, 4)), steps=100, dt=0.1, count=4, drop=1200
    )
    np.testing.assert_allclose(found, np.stack([rates, rates]), atol=1e-10)


def test_mixture_divergence_of_a_shifted_gaussian():
    # components of width 1 on samples of N(0, 1) make N(0, 2), so the divergence is shift^2 / (2 * 2)
    random = np.random.default_rng(0)
    truth = random.standard_normal((100_000, 2))
    shift = np.array([0.8, -0.6])
    found = [metric.mixture_divergence(truth, truth[::-1] + shift, seed=seed) for seed in range(2)]
    assert np.mean(found) == pytest.approx(1 / 4, abs=0.03)


def test_histogram_divergence_of_a_shifted_gaussian():
    random = np.random.default_rng(0)
    truth, other = random.standard_normal((2, 1_000_000, 1))
    found = metric.state_space_divergence(truth, other + 0.3, pseudocount=1e-2)
    assert found == pytest.approx(0.3**2 / 2, rel=0.05)


def test_conservation_drift():
    time = np.linspace(0, 1, 11)
    states = np.stack([np.cos(time), np.sin(time)], -1)[None] * np.array([1.0, 2.0, 1.0])[:, None, None]
    states[1, 5] *= 1.1  # radius 2.2: the squared radius rises from 4 to 4.84
    states[2, 7] = np.nan
    found = metric.conservation_drift(lambda state: (state**2).sum(-1), states)
    np.testing.assert_allclose(found[:2], [0, 0.84 / 2], atol=1e-12)  # the mean of 1, 4 and 1 is 2
    assert found[2] == np.inf
    family = metric.conservation_drift(lambda state: (state**2).sum(-1) / np.array([1.0, 4.0, 1.0]), states, 1.0)
    np.testing.assert_allclose(family[:2], [0, 0.21], atol=1e-12)
    with pytest.raises(ValueError, match="scale"):
        metric.conservation_drift(lambda state: 0 * state[..., 0], states)
    with pytest.raises(ValueError, match="states"):
        metric.conservation_drift(lambda state: state[..., 0], states * np.nan)


def test_running_smape():
    truth = np.array([[[1.0], [2.0], [0.0]]])
    np.testing.assert_array_equal(metric.running_smape(truth, truth), np.zeros((1, 3)))
    found = metric.running_smape(truth, np.array([[[3.0], [-2.0], [np.inf]]]))
    np.testing.assert_allclose(found, [[100, 150, 500 / 3]])
    with pytest.raises(ValueError, match="forecast"):
        unchecked(metric.running_smape)(truth, truth[:, :2])


BAD = {"nan": np.full((2, 50, 3), np.nan), "empty": np.zeros((2, 0, 3))}


@pytest.mark.parametrize("truth", BAD.values(), ids=BAD)
def test_bad_truth_is_named(truth):
    model = np.zeros((2, 50, 3))
    calls = [
        lambda: unchecked(metric.state_space_divergence)(truth, model),
        lambda: unchecked(metric.mixture_divergence)(truth, model),
        lambda: unchecked(metric.spectral_distance)(truth, model),
        lambda: unchecked(metric.valid_prediction_time)(truth, model, 0.1, 1.0, np.ones(3)),
        lambda: unchecked(metric.running_smape)(truth, model),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="truth"):
            call()


def test_wrong_shapes_are_named():
    truth = np.zeros((2, 50, 3))
    with pytest.raises(ValueError, match="model"):
        unchecked(metric.state_space_divergence)(truth, np.zeros((2, 50, 2)))
    with pytest.raises(ValueError, match="model"):
        unchecked(metric.spectral_distance)(truth, np.zeros((2, 40, 3)))
    with pytest.raises(ValueError, match="forecast"):
        unchecked(metric.valid_prediction_time)(truth, np.zeros((2, 40, 3)), 0.1, 1.0, np.ones(3))
    with pytest.raises(ValueError, match="truth"):
        metric.state_space_divergence(np.zeros((2, 5, 6)), np.zeros((2, 5, 6)))
    with pytest.raises(ValueError, match="count"):
        metric.lyapunov_exponents(lambda s, t: (s, t), np.zeros((1, 2)), 5, 0.1, count=3)
    with pytest.raises(ValueError, match="start"):
        metric.lyapunov_exponents(lambda s, t: (s, t), np.full((1, 2), np.nan), 5, 0.1)
