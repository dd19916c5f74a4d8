"""Methods of this part in its ring: the almost-linear network, generalized teacher forcing, the echo state network, forecasters, SINDy."""

import time

import numpy as np
import pytest

from touchstone.arena import Budget, entrants
from touchstone.dynamics import (
    al_rnn_entrant,
    echo_state_entrant,
    forecasters_entrant,
    generalized_teacher_forcing_entrant,
    sindy_entrant,
)
from touchstone.dynamics.al_rnn_entrant import forcing_interval
from touchstone.dynamics.protocol import Series, Simulator

ANGLE = 0.15 * np.arange(400)
CIRCLE = np.sqrt(2) * np.stack([np.cos(ANGLE), np.sin(ANGLE)], 1)
SERIES = Series("circle", CIRCLE, 0.1)
ENTRANTS = {
    "al-rnn": al_rnn_entrant.learn,
    "generalized-teacher-forcing": generalized_teacher_forcing_entrant.learn,
    "echo-state": echo_state_entrant.learn,
    "nvar": forecasters_entrant.regress,
    "n-beats": forecasters_entrant.learn,
    "sindy": sindy_entrant.identify,
}
AT_ONCE = ("echo-state", "nvar", "sindy")  # fitted in closed form, whatever the budget


@pytest.mark.parametrize("name", ENTRANTS)
def test_it_enters_learns_a_rotation_and_keeps_runs_apart(name):
    learn = ENTRANTS[name]
    assert entrants("dynamics")[name] is learn
    budget = Budget(2.5)
    simulator = learn(SERIES, budget, 0)
    assert isinstance(simulator, Simulator) and (name in AT_ONCE or 1.5 < budget.spent() < 2.8)
    past = np.stack([CIRCLE[:150], CIRCLE[41:191]])
    truth = np.stack([CIRCLE[150:158], CIRCLE[191:199]])
    run = simulator.simulate(past, 8)
    assert run.shape == (2, 8, 2) and run.dtype == np.float64
    assert (run - truth).std() < 0.8 * (past[:, -1:] - truth).std()
    assert np.allclose(run[1:], simulator.simulate(past[1:], 8), atol=1e-9)
    assert np.allclose(run[:, :2], simulator.simulate(past, 2), atol=1e-12)
    with pytest.raises(ValueError, match="past is empty"):
        simulator.simulate(past[:, :0], 1)


@pytest.mark.parametrize("name", ["al-rnn", "generalized-teacher-forcing"])
def test_training_stops_when_the_budget_ends_early(name):
    class Halved(Budget):
        """Ends at half of what it says."""

        def spent(self):
            used = super().spent()
            return used if used < 0.5 * self.seconds else self.seconds

    budget, begin = Halved(1.2), time.process_time()
    simulator = ENTRANTS[name](SERIES, budget, 0)
    assert 0.6 <= time.process_time() - begin < 0.9
    assert np.isfinite(simulator.simulate(CIRCLE[None, :5], 20)).all()


@pytest.mark.parametrize("name", ENTRANTS)
def test_a_short_or_broken_series_is_refused(name):
    learn = ENTRANTS[name]
    with pytest.raises(ValueError, match="series has 60"):
        learn(Series("short", CIRCLE[:60], 0.1), Budget(1.0), 0)
    with pytest.raises(ValueError, match="series"):
        learn(Series("broken", np.where(CIRCLE > 1.414, np.nan, CIRCLE), 0.1), Budget(1.0), 0)


def test_seeds_differ():
    past = CIRCLE[None, :150]
    first, second = (echo_state_entrant.learn(SERIES, Budget(1.0), seed).simulate(past, 50) for seed in (0, 1))
    assert 0 < np.abs(first - second).max()


def test_the_state_is_replaced_five_times_a_period():
    steps = np.arange(2000)
    for period, interval in ((20, 4), (50, 10), (76, 16), (300, 16), (3, 1)):
        assert forcing_interval(np.sin(2 * np.pi * steps / period)[:, None]) == interval
    assert forcing_interval(CIRCLE[:30]) == 16  # too short to tell


def test_many_states_get_more_units():
    wide = np.concatenate([CIRCLE, np.roll(CIRCLE, 1, 0)] * 4, 1)
    model = al_rnn_entrant.fit_al_rnn(wide, Budget(0.2), 0).model
    assert model.A.shape == (1, 26) and model.rectified == [2]


def test_a_linear_field_is_identified_and_a_single_variable_declined():
    spiral = CIRCLE * np.exp(-0.003 * np.arange(400))[:, None]  # on a circle cubic terms repeat the linear ones
    field = sindy_entrant.fit_smoothed(spiral, 0.1)
    turn = 0.15 / sindy_entrant.STEP  # rate of the rotation in the ring's units
    named = dict(zip(map(tuple, field.exponents), field.coefficients, strict=True))
    assert field.terms == 2
    assert named[(0, 1)][0] == pytest.approx(-turn, rel=5e-3) and named[(1, 0)][1] == pytest.approx(turn, rel=5e-3)
    with pytest.raises(ValueError, match="a single observed variable is no state"):
        sindy_entrant.identify(Series("one", CIRCLE[:, :1], 0.1), Budget(1.0), 0)
