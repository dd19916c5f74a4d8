"""Chaotic systems: Jacobians, reference trajectories against a tighter integration, the cache."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import ode

# the run-time shape checks would cost more than the integration
LORENZ = ode.System("lorenz", unchecked(ode.lorenz63), unchecked(ode.lorenz63_jacobian), (0.0, 0.0, 25.0), 0.906)
SYSTEMS = [ode.LORENZ63, ode.LORENZ96_5, ode.LORENZ96_10]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_jacobian_is_the_derivative_of_the_field(system):
    states = np.random.default_rng(0).normal(size=(4, len(system.centre)))
    small = 1e-6
    columns = [
        (system.field(states + small * e) - system.field(states - small * e)) / (2 * small)
        for e in np.eye(states.shape[1])
    ]
    np.testing.assert_allclose(system.jacobian(states), np.stack(columns, -1), atol=1e-8)


def test_fixed_points_and_divergence():
    root = np.sqrt(8 / 3 * 27)
    fixed = np.array([[0.0, 0, 0], [root, root, 27], [-root, -root, 27]])
    np.testing.assert_allclose(ode.lorenz63(fixed), 0, atol=1e-12)
    assert np.trace(ode.lorenz63_jacobian(fixed[1])) == pytest.approx(-10 - 1 - 8 / 3)
    np.testing.assert_allclose(ode.lorenz96(np.full((1, 7), 8.0)), 0)
    # the quadratic term of the ring conserves energy: only damping and forcing are left
    ring = np.random.default_rng(1).normal(size=9)
    assert ring @ ode.lorenz96(ring, forcing=0.0) == pytest.approx(-ring @ ring)


def test_lorenz63_reference_against_tighter_integration(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    reference = ode.trajectories(LORENZ, dt=0.03, steps=200, runs=2, transient=10.0)
    tighter = ode.integrate(LORENZ, reference[:, 0], 0.03 * np.arange(200), tolerance=1e-13)
    error = np.abs(reference - tighter).max((0, 2))
    assert error[100] < 1e-6  # 3 time units: growth by exp(0.906 * 3)
    assert error[-1] < 1e-4  # 6 time units
    assert np.abs(reference).max() < 60 and reference[..., 2].min() > 0


def test_trajectories_are_cached_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    first = ode.trajectories(ode.LORENZ96_5, dt=0.04, steps=5, runs=2, transient=1.0)
    assert first.shape == (2, 5, 5)
    (path,) = tmp_path.iterdir()  # no partial file is left behind
    monkeypatch.setattr(ode, "solve_ivp", None)  # the second call reads the file
    np.testing.assert_array_equal(first, ode.trajectories(ode.LORENZ96_5, dt=0.04, steps=5, runs=2, transient=1.0))
    assert path.suffix == ".npy"


def test_observed_splits_are_standardised_and_separate(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    splits = ode.observed(LORENZ, dt=0.03, steps=250, noise=0.01)
    clean = ode.observed(LORENZ, dt=0.03, steps=250, noise=0.0)
    np.testing.assert_allclose(clean.train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(clean.train.std(0), 1)
    assert (splits.train - clean.train).std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(splits.test, clean.test)
    raw = splits.test * splits.std + splits.mean
    assert 5 < raw[:, 2].mean() < 40
    assert not np.allclose(clean.train[:50], clean.test[:50])


def test_tangent_step_is_fourth_order():
    start, tangent = np.array([[1.0, 2.0, 20.0]]), np.eye(3)[None]
    exact = ode.integrate(LORENZ, start, np.array([0.04]), 1e-13)[:, 0]
    once, _ = ode.tangent_step(ode.LORENZ63, 0.04, start, tangent)
    half, moved = ode.tangent_step(ode.LORENZ63, 0.02, *ode.tangent_step(ode.LORENZ63, 0.02, start, tangent))
    assert np.abs(once - exact).max() / np.abs(half - exact).max() > 10
    nudged = ode.integrate(LORENZ, start + 1e-6 * np.eye(3)[None, 0], np.array([0.04]), 1e-13)[:, 0]
    np.testing.assert_allclose(moved[0, :, 0], (nudged - exact)[0] / 1e-6, atol=1e-3)


@pytest.mark.parametrize("start", [np.full((1, 3), np.nan), np.zeros((0, 3))], ids=["nan", "empty"])
def test_integrate_names_the_bad_argument(start):
    with pytest.raises(ValueError, match="start"):
        unchecked(ode.integrate)(ode.LORENZ63, start, np.array([0.1]))


def test_trajectories_reject_empty_sizes():
    with pytest.raises(ValueError, match="steps"):
        ode.trajectories(LORENZ, dt=0.03, steps=0, runs=1)


def scaled(state, rate):
    return -rate * state


def test_numerical_jacobian_matches_the_written_one():
    states = 10 * np.random.default_rng(2).normal(size=(2, 3, 3))
    plain = dataclasses.replace(LORENZ, jacobian=None)
    np.testing.assert_allclose(ode.jacobian(plain, states), ode.jacobian(LORENZ, states), atol=1e-9)
    np.testing.assert_allclose(ode.numerical_jacobian(np.sin, states)[0, 1], np.diag(np.cos(states[0, 1])), atol=1e-9)


def test_cache_tells_bound_parameters_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    for rate in (1.0, 2.0, np.array([1.0, 2.0])):
        system = ode.System("decay", functools.partial(scaled, rate=rate), None, (1.0,), spread=0.0, transient=0.0)
        if np.ndim(rate):
            system = dataclasses.replace(system, field=functools.partial(scaled, rate=rate[:, None]))
        found = ode.trajectories(system, 0.1, 11, 2)
        np.testing.assert_allclose(found[:, -1, 0], np.exp(-rate * np.ones(2)), atol=1e-9)
    assert len(list(tmp_path.iterdir())) == 3


def test_closures_are_refused():
    rate = 2.0
    system = ode.System("decay", lambda state: -rate * state, None, (1.0,))
    with pytest.raises(ValueError, match="closure"):
        ode.trajectories(system, 0.1, 2, 1)


def own_starts(random, runs):
    return random.uniform(1.0, 2.0, (runs, 3))


def test_starts_spread_and_transient(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    assert dataclasses.replace(LORENZ, spread=(0.0, 0.0, 1.0)).draw(5)[:, :2].max() == 0
    system = dataclasses.replace(LORENZ, starts=own_starts, transient=0.0)
    first = ode.trajectories(system, 0.01, 3, 4)[:, 0]
    np.testing.assert_array_equal(first, system.draw(4))
    assert (first > 1).all() and (first < 2).all()
