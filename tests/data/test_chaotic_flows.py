"""The twelve chaotic flows: terms, Jacobians, divergences, bounded motion."""

import numpy as np
import pytest

from touchstone.data import chaotic_flows, ode
from touchstone.data.chaotic_flows import CHAOS12, QUADRATIC

STATES = np.random.default_rng(0).normal(size=(4, 3, 3))


def test_there_are_twelve_with_scales_and_eleven_with_terms():
    assert len(CHAOS12) == 12 and set(QUADRATIC) == set(CHAOS12) - {"thomas"}
    assert all(system.exponent > 0 and system.period > 0 for system in CHAOS12.values())


@pytest.mark.parametrize("name", CHAOS12)
def test_jacobian_and_batching(name):
    system = CHAOS12[name]
    states = 3 * np.random.default_rng(1).normal(size=(2, 5, len(system.centre)))
    np.testing.assert_allclose(system.jacobian(states), ode.numerical_jacobian(system.field, states), atol=1e-9)
    np.testing.assert_allclose(system.field(states)[1, 2], system.field(states[1, 2]), atol=1e-13)
    np.testing.assert_allclose(system.jacobian(states)[1, 2], system.jacobian(states[1, 2]), atol=1e-13)


def test_terms_agree_with_the_written_systems():
    np.testing.assert_allclose(QUADRATIC["lorenz-63"](STATES), ode.lorenz63(STATES), atol=1e-13)
    ring = np.random.default_rng(2).normal(size=(6, 5))
    np.testing.assert_allclose(QUADRATIC["lorenz-96-5"](ring), ode.lorenz96(ring), atol=1e-13)


def test_formulas():
    x, y, z = np.moveaxis(STATES, -1, 0)
    expected = {
        "roessler": (-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)),
        "chen": (35 * (y - x), (28 - 35) * x - x * z + 28 * y, x * y - 3 * z),
        "halvorsen": (
            -1.4 * x - 4 * y - 4 * z - y**2,
            -1.4 * y - 4 * z - 4 * x - z**2,
            -1.4 * z - 4 * x - 4 * y - x**2,
        ),
        "sprott-b": (y * z, x - y, 1 - x * y),
        "sprott-c": (y * z, x - y, 1 - x**2),
        "rucklidge": (-2 * x + 6.7 * y - y * z, x, -z + y**2),
        "hadley": (-(y**2) - z**2 - 0.2 * x + 0.2 * 9, x * y - 4 * x * z - y + 1, 4 * x * y + x * z - z),
        "rikitake": (-x + z * y, -y + (z - 1) * x, 1 - x * y),
        "dadras": (y - 3 * x + 2.7 * y * z, 1.7 * y - x * z + z, 2 * x * y - 9 * z),
        "thomas": (np.sin(y) - 0.18 * x, np.sin(z) - 0.18 * y, np.sin(x) - 0.18 * z),
    }
    for name, rate in expected.items():
        np.testing.assert_allclose(CHAOS12[name].field(STATES), np.stack(rate, -1), atol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", ["rikitake", "dadras", "rucklidge"])
def test_starts_stay_bounded_and_move(name):
    system = CHAOS12[name]
    states = ode.integrate(system, system.draw(6), np.linspace(20, 40, 50), 1e-5)
    assert np.abs(states).max() < 60 and states.std((0, 1)).min() > 0.3


def test_wrong_terms_are_named():
    with pytest.raises(ValueError, match="'xw'"):
        chaotic_flows.Quadratic(({"xw": 1}, {}, {}))
    with pytest.raises(ValueError, match="2 right-hand sides for 3"):
        chaotic_flows.Quadratic(({"x": 1}, {}))
