"""Sparse identification: monomials, rates, dropped terms, and the Lorenz equations out of a series."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import ode
from touchstone.dynamics import sindy


def lorenz(steps=1500, dt=0.005):
    start = np.array([[1.0, 2.0, 20.0]])
    return ode.integrate(ode.LORENZ63, start, dt * np.arange(steps), 1e-9)[0]


def test_monomials_are_those_of_two_states():
    exponents = sindy.monomial_exponents(2, 2)
    assert exponents.tolist() == [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    np.testing.assert_allclose(sindy.monomials(np.array([3.0, -2.0]), exponents), [1, 3, -2, 9, -6, 4])
    assert sindy.monomials(np.zeros((4, 1, 2)), exponents).shape == (4, 1, 6)
    assert len(sindy.monomial_exponents(3, 3)) == 20


def test_rates_are_of_fourth_order():
    def error(dt):
        time = 1 + dt * (np.arange(9) - 4)
        states, slope = sindy.rates(np.sin(time)[:, None], dt)
        np.testing.assert_array_equal(states[:, 0], np.sin(time)[2:-2])
        return np.abs(slope[2, 0] - np.cos(time[4]))

    assert 14 < error(0.2) / error(0.1) < 18


def test_small_coefficients_are_dropped_and_the_rest_fitted_again():
    features = np.random.default_rng(0).standard_normal((500, 6))
    truth = np.zeros((6, 2))
    truth[1, 0], truth[4, 0], truth[2, 1] = 2.0, -0.5, 1.0
    targets = features @ truth + 0.01 * np.random.default_rng(1).standard_normal((500, 2))
    found = sindy.stlsq(features, targets, threshold=0.1, ridge=0.0)
    assert np.array_equal(found != 0, truth != 0)
    alone = np.linalg.lstsq(features[:, [1, 4]], targets[:, 0], rcond=None)[0]
    np.testing.assert_allclose(found[[1, 4], 0], alone, rtol=1e-10)
    assert not np.any(sindy.stlsq(features, targets, threshold=5.0))


def test_the_lorenz_equations_come_out_of_a_series_and_run_freely():
    series = lorenz()
    found = sindy.fit_sindy(series, 0.005, threshold=0.1)
    assert found.terms == 7
    point = np.array([[3.0, -4.0, 22.0]])
    np.testing.assert_allclose(found.field(point), ode.lorenz63(point), rtol=2e-3)
    run = found.simulate(series[None, :100], 200)[0]
    assert run.shape == (200, 3)
    assert np.abs(run - series[100:300]).max() < 0.2


def test_a_run_that_leaves_all_bounds_is_returned():
    field = sindy.SparseField(np.array([[2]]), np.array([[1.0]]), 0.5)
    assert not np.isfinite(field.simulate(np.ones((1, 1, 1)), 40)).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="series has 4 states"):
        unchecked(sindy.rates)(np.zeros((4, 2)), 0.1)
    with pytest.raises(ValueError, match="dt is 0.0"):
        unchecked(sindy.fit_sindy)(np.zeros((9, 2)), 0.0)
    with pytest.raises(ValueError, match="series holds 1 NaN"):
        unchecked(sindy.fit_sindy)(np.array([[0.0], [1.0], [np.nan], [0.0], [0.0]]), 0.1)
    with pytest.raises(ValueError, match="targets has shape"):
        unchecked(sindy.stlsq)(np.ones((4, 2)), np.ones((3, 1)), 0.1)
    with pytest.raises(ValueError, match="threshold is -1"):
        unchecked(sindy.stlsq)(np.ones((4, 2)), np.ones((4, 1)), -1.0)
    with pytest.raises(ValueError, match="dim is 0"):
        sindy.monomial_exponents(0, 2)
    with pytest.raises(ValueError, match="past"):
        sindy.fit_sindy(lorenz(50), 0.005).simulate(np.full((1, 1, 3), np.nan), 2)
