"""The echo state network predicts a signal that it can predict, and says what is wrong with bad input."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.dynamics.reservoir import EchoStateNetwork, fit_echo_state_network


def test_continues_a_quasi_periodic_signal():
    time = 0.2 * np.arange(1500)
    series = np.stack([np.sin(time), np.cos(time), np.sin(np.sqrt(2) * time)], 1)
    network = fit_echo_state_network(series[:1200], seed=0, nodes=100, ridge=1e-9)
    run = network.free_run(series[None, 1000:1200], 100)
    assert run.shape == (1, 100, 3)
    assert np.abs(run[0] - series[1200:1300]).max() < 0.05
    radius = np.abs(np.linalg.eigvals(network.recurrent)).max()
    assert radius == pytest.approx(0.9)
    again = fit_echo_state_network(series[:1200], seed=0, nodes=100, ridge=1e-9)
    np.testing.assert_array_equal(network.readout, again.readout)


def test_bad_input_is_named():
    fit = unchecked(fit_echo_state_network)
    with pytest.raises(ValueError, match="series"):
        fit(np.full((300, 2), np.nan), 0)
    with pytest.raises(ValueError, match="series"):
        fit(np.zeros((0, 2)), 0)
    with pytest.raises(ValueError, match="series"):
        fit(np.zeros((50, 2)), 0)
    network = fit_echo_state_network(np.random.default_rng(0).normal(size=(200, 2)), 0, nodes=10)
    with pytest.raises(ValueError, match="warmup"):
        unchecked(EchoStateNetwork.free_run)(network, np.zeros((1, 0, 2)), 3)
