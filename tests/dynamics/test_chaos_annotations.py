"""Annotations of chaotic systems against closed forms and known values."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data import chaotic_flows, ode
from touchstone.data.trajectory import lyapunov_spectrum
from touchstone.dynamics import chaos_annotations as notes
from touchstone.metrics.attractors import lyapunov_exponents

# without the run-time shape checks, which cost more than the arithmetic
LORENZ = dataclasses.replace(
    ode.LORENZ63, field=unchecked(ode.lorenz63), jacobian=unchecked(ode.lorenz63_jacobian), transient=10.0
)
ROESSLER = dataclasses.replace(
    chaotic_flows.CHAOS12["roessler"],
    field=functools.partial(unchecked(chaotic_flows.Quadratic.__call__), chaotic_flows.QUADRATIC["roessler"]),
    jacobian=functools.partial(unchecked(chaotic_flows.Quadratic.jacobian), chaotic_flows.QUADRATIC["roessler"]),
    transient=40.0,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ode, "tangent_step", unchecked(ode.tangent_step))


def test_largest_exponent_of_lorenz_from_a_million_steps():
    start = ode.trajectories(LORENZ, 0.5, 50, 20, transient=30.0).reshape(1000, 3)

    def advance(states, tangents):
        for _ in range(10):
            states, tangents = ode.tangent_step(LORENZ, 0.01, states, tangents)
        return states, tangents

    found = unchecked(lyapunov_exponents)(advance, start, 100, 0.1, 1, drop=45)  # a thousand runs of a thousand steps
    error = found.std() / np.sqrt(len(found))
    assert error < 0.01 and found.mean() == pytest.approx(0.906, rel=0.03)


def test_the_spectrum_of_lorenz_sums_to_its_divergence():
    spectrum, _ = lyapunov_spectrum(LORENZ, None, 8, 4.0, 80)
    states = ode.trajectories(LORENZ, 0.1, 50, 2, 5)
    divergence = unchecked(notes.mean_divergence)(LORENZ, states)
    assert divergence == pytest.approx(-10 - 1 - 8 / 3, abs=1e-9)
    assert spectrum.sum() == pytest.approx(divergence, rel=0.01)


def test_the_spectrum_sums_to_a_divergence_that_varies_along_the_orbit():
    start, orbit = ode.trajectories(ROESSLER, 1.0, 10, 2).reshape(20, 3), []

    def advance(states, tangents):
        orbit.append(states)
        return ode.tangent_step(ROESSLER, 0.02, states, tangents)

    found = unchecked(lyapunov_exponents)(advance, start, 300, 0.02, 3, drop=1)
    divergence = unchecked(notes.mean_divergence)(ROESSLER, np.stack(orbit, 1))
    assert found.sum(1).mean() == pytest.approx(divergence, rel=0.01)


def test_kaplan_yorke_dimension():
    assert notes.kaplan_yorke_dimension(np.array([0.906, 0.0, -14.572])) == pytest.approx(2 + 0.906 / 14.572)
    assert notes.kaplan_yorke_dimension(np.array([-3.0, 0.4, -0.5])) == pytest.approx(1 + 0.4 / 0.5)  # in any order
    assert notes.kaplan_yorke_dimension(np.array([-1.0, -2.0])) == 0.0
    assert notes.kaplan_yorke_dimension(np.array([0.0, -2.0])) == 1.0  # a limit cycle
    assert notes.kaplan_yorke_dimension(np.array([1.0, -0.5])) == 2.0


def test_correlation_dimension_of_a_circle_and_a_torus():
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, (1500, 2))
    circle = np.stack([np.cos(angle[:, 0]), np.sin(angle[:, 0])], 1)
    assert notes.correlation_dimension(circle, (1e-3, 3e-2)) == pytest.approx(1.0, abs=0.05)
    torus = np.concatenate([np.cos(angle), np.sin(angle)], 1)  # flat and without an edge
    assert notes.correlation_dimension(torus, (1e-3, 3e-2)) == pytest.approx(2.0, abs=0.1)


def test_neighbours_in_time_are_no_neighbours_in_space():
    random = np.random.default_rng(1)
    path = 0.03 * random.standard_normal((800, 3)).cumsum(0) + random.uniform(-9, 9, (8, 3)).repeat(100, 0)
    assert notes.correlation_dimension(path, apart=99) > notes.correlation_dimension(path) + 0.3


def test_sample_entropy_counts_pairs():
    series = np.random.default_rng(2).normal(size=60)
    counts = []
    for size in (2, 3):
        windows = np.stack([series[i : i + size] for i in range(58)])
        near = np.abs(windows[:, None] - windows[None]).max(-1) <= 0.5
        counts.append(near.sum() - 58)
    assert notes.sample_entropy(series, 0.5) == pytest.approx(np.log(counts[0] / counts[1]))
    assert notes.sample_entropy(np.arange(20.0), 0.5) == np.inf


def test_multiscale_entropy_of_noise_falls_and_of_a_tone_is_small():
    from math import erf, log

    noise = np.random.default_rng(3).normal(size=6000)
    found = notes.multiscale_entropy(noise, (1, 4))
    # two blocks of s independent values differ by less than 0.15 with probability erf(0.075 sqrt(s))
    np.testing.assert_allclose(found, [-log(erf(0.075)), -log(erf(0.15))], atol=0.12)
    tone = np.sin(2 * np.pi * np.arange(3000) / 100.3)
    assert notes.multiscale_entropy(tone, (1, 2, 4)).max() < 0.25 < 1.5 < found.min()


def test_a_period_stands_out_of_noise_only_if_it_is_there():
    random = np.random.default_rng(4)
    red = np.zeros(2400)
    for time in range(1, len(red)):
        red[time] = 0.97 * red[time - 1] + random.standard_normal()
    tone = np.sin(2 * np.pi * np.arange(2400) / 100) * red.std()
    assert notes.period_stands_out(red + tone, 0.1, 10.0)
    assert not notes.period_stands_out(red, 0.1, 10.0)
    assert not notes.period_stands_out(red + tone, 0.1, 31.0)


def test_annotations_agree_with_each_other():
    states = ode.trajectories(LORENZ, LORENZ.period / 100, 2000, 2, 0)
    found = unchecked(notes.annotate)(LORENZ, states, runs=8, periods=5.0)
    assert found["sum"] == pytest.approx(found["divergence"], rel=0.01)
    assert found["per_period"] == pytest.approx(found["exponent"] * 0.759)
    assert 2.0 < found["kaplan_yorke"] < 2.15 and 1.6 < found["correlation"] < 2.3
    assert found["exponent_error"] < 0.2 and 0.1 < found["entropy"] < 2.0


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="exponents"):
        notes.kaplan_yorke_dimension(np.array([np.nan]))
    with pytest.raises(ValueError, match="states"):
        notes.correlation_dimension(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="share"):
        notes.correlation_dimension(np.zeros((500, 2)), (0.1, 0.01))
    with pytest.raises(ValueError, match="tolerance"):
        notes.sample_entropy(np.arange(20.0), 0.0)
    with pytest.raises(ValueError, match="scales"):
        notes.multiscale_entropy(np.arange(50.0), (10,))
    with pytest.raises(ValueError, match="constant"):
        notes.multiscale_entropy(np.ones(500), (1,))
    with pytest.raises(ValueError, match="period"):
        notes.period_stands_out(np.arange(100.0), 1.0, 90.0)
    with pytest.raises(ValueError, match="states"):
        unchecked(notes.annotate)(LORENZ, np.full((1, 5, 3), np.nan))
