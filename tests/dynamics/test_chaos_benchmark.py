"""The chaos benchmark: granularity, tasks without leaks, weighted windows, equation discovery, the encoder."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.dynamics.test_chaos_annotations import LORENZ, ROESSLER
from tests.helpers import unchecked
from touchstone.data import ode
from touchstone.data.chaotic_flows import CHAOS12, QUADRATIC
from touchstone.data.trajectory import spectral_period
from touchstone.dynamics import chaos_benchmark as bench
from touchstone.dynamics import chaos_benchmark_uses as uses
from touchstone.metrics.attractors import running_smape


def still(state):
    return 0 * state


STILL = ode.System("still", still, None, (0.0, 5.0), 0.1, 2.0, transient=0.0)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(ode, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ode, "tangent_step", unchecked(ode.tangent_step))


def test_the_twelve_and_the_flows_of_dysts_load():
    assert bench.load("chen") is CHAOS12["chen"]
    assert bench.load("Lorenz").centre and bench.load("Lorenz").period > 0
    with pytest.raises(ValueError, match="name"):
        bench.load("no such flow")


@pytest.mark.parametrize("system", [LORENZ, ROESSLER])
def test_sampling_leaves_a_hundred_points_a_period(system):
    states = bench.observe(system, runs=8, periods=40, transient=10.0)  # 320 periods
    assert states.shape[:2] == (8, 4000)
    assert 1 / spectral_period(states, 1.0) == pytest.approx(1 / 100, rel=0.02)


def test_coarse_and_fine_series_are_the_same_flow():
    fine = bench.observe(LORENZ, runs=2, periods=2, points=100, transient=5.0)
    coarse = bench.observe(LORENZ, runs=2, periods=2, points=20, transient=5.0)
    np.testing.assert_allclose(coarse, fine[:, ::5], atol=1e-4)


def test_kicks_of_one_period_add_up_to_the_noise():
    clean = bench.observe(STILL, runs=300, periods=1, points=32)
    kicked = bench.observe(STILL, runs=300, periods=1, points=32, noise=0.2)
    np.testing.assert_array_equal(clean[:, :1], kicked[:, :1])
    spread = (kicked[:, -1] - kicked[:, 0]).std(0)
    np.testing.assert_allclose(spread, 0.2 * clean.std((0, 1)) * np.sqrt(31 / 32), rtol=0.15)


def test_tasks_are_standardised_by_what_may_be_known():
    states = 3 + 2 * np.random.default_rng(0).normal(size=(2, 130, 3))
    tasks = bench.forecast_tasks(states, points=10, coordinate=1)
    assert tasks.train.shape == (2, 100, 1) and tasks.truth.shape == (2, 20, 1)
    np.testing.assert_allclose(
        [tasks.train.mean(1), tasks.train.std(1)], [np.zeros((2, 1)), np.ones((2, 1))], atol=1e-12
    )
    changed = states.copy()
    changed[:, 100:] += 7.0
    again = bench.forecast_tasks(changed, points=10, coordinate=1)
    np.testing.assert_array_equal(tasks.train, again.train)
    np.testing.assert_allclose(
        again.truth - tasks.truth, 7.0 / states[:, :100, 1].std(1)[:, None, None] + 0 * tasks.truth
    )


def test_the_lag_is_not_chosen_on_the_test_span():
    wave = np.sin(2 * np.pi * (np.arange(240) + 0.3) / 20)[None, :, None]  # never 0, where sMAPE counts rounding
    tasks = bench.forecast_tasks(wave, points=20)
    (found,) = bench.score(tasks, "seasonal")
    assert found["setting"] in (1.0, 2.0) and found["smape"] < 1e-6  # one or two seasons are a perfect forecast
    shuffled = dataclasses.replace(tasks, truth=-tasks.truth)
    (other,) = bench.score(shuffled, "seasonal")
    assert other["setting"] == found["setting"] and 100 < other["smape"] <= 200 + 1e-9


def test_smape_is_zero_for_a_perfect_forecast_and_at_most_200():
    truth = np.random.default_rng(1).normal(size=(3, 50, 1))
    assert running_smape(truth, truth).max() == 0.0
    for forecast in (-truth, 1e9 * truth, truth * np.nan):
        assert running_smape(truth, forecast).max() <= 200.0 + 1e-9


@pytest.mark.parametrize("name", bench.FORECASTERS)
def test_every_forecaster_meets_the_task(name):
    wave = np.sin(2 * np.pi * np.arange(240) / 20)[None, :, None]
    rows = bench.score(bench.forecast_tasks(wave, points=20), name, updates=2)
    assert len(rows) == 1 and 0 <= rows[0]["smape"] <= 200 and rows[0]["setting"] in bench.FORECASTERS[name][1]


def test_windows_are_drawn_in_proportion_to_their_loss():
    chances = uses.sampling_probabilities(torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(chances, torch.tensor([[0.25, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_stacked_cells_are_torch_s():
    model = uses.StackedLSTM([3, 4], 5, torch.ones(2))
    twin = nn.LSTM(2, 5, batch_first=True)
    gates = model.gates[1]  # rows: hidden, value, increment, 1; columns: take, keep, give, new
    order = [*range(0, 10), *range(15, 20), *range(10, 15)]  # torch: input, forget, cell, output
    series = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        twin.weight_hh_l0.copy_(gates[:5, order].T)
        twin.weight_ih_l0.copy_(gates[5:7, order].T)
        twin.bias_ih_l0.copy_(gates[7, order])
        twin.bias_hh_l0.zero_()
        inputs = torch.stack([series[1, :, 1:-1], series[1].diff(dim=1)[:, :-1]], -1)
        expected = twin(inputs)[0] @ model.readout[1, :5, 0] + model.readout[1, 5]
        errors = (expected - series[1].diff(dim=1)[:, 1:])[:, 2:].square().mean(1)
        torch.testing.assert_close(model.errors(series, skip=3)[1], errors)


def test_free_runs_repeat_the_step():
    model = uses.StackedLSTM([0], 6, torch.tensor([0.5]))
    past = np.random.default_rng(0).normal(size=(1, 2, 10)).astype("float32").astype(float)
    run = model.simulate(past, 3)
    again = model.simulate(np.concatenate([past, run[..., :2]], -1), 1)
    np.testing.assert_allclose(run[..., 2:], again, atol=1e-6)
    still = uses.StackedLSTM([0], 6, torch.tensor([1e-12])).simulate(past, 2)
    np.testing.assert_allclose(still, past[..., -1:].repeat(2, -1), atol=1e-7)


def test_weighted_and_uniform_models_start_alike_and_train_apart():
    time = np.arange(400)
    series = np.sin(0.2 * time) + (time > 300) * np.sin(0.9 * time)  # its end is harder
    both = series[None].repeat(2, 0)
    model, chances = uses.train_sampled(both, [5, 5], np.array([False, True]), 30, 8, 30, 5, 4, 10)
    assert chances.shape == (3, 2, 93) and np.abs(chances.sum(-1) - 1).max() < 1e-5
    assert np.ptp(chances[:, 0]) < 1e-7  # uniform stays uniform
    fresh = uses.StackedLSTM([5], 8, torch.as_tensor(both[:1], dtype=torch.float32).diff(dim=1).std(1))
    pool = torch.as_tensor(both[:1], dtype=torch.float32).unfold(1, 31, 4)
    with torch.no_grad():
        losses = fresh.errors(pool, 5)
    np.testing.assert_allclose(chances[0, 1], (losses / losses.sum())[0], rtol=1e-3)
    assert chances[-1, 1, -20:].mean() > 1.2 * chances[-1, 1, :60].mean()
    alone, _ = uses.train_sampled(both[:1], [5], np.array([False]), 30, 8, 30, 5, 4, 10)
    torch.testing.assert_close(model.gates[0], alone.gates[0], rtol=1e-3, atol=1e-4)
    assert (model.gates[0] - model.gates[1]).abs().max() > 1e-3


def test_local_polynomials_are_exact_for_polynomials():
    time = 0.1 * np.arange(60)
    series = np.stack([time**4 - time, 2 - 3 * time**3], 1)
    states, slopes = uses.smoothed_rates(series, 0.1, 9)
    inner = time[4:-4]
    np.testing.assert_allclose(states, np.stack([inner**4 - inner, 2 - 3 * inner**3], 1), atol=1e-8)
    np.testing.assert_allclose(slopes, np.stack([4 * inner**3 - 1, -9 * inner**2], 1), atol=1e-7)


def test_lorenz_is_discovered_in_its_own_units_and_terms_are_judged():
    states = bench.observe(LORENZ, runs=1, periods=12, points=100, transient=10.0)[0]
    coefficients, exponents = uses.discover(states, 0.759 / 100)
    found = uses.judge_terms(coefficients, exponents, QUADRATIC["lorenz-63"])
    assert found["exact"] == 1.0 and found["missing"] == found["false"] == 0.0 and found["coefficient_error"] < 0.01
    without = coefficients.copy()
    without[np.abs(without) > 20] = 0.0  # 28 x
    without[-1, 0] = 0.1
    found = uses.judge_terms(without, exponents, QUADRATIC["lorenz-63"])
    assert (found["exact"], found["missing"], found["false"], found["coefficient_error"]) == (0.0, 1.0, 1.0, 1.0)


def test_features_forget_the_order_of_rows_only():
    series, labels = uses.bursting_series(6, seed=0)
    assert series.shape == (24, 256) and np.bincount(labels).tolist() == [6] * 4
    kurtosis = (series**4).mean(1)
    assert kurtosis[labels >= 2].mean() > kurtosis[labels < 2].mean()  # bursts have heavy tails
    encoder = uses.Encoder(0, 8)
    heard = torch.as_tensor(series, dtype=torch.float32)
    assert encoder.features(heard).shape == (24, 16)
    torch.testing.assert_close(encoder.features(heard.flip(0)).flip(0), encoder.features(heard))


def test_pretraining_learns_to_forecast():
    wave = np.sin(0.3 * np.arange(600))[None]
    encoder = uses.pretrain(uses.Encoder(1, 8), wave, 150, seed=0, batch=8)
    window = torch.as_tensor(wave[:, :128], dtype=torch.float32)
    with torch.no_grad():
        said = encoder.ahead(encoder.layers(window[:, None, :120]))[0, :, -1]
    change = wave[0, 120:128] - wave[0, 119]  # what is said at the last time heard is about what follows
    assert np.abs(said.numpy() - change).max() < 0.25 * np.abs(change).max()


def test_errors_name_the_argument():
    tasks = bench.forecast_tasks(np.random.default_rng(0).normal(size=(1, 120, 1)), points=10)
    with pytest.raises(ValueError, match="noise"):
        bench.observe(STILL, noise=-1.0)
    with pytest.raises(ValueError, match="states"):
        bench.forecast_tasks(np.zeros((1, 50, 2)), points=10)
    with pytest.raises(ValueError, match="coordinate"):
        bench.forecast_tasks(np.zeros((1, 120, 2)), points=10, coordinate=2)
    with pytest.raises(ValueError, match="name"):
        bench.score(tasks, "oracle")
    with pytest.raises(ValueError, match="losses"):
        uses.sampling_probabilities(torch.tensor([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="past"):
        unchecked(uses.StackedLSTM.simulate)(uses.StackedLSTM([0], 3, torch.ones(1)), np.zeros((1, 2, 1)), 2)
    with pytest.raises(ValueError, match="models"):
        unchecked(uses.train_sampled)(np.zeros((2, 400)), [0], np.array([True]), 3)
    with pytest.raises(ValueError, match="window"):
        uses.smoothed_rates(np.zeros((50, 2)), 0.1, 6)
    with pytest.raises(ValueError, match="slack"):
        uses.discover(np.random.default_rng(0).normal(size=(50, 2)), 0.1, slack=0.5)
    with pytest.raises(ValueError, match="per_class"):
        uses.bursting_series(0, 0)
    with pytest.raises(ValueError, match="series"):
        uses.pretrain(uses.Encoder(0, 4), np.zeros((1, 100)), 1, 0)
