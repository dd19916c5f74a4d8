"""Tests of the house baselines and of what simulators share."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget, entrants
from touchstone.dynamics.baselines import best_memory, fit_dmd, fit_simplex, persistence
from touchstone.dynamics.lstm import LSTM, fit_lstm
from touchstone.dynamics.protocol import embedded

ANGLE = 0.3 * np.arange(400)
CIRCLE = np.stack([np.cos(ANGLE), np.sin(ANGLE)], 1)


def continued(simulator, series, start, steps):
    """A forecast from one place of a series, and the truth."""
    return simulator.simulate(series[None, :start], steps)[0], series[start : start + steps]


def test_delay_vectors_hold_the_oldest_state_first():
    series = np.arange(10.0).reshape(5, 2)
    assert embedded(series, 2).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]


def test_persistence_stays():
    forecast, _ = continued(persistence(), CIRCLE, 7, 4)
    assert (forecast == CIRCLE[6]).all()


def test_dmd_continues_affine_maps_exactly():
    turn = np.array([[0.9, 0.4], [-0.3, 0.95]])
    series = [np.array([1.0, -1.0])]
    for _ in range(60):
        series.append(turn @ series[-1] + np.array([0.3, 0.1]))
    series = np.stack(series)
    series = series / np.abs(series).max()
    forecast, truth = continued(fit_dmd(series[:40], ridge=0.0), series, 20, 30)
    assert np.abs(forecast - truth).max() < 1e-8


def test_delays_let_dmd_see_what_is_hidden():
    hidden = CIRCLE[:, :1]  # one coordinate of a rotation is no state
    forecast, truth = continued(fit_dmd(hidden, 2), hidden, 100, 50)
    blind, _ = continued(fit_dmd(hidden, 1), hidden, 100, 50)
    assert np.abs(forecast - truth).max() < 1e-3 < 0.3 < np.abs(blind - truth).max()
    assert best_memory(fit_dmd, hidden) > 1


def test_a_short_series_has_its_memory_chosen_by_shorter_forecasts():
    assert best_memory(fit_dmd, CIRCLE[:110, :1]) > 1
    with pytest.raises(ValueError, match="this method needs 100 or more"):
        best_memory(fit_dmd, CIRCLE[:60])


def test_simplex_repeats_the_record_where_it_has_been():
    forecast, truth = continued(fit_simplex(CIRCLE), CIRCLE, 50, 1)
    assert np.abs(forecast - truth).max() < 1e-12  # the nearest neighbour is the state itself
    off, _ = continued(fit_simplex(CIRCLE[:300]), CIRCLE, 350, 5)
    assert np.abs(off - CIRCLE[350:355]).max() < 0.05


def test_simplex_moves_with_its_neighbours():
    drift = np.stack([np.arange(50.0), np.zeros(50)], 1)  # every neighbour moves by (1, 0)
    assert np.allclose(
        fit_simplex(drift).simulate(np.array([[[7.4, 0.2]]]), 3)[0], [[8.4, 0.2], [9.4, 0.2], [10.4, 0.2]]
    )


@pytest.mark.parametrize("make", [persistence, lambda: fit_dmd(CIRCLE, 3), lambda: fit_simplex(CIRCLE, 2)])
def test_runs_do_not_touch_each_other_and_can_be_continued(make):
    simulator = make()
    pasts = np.stack([CIRCLE[10:20], CIRCLE[40:50]])
    both = simulator.simulate(pasts, 8)
    assert both.shape == (2, 8, 2)
    assert np.allclose(both[1:], simulator.simulate(pasts[1:], 8), atol=1e-12)
    later = simulator.simulate(np.concatenate([pasts, both[:, :3]], 1), 5)
    assert np.allclose(later, both[:, 3:], atol=1e-12)


def test_lstm_feeds_itself_its_own_answers():
    torch.manual_seed(0)
    network = LSTM(2, 5, torch.tensor([0.1, 0.2]))
    past = CIRCLE[None, :6]
    run = network.simulate(past, 3)
    heard = torch.as_tensor(np.concatenate([past, run[:, :2]], 1)).float()
    assert np.allclose(run, network(heard)[0][:, 5:].detach().numpy(), atol=1e-6)


def test_lstm_learns_a_rotation():
    network = fit_lstm(CIRCLE, Budget(3.0), 0, width=16, window=16)
    forecast, truth = continued(network, CIRCLE, 60, 4)
    assert np.abs(forecast - truth).max() < 0.3 < np.abs(CIRCLE[59] - truth).max()


def test_house_baselines_enter():
    assert {"persistence", "dmd", "simplex", "lstm"} <= set(entrants("dynamics"))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="series has 2 states: this method needs 4"):
        fit_dmd(CIRCLE[:2])
    with pytest.raises(ValueError, match="series holds 1 NaN"):
        fit_simplex(np.where(np.arange(400)[:, None] == 3, [[np.nan, 0.0]], CIRCLE))
    with pytest.raises(ValueError, match="past has 1 states a run: this simulator needs the last 3"):
        fit_dmd(CIRCLE, 3).simulate(CIRCLE[None, :1], 2)
    with pytest.raises(ValueError, match="past is empty"):
        persistence().simulate(CIRCLE[None, :0], 2)
    with pytest.raises(ValueError, match="series has shape"):
        unchecked(fit_dmd)(CIRCLE[None])
    with pytest.raises(ValueError, match="series has 20 states: this method needs 128"):
        fit_lstm(CIRCLE[:20], Budget(1.0), 0)
