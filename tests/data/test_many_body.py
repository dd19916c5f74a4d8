"""Particles: forces from energies, invariants, hidden sources, families, errors."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import many_body, ode
from touchstone.data.many_body import POTENTIALS, Bodies
from touchstone.metrics.attractors import conservation_drift

RANDOM = np.random.default_rng(0)
MASSES = np.array([1.0, 0.7, 1.4])
CHARGES = np.array([1.0, -1.0, 2.0])


@pytest.mark.parametrize("potential", POTENTIALS)
def test_force_is_the_slope_of_the_energy(potential):
    bodies = Bodies(MASSES, potential, CHARGES, np.array([[2.0, 1.0], [-1.0, 3.0]]), np.array([1.0, -2.0]), 0.1)
    state = RANDOM.normal(size=(4, 12))
    gradient = unchecked(ode.numerical_jacobian)(lambda x: bodies.energy(x)[..., None], state)[..., 0, :]
    velocity, acceleration = bodies.split(bodies(state))
    by_place, by_velocity = bodies.split(gradient)
    np.testing.assert_allclose(-MASSES[:, None] * acceleration, by_place, atol=1e-7)
    np.testing.assert_allclose(MASSES[:, None] * velocity, by_velocity, atol=1e-7)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_invariants_are_conserved(potential):
    bodies = Bodies(MASSES, potential, CHARGES, softening=0.3)
    system = bodies.system("bodies", lambda random, runs: many_body.box_starts(random, runs, 3))
    assert set(system.invariants) == {"energy", "momentum 0", "momentum 1", "angular momentum"}
    states = ode.integrate(system, system.draw(3), np.linspace(0, 3, 20))
    for name, function in system.invariants.items():
        assert conservation_drift(function, states, 1.0).max() < 1e-8, name


def test_a_field_of_sources_keeps_only_the_energy():
    system = many_body.charged_particles(np.array([1.0, -1.0]), np.array([[1.0, 2.0]]), np.array([3.0]))
    assert set(system.invariants) == {"energy"}
    states = ode.integrate(system, system.draw(2), np.linspace(0, 3, 20))
    assert conservation_drift(system.invariants["energy"], states, 1.0).max() < 1e-8
    free = many_body.charged_particles(np.array([1.0, -1.0]))
    assert not np.allclose(free.field(system.draw(2)), system.field(system.draw(2)))
    assert ode.source(free.field) != ode.source(system.field)


def test_batched_is_single_and_runs_may_differ():
    masses = np.array([[1.0, 1.1, 0.9], [0.95, 1.0, 1.05]])
    state = RANDOM.normal(size=(2, 12))
    together = Bodies(masses, softening=0.05)(state)
    for i in range(2):
        np.testing.assert_allclose(together[i], Bodies(masses[i], softening=0.05)(state[i]), atol=1e-13)
    system = many_body.springs(3)
    states = ode.integrate(system, system.draw(2), np.linspace(0, 2, 9))
    assert conservation_drift(system.invariants["energy"], states).max() < 1e-8


def test_opposite_charges_attract():
    bodies = Bodies(np.ones(2), "charge", np.array([1.0, -1.0]))
    pull = bodies.split(bodies(np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])))[1]
    np.testing.assert_allclose(pull, [[1, 0], [-1, 0]])


def test_errors_name_the_argument():
    def make(*arguments, **options):
        unchecked(Bodies.__init__)(object.__new__(Bodies), *arguments, **options)

    with pytest.raises(ValueError, match="did you mean 'gravity'"):
        make(np.ones(2), "gravty")
    with pytest.raises(ValueError, match="masses"):
        make(np.zeros(2))
    with pytest.raises(ValueError, match="charges"):
        make(np.ones(2), charges=np.ones(3))
    with pytest.raises(ValueError, match="sources"):
        make(np.ones(2), sources=np.ones((1, 3)))
