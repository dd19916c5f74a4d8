"""Kepler, two and three bodies against closed forms."""

import numpy as np
import pytest

from touchstone.data import ode, orbits
from touchstone.metrics.attractors import conservation_drift


@pytest.mark.parametrize(
    "system", [orbits.kepler(), orbits.two_body(), orbits.three_body()], ids=lambda system: system.name
)
def test_invariants_are_conserved(system):
    states = ode.integrate(system, system.draw(2), np.linspace(0, 0.5 * system.period, 30))
    for name, function in system.invariants.items():
        assert conservation_drift(function, states, 1.0).max() < 1e-8, name


def test_kepler_ellipses_close_after_their_own_period():
    system = orbits.kepler()
    start = system.draw(4)
    axis = -0.5 / system.invariants["energy"](start)
    assert (axis > 0.6).all() and (axis < 1.6).all()
    eccentricity = np.sqrt(1 - system.invariants["angular momentum"](start) ** 2 / axis)
    assert (eccentricity < 0.5).all()
    for i in range(2):
        end = ode.integrate(system, start[i : i + 1], np.array([2 * np.pi * axis[i] ** 1.5]))[0, 0]
        np.testing.assert_allclose(end, start[i], atol=1e-7)


@pytest.mark.parametrize("count, period", [(2, 4 * np.pi), (3, 2 * np.pi * 3**0.25)])
def test_unshaken_rings_turn_in_the_annotated_period(count, period):
    start = orbits.ring_starts(np.random.default_rng(0), 1, count, low=1.0, high=1.0, shake=0.0)
    system = {2: orbits.two_body, 3: orbits.three_body}[count](softening=0.0)
    assert system.period == pytest.approx(period)
    end = ode.integrate(system, start, np.array([period / count]))[0, 0]
    # each body is where the next one was
    np.testing.assert_allclose(end.reshape(2, count, 2), np.roll(start.reshape(2, count, 2), -1, 1), atol=1e-7)


def test_masses_may_differ_from_run_to_run():
    masses = np.array([[1.0, 1.0, 1.0], [0.9, 1.0, 1.1]])
    system = orbits.three_body(masses)
    states = ode.integrate(system, system.draw(2), np.linspace(0, 2, 10))
    assert conservation_drift(system.invariants["energy"], states).max() < 1e-8
