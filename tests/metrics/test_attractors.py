"""Attractor metrics on answers known beforehand."""

import numpy as np
import pytest

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
    # 400 runs of 14 time units, after 6 for the transient
    start = np.array([0.0, 0.0, 25.0]) + np.random.default_rng(3).standard_normal((400, 3))

    def advance(states, tangents):
        return tangent_step(LORENZ, 0.02, states, tangents)

    found = metric.lyapunov_exponents(advance, start, steps=700, dt=0.02, count=3, drop=300)
    mean, error = found.mean(0), found.std(0) / np.sqrt(len(found))
    assert mean[0] == pytest.approx(0.906, abs=0.02) and error[0] < 0.01
    assert mean[1] == pytest.approx(0, abs=0.02)
    assert mean.sum() == pytest.approx(-13.667, abs=0.02)


def test_exponents_of_a_linear_map():
    matrix = np.array([[2.0, 1.0], [0.0, 0.5]])

    def advance(states, tangents):
        return states, matrix @ tangents

    found = metric.lyapunov_exponents(advance, np.zeros((1, 2)), steps=200, dt=0.1, count=2, drop=50)
    np.testing.assert_allclose(found[0], np.log([2, 0.5]) / 0.1, atol=1e-6)


BAD = {"nan": np.full((2, 50, 3), np.nan), "empty": np.zeros((2, 0, 3))}


@pytest.mark.parametrize("truth", BAD.values(), ids=BAD)
def test_bad_truth_is_named(truth):
    model = np.zeros((2, 50, 3))
    calls = [
        lambda: unchecked(metric.state_space_divergence)(truth, model),
        lambda: unchecked(metric.mixture_divergence)(truth, model),
        lambda: unchecked(metric.spectral_distance)(truth, model),
        lambda: unchecked(metric.valid_prediction_time)(truth, model, 0.1, 1.0, np.ones(3)),
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
