"""dysts: every listed flow is dysts' own, batched; annotations; errors."""

import builtins

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import dysts_systems, ode


def test_every_flow_is_dysts_own_right_hand_side():
    names = dysts_systems.names()
    assert len(names) == 128 and "Lorenz" in names and "MackeyGlass" not in names
    random, slow = np.random.default_rng(3), 0
    for name in names:
        system = dysts_systems.system(name)
        original = system.field.model  # dysts' own object
        centre = np.array(system.centre)
        states = centre + 0.05 * np.abs(centre).mean() * random.standard_normal((2, 2, len(centre)))
        with np.errstate(all="ignore"):
            rate = unchecked(type(system.field).__call__)(system.field, states)
            own = np.array([np.asarray(original.rhs(one, 0.7), float) for one in states.reshape(4, -1)])
        np.testing.assert_allclose(rate.reshape(4, -1), own, rtol=1e-12, err_msg=name)
        assert np.isfinite(rate).all(), name
        assert system.exponent is not None and system.period > 0
        assert np.isfinite(system.spread).all() and min(system.spread) > 0, name
        slow += not system.field.vectorised
    assert slow <= 18


def test_trajectory_of_a_flow(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    states = ode.trajectories(dysts_systems.system("SprottA"), 0.1, 20, 2)
    assert states.shape == (2, 20, 3) and np.isfinite(states).all()


def test_annotations_and_parameters():
    known = dysts_systems.annotations("Lorenz")
    assert known["parameters"] == {"beta": 2.667, "rho": 28, "sigma": 10}
    assert known["maximum_lyapunov_estimated"] == pytest.approx(0.89, abs=0.02)
    assert dysts_systems.annotations("MackeyGlass")["delay"]
    system = dysts_systems.system("Lorenz", beta=8 / 3)
    assert system.exponent is None and system.period is None
    state = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(system.field(state), ode.lorenz63(state))
    np.testing.assert_allclose(ode.jacobian(system, state), ode.lorenz63_jacobian(state), atol=1e-9)
    assert ode.source(system.field) != ode.source(dysts_systems.system("Lorenz").field)


def test_the_global_generator_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    dysts_systems.model("Rossler")
    assert np.random.rand() == expected  # noqa: NPY002


def test_errors():
    with pytest.raises(ValueError, match="did you mean 'Lorenz'"):
        dysts_systems.system("Lorens")
    with pytest.raises(ValueError, match="delay"):
        dysts_systems.system("MackeyGlass")
    with pytest.raises(ValueError, match="no parameter 'gamma'"):
        dysts_systems.system("Lorenz", gamma=1.0)


def test_without_dysts_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **options):
        if name.startswith("dysts"):
            raise ModuleNotFoundError("No module named 'dysts'", name="dysts")
        return real(name, *rest, **options)

    unchecked(dysts_systems._flows)  # the cached function itself
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", missing)
        dysts_systems._flows.cache_clear()
        with pytest.raises(ModuleNotFoundError, match="pip install dysts"):
            dysts_systems._flows()
    dysts_systems._flows.cache_clear()
