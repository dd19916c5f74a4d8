"""Time scales of systems whose scales are known, and the trajectory that carries them."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import ode
from touchstone.data import trajectory as module
from touchstone.data.trajectory import dominant_period, lyapunov_spectrum, spectral_period, trajectory

# without the run-time shape checks, which cost more than the arithmetic
LORENZ = dataclasses.replace(
    ode.LORENZ63, field=unchecked(ode.lorenz63), jacobian=unchecked(ode.lorenz63_jacobian), transient=10.0
)


def linear(state, matrix):
    return state @ matrix.T


def linear_jacobian(state, matrix):
    return np.broadcast_to(matrix, (*state.shape, state.shape[-1]))


def still(state):
    return 0 * state


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ode, "tangent_step", unchecked(ode.tangent_step))
    monkeypatch.setattr(ode, "numerical_jacobian", unchecked(ode.numerical_jacobian))
    return tmp_path


def rotation(frequency):
    matrix = np.array([[0.0, frequency], [-frequency, 0.0]])
    parts = [functools.partial(part, matrix=matrix) for part in (linear, linear_jacobian)]
    return ode.System("rotation", *parts, (0.0, 0.0), transient=0.0)


@pytest.mark.parametrize("cycles", [9.3, 40.0, 200.7])
def test_spectral_period_of_a_tone_in_noise(cycles):
    time = np.linspace(0, 1, 2048, endpoint=False)
    series = np.sin(2 * np.pi * cycles * time) + 0.1 * np.random.default_rng(0).standard_normal((3, 2048)) + 5 * time
    assert spectral_period(series[..., None], 1 / 2048) == pytest.approx(1 / cycles, rel=3e-3)


def test_dominant_period_of_a_rotation_and_of_lorenz():
    assert dominant_period(rotation(3.0), samples=512) == pytest.approx(2 * np.pi / 3, rel=2e-3)
    assert dominant_period(LORENZ, samples=2048) == pytest.approx(ode.LORENZ63.period, rel=0.02)


def test_exact_spectrum_of_a_linear_system():
    # eigenvalues with eigenvectors at an angle; ten Runge-Kutta steps a time unit
    basis = np.array([[1.0, 0.4, 0.0], [0.0, 1.0, -0.3], [0.2, 0.0, 1.0]])
    matrix = basis @ np.diag([0.3, -0.2, -1.0]) @ np.linalg.inv(basis)
    parts = [functools.partial(part, matrix=matrix) for part in (linear, linear_jacobian)]
    system = ode.System("linear", *parts, (0.0,) * 3, None, 1.0, transient=0.0)
    mean, _ = lyapunov_spectrum(system, runs=1, periods=60.0, steps_per_period=10)
    np.testing.assert_allclose(mean, [0.3, -0.2, -1.0], atol=3e-4)
    short = lyapunov_spectrum(system, runs=2, periods=3.0, steps_per_period=10)
    other = lyapunov_spectrum(dataclasses.replace(system, jacobian=None, name="other"), None, 2, 3.0, 10)
    np.testing.assert_allclose(other, short, atol=1e-9)


def test_lorenz_sums_to_its_divergence():
    mean, error = lyapunov_spectrum(LORENZ, runs=16, periods=20.0, steps_per_period=40)
    assert mean.sum() == pytest.approx(-10 - 1 - 8 / 3, abs=0.01)
    assert abs(mean[0] - 0.906) < 5 * error[0] and abs(mean[1]) < 0.05


def test_trajectory_carries_its_scales(empty_cache):
    found = trajectory(LORENZ, 300, points_per_period=30, runs=2, noise=0.1)
    assert found.dt == pytest.approx(0.759 / 30) and found.states.shape == (2, 300, 3)
    assert (found.name, found.period, found.exponent, found.noise) == ("lorenz-63", 0.759, 0.906, 0.1)
    share = (found.states - found.clean).std((0, 1)) / found.clean.std((0, 1))
    np.testing.assert_allclose(share, 0.1, rtol=0.1)
    again = trajectory(LORENZ, 300, points_per_period=30, runs=2, noise=0.1)
    np.testing.assert_array_equal(found.states, again.states)
    assert trajectory(LORENZ, 300, dt=0.02).dt == 0.02
    assert len(list(empty_cache.iterdir())) == 2


def test_missing_scales_are_computed_once(monkeypatch):
    system = rotation(2.0)
    monkeypatch.setattr(module, "dominant_period", functools.partial(dominant_period, runs=2, samples=512))
    monkeypatch.setattr(module, "lyapunov_spectrum", functools.partial(lyapunov_spectrum, runs=2, periods=5.0))
    found = trajectory(system, 50)
    assert found.period == pytest.approx(np.pi, rel=1e-2)
    assert found.exponent == pytest.approx(0, abs=1e-3)
    monkeypatch.setattr(ode, "solve_ivp", None)
    assert trajectory(system, 50).period == found.period


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="noise"):
        trajectory(LORENZ, 10, noise=-0.1)
    with pytest.raises(ValueError, match="points_per_period"):
        trajectory(LORENZ, 10, points_per_period=0.0)
    with pytest.raises(ValueError, match="steps"):
        trajectory(LORENZ, 0)
    with pytest.raises(ValueError, match="runs"):
        lyapunov_spectrum(LORENZ, runs=0)
    with pytest.raises(ValueError, match="count"):
        lyapunov_spectrum(LORENZ, 4, periods=1.0, runs=1)
    with pytest.raises(ValueError, match="series"):
        unchecked(spectral_period)(np.full((1, 100, 1), np.nan), 0.1)
    with pytest.raises(ValueError, match="oscillates"):
        spectral_period(np.zeros((1, 100, 1)), 0.1)
