"""Mechanical systems by name: invariants, families of parameters, errors."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import mechanics, ode, regular
from touchstone.metrics.attractors import conservation_drift

CONSERVATIVE = {"duffing": {"damping": 0.0}, **{n: {} for n in regular.KINDS if n not in ("duffing",)}}
CONSERVATIVE = {n: p for n, p in CONSERVATIVE.items() if regular.system(n, **p).invariants}


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_invariants_are_conserved(name):
    system = regular.system(name, **CONSERVATIVE[name])
    states = ode.integrate(system, system.draw(3, seed=1), np.linspace(0, 2 * system.period, 30))
    for invariant, function in system.invariants.items():
        assert conservation_drift(function, states, 1.0).max() < 1e-8, invariant
        # and not because it is constant everywhere
        assert np.ptp(function(system.draw(5))) > 1e-3


@pytest.mark.parametrize("name", regular.KINDS)
def test_batched_is_single_and_each_run_has_its_parameter(name):
    system = regular.system(name)
    states = system.draw(6).reshape(2, 3, -1)
    np.testing.assert_allclose(system.field(states)[1, 2], system.field(states[1, 2]), atol=1e-14)
    key = next(iter(regular._defaults(regular.KINDS[name].field)))
    family = regular.system(name, **{key: np.array([0.9, 1.1, 1.3])})
    single = regular.system(name, **{key: 1.3})
    np.testing.assert_allclose(family.field(states)[1, 2], single.field(states[1, 2]), atol=1e-14)
    np.testing.assert_allclose(
        ode.jacobian(family, states)[1, 2], ode.jacobian(single, states[1, 2]), rtol=1e-7, atol=1e-9
    )


def test_families_have_their_own_trajectories_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    lengths = [np.array([1.0, 1.2]), np.array([1.0, 1.3])]
    found = [ode.trajectories(regular.system("pendulum", length=value), 0.1, 20, 2) for value in lengths]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-9)  # the runs share their steps, so not exactly
    assert np.abs(found[0][1] - found[1][1]).max() > 1e-3
    drift = conservation_drift(regular.system("pendulum", length=lengths[0]).invariants["energy"], found[0])
    assert drift.max() < 1e-8
    assert len(list(tmp_path.iterdir())) == 2


def test_period_of_the_large_pendulum():
    # 4 K(sin^2(theta0 / 2)) for a release at rest from theta0
    from scipy.special import ellipk

    angle, period = 2.0, 4 * ellipk(np.sin(1.0) ** 2)
    states = ode.integrate(regular.system("pendulum"), np.array([[angle, 0.0]]), np.array([period / 2, period]))
    np.testing.assert_allclose(states[0], [[-angle, 0], [angle, 0]], atol=1e-8)


@pytest.mark.parametrize("name", ["pendulum", "lotka-volterra", "spring-mass", "duffing", "cart-pole"])
def test_annotated_period_is_that_of_small_oscillations(name):
    rest = {
        "lotka-volterra": [3.0, 1.5],
        "duffing": [1.0, 0.0],
        "cart-pole": [0.0, 0.0, np.pi, 0.0],
    }.get(name, [0.0, 0.0])
    system = regular.system(name)
    roots = np.linalg.eigvals(ode.jacobian(system, np.array(rest)))
    # the damped frequency of the Duffing well differs by a hundredth of its square
    assert 2 * np.pi / np.abs(roots).max() == pytest.approx(system.period, rel=1e-6)


def test_damping_dissipates_and_has_no_invariant():
    system = regular.system("pendulum", damping=0.1)
    assert not system.invariants
    states = ode.integrate(system, np.array([[1.0, 0.0]]), np.linspace(0, 20, 40))[0]
    assert (np.diff(mechanics.pendulum_energy(states)) <= 1e-9).all()
    assert not regular.system("cart-pole", push=1.0).invariants


def test_cart_pole_against_its_lagrangian():
    # the defining equations, with both accelerations put back
    state, push = np.array([0.1, 0.5, 0.7, -1.3]), 2.0
    _, acceleration, _, turn = mechanics.cart_pole(state, push)
    sine, cosine = np.sin(0.7), np.cos(0.7)
    assert 1.1 * acceleration + 0.05 * (cosine * turn - sine * 1.3**2) == pytest.approx(push)
    assert cosine * acceleration + 0.5 * turn == pytest.approx(9.8 * sine)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'pendulum'"):
        regular.system("pendulm")
    with pytest.raises(ValueError, match="no parameter 'lenght'"):
        regular.system("pendulum", lenght=1.0)
    with pytest.raises(ValueError, match="start"):
        unchecked(ode.integrate)(regular.system("pendulum"), np.full((1, 2), np.nan), np.array([1.0]))
