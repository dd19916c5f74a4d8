"""Tests of what contestants of the part meet, and of the judge."""

from dataclasses import dataclass

import numpy as np
import pytest

from touchstone.arena import ring
from touchstone.dynamics import challenges
from touchstone.dynamics.baselines import persistence
from touchstone.dynamics.challenges import CHALLENGES, DROP, KEPT, PAST, SIX, STARTS, every_nth, score
from touchstone.dynamics.ring import FIRST, RING


@dataclass
class Oracle:
    """Knows the test runs by heart, up to a disturbance."""

    name: str
    off: float = 0.0

    def simulate(self, past, steps):
        truth = CHALLENGES[self.name].test[1]
        assert past.shape[:2] == (STARTS, PAST) and truth.shape[1] == steps
        return truth + self.off


def test_the_rule_picks_the_six():
    assert every_nth() == list(SIX)
    assert every_nth(1) == [every_nth(3)[0]]


def test_the_ring_has_eleven_series_and_three_long_runs():
    assert ring("dynamics") is RING and len(CHALLENGES) == 11 and len(RING.seeds) == 3
    assert set(RING.problems) == set(CHALLENGES) | {f"{name}-long" for name in FIRST}
    assert RING.budget("lorenz-63") == 20 and RING.budget("lorenz-63-long") == 60


def test_series_are_standardised_noisy_and_repeatable():
    challenge = CHALLENGES["lorenz-63"]
    series = challenge.series()
    assert series.states.shape == (challenges.LENGTH, 3) and np.array_equal(series.states, challenge.series().states)
    assert np.allclose(series.states.std(0), 1, atol=0.01) and np.allclose(series.states.mean(0), 0, atol=0.01)
    jump = np.diff(series.states, n=3, axis=0).std(0) / np.sqrt(20)  # what is left of a smooth curve is noise
    assert (jump < 0.02).all() and (jump > 0.009).all()
    assert series.dt == pytest.approx(0.759 / 50)


def test_one_coordinate_is_seen_of_the_partial_one():
    part, whole = CHALLENGES["lorenz-63-partial"], CHALLENGES["lorenz-63"]
    assert part.series().states.shape[1] == 1 and part.noise == 0.1
    assert np.allclose(part.test[1][..., 0], whole.test[1][..., 0])


def test_pasts_lead_to_the_starts():
    past, truth = CHALLENGES["lorenz-63"].test
    assert past.shape == (STARTS, PAST, 3) and truth.shape[1] >= DROP + KEPT
    assert np.abs(past[:, -1] - truth[:, 0]).max() < 0.3 < np.abs(past[:, 0] - truth[:, 0]).max()


def test_the_judge_knows_perfect_lost_and_shifted_runs():
    series = CHALLENGES["lorenz-63"].series()
    perfect, shifted, stuck = (
        score(Oracle("lorenz-63"), series),
        score(Oracle("lorenz-63", 0.5), series),
        score(persistence(), series),
    )
    lost = score(Oracle("lorenz-63", np.inf), series)
    assert perfect["VPT"] == pytest.approx(20, abs=0.1) and perfect["D_stsp"] < 1e-9 and perfect["D_H"] < 1e-9
    assert shifted["VPT"] == 0 and shifted["D_stsp"] > 1 and shifted["D_H"] < 1e-9  # spectra do not see a shift
    assert stuck["VPT"] < 1 and stuck["D_stsp"] > 5 and stuck["D_H"] == 1
    assert lost["VPT"] == 0 and lost["D_H"] == 1 and lost["D_stsp"] > 5


def test_the_partial_one_is_judged_in_delays():
    series = CHALLENGES["lorenz-63-partial"].series()
    assert score(Oracle("lorenz-63-partial"), series)["D_stsp"] < 1e-9
    assert score(persistence(), series)["D_stsp"] > 2


def test_the_oscillators_phase_is_a_point_of_the_circle():
    seen = challenges._with_phase(np.array([[1.0, 2.0, np.pi], [1.0, 2.0, 3 * np.pi]]))
    assert np.allclose(seen, [[1, 2, -1, 0]] * 2)
    assert KEPT == 2000
