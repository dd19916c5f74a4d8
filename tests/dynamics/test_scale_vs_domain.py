"""The forecasting benchmark: valid prediction time, caps in updates, tuning, reservoirs, scores."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data.ode import System
from touchstone.dynamics import scale_vs_domain as sd
from touchstone.dynamics import scale_vs_domain_scores as svs
from touchstone.dynamics.forecasters import fit_echo_state, fit_nvar
from touchstone.dynamics.protocol import Simulator


def spin(state):
    """A rotation with period 1 and a decaying third coordinate that is driven."""
    rate = np.empty_like(state)
    rate[..., 0], rate[..., 1] = -2 * np.pi * state[..., 1], 2 * np.pi * state[..., 0]
    rate[..., 2] = -state[..., 2] + 1.0 + state[..., 0] * state[..., 1]
    return rate


SPIN = System("spin", spin, None, (1.0, 0.0, 1.0), exponent=0.5, period=1.0, spread=0.1, transient=5.0)


@pytest.fixture(scope="module")
def data():
    return sd.task(SPIN, 300, starts=6, points=960)


def rotation(steps, angle=2 * np.pi / 30):
    time = angle * np.arange(steps)
    return np.sqrt(2) * np.stack([np.sin(time), np.cos(time)], 1)


def henon(steps):
    orbit = np.empty((steps, 2))
    orbit[0] = 0.1, 0.2
    for t in range(1, steps):
        orbit[t] = 1 - 1.4 * orbit[t - 1, 0] ** 2 + orbit[t - 1, 1], 0.3 * orbit[t - 1, 0]
    return orbit


def test_a_quadratic_map_is_reproduced_exactly():
    orbit = henon(300)
    model = fit_nvar(orbit, 1, ridge=0.0)
    one_step = model.simulate(orbit[:-1, None], 1)[:, 0]
    assert np.abs(one_step - orbit[1:]).max() < 1e-10
    assert np.abs(model.simulate(orbit[None, :200], 5)[0] - orbit[200:205]).max() < 1e-10


def test_the_reservoir_forgets_where_it_started():
    series = rotation(400)
    for radius in sd.METHODS["echo-state"].settings[:2]:
        network = fit_echo_state(series, 100, seed=0, nodes=60, radius=radius).network
        nodes = np.random.default_rng(0).uniform(-1, 1, (2, 60))
        apart = np.abs(nodes[0] - nodes[1]).max()
        for state in series:
            nodes, _ = network.advance(nodes, np.repeat(state[None], 2, 0))
        assert np.abs(nodes[0] - nodes[1]).max() < 1e-6 < apart


def test_the_truth_is_valid_throughout_and_a_constant_for_less_than_a_period(data):
    horizon = data.future.shape[1]
    assert (sd.valid_steps(data.future, data.future) == horizon).all()
    constant = np.repeat(data.past[:, -1:], horizon, 1)
    assert (sd.valid_steps(data.future, constant) < sd.GRANULARITY).all()


def test_validity_ends_where_the_running_mean_crosses():
    truth = np.ones((1, 10, 1))
    forecast = truth.copy()
    forecast[0, 4:] = -1.0  # 200 % from the fifth step on: running means 40, 66.7, ...
    assert sd.valid_steps(truth, forecast)[0] == 5
    assert sd.valid_steps(truth, forecast, threshold=50.0)[0] == 6
    forecast[0, 2] = np.nan
    assert sd.valid_steps(truth, forecast)[0] == 3


def test_data_are_standardised_and_starts_follow_their_pasts(data):
    np.testing.assert_allclose(data.train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train.std(0), 1, rtol=1e-12)
    assert data.past.shape == (6, sd.CONTEXT, 3)
    assert data.future.shape[1] == 480  # half the trajectory, less than the 1200 samples of 20 Lyapunov times
    assert data.lyapunov_time == pytest.approx(60)
    joined = np.concatenate([data.past, data.future], 1)
    np.testing.assert_allclose(joined[:, 30:, 0], joined[:, :-30, 0], atol=1e-6)  # the rotation has period 30
    other = sd.task(SPIN, 300, seed=1, starts=6, points=960)
    assert np.abs(other.train - data.train).max() > 1e-3


def test_a_cap_is_counted_in_updates():
    assert sd.updates("n-beats", 4, 0.64) == sd.updates("n-beats", 32, 0.64) == 100
    assert sd.updates("transformer", 32, 1.0) < sd.updates("transformer", 4, 1.0)
    assert sd.updates("nvar", 2, 1.0) == 1
    budget = sd.Updates(3)
    assert [budget.fraction() for _ in range(5)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_all_groups_have_the_same_number_of_trials():
    assert {len(method.settings) for name, method in sd.METHODS.items() if name != "last value"} == {sd.TRIALS}
    assert {method.group for method in sd.METHODS.values()} == {"general", "hybrid", "classical"}
    assert set(sd.COSTS) == {n for n, m in sd.METHODS.items() if m.group == "general"} | {"neural-ode"}


@pytest.mark.parametrize("name", sd.METHODS)
def test_every_method_tunes_and_forecasts(name):
    series = rotation(310)
    model, setting = sd.fit_tuned(name, series[:300], seconds=0.02)
    assert isinstance(model, Simulator)
    assert setting in sd.METHODS[name].settings
    forecast = model.simulate(series[None, :300], 10)
    assert forecast.shape == (1, 10, 2)
    if name in ("nvar", "ar", "fourier"):  # these contain the rotation
        np.testing.assert_allclose(forecast[0], series[300:], atol=1e-2)


def test_tuning_finds_the_window_that_holds_whole_periods():
    _, setting = sd.fit_tuned("fourier", rotation(600)[:, :1] + 0.3 * rotation(600, 2 * np.pi / 120)[:, :1])
    assert setting in (120, 240)


def test_a_training_that_diverges_becomes_the_last_value(monkeypatch):
    def explode(*_):
        raise FloatingPointError("loss is NaN")

    monkeypatch.setitem(sd.METHODS, "lstm", sd.Method("general", (4, 8), explode))
    series = rotation(200)
    model, _ = sd.fit_tuned("lstm", series)
    np.testing.assert_array_equal(model.simulate(series[None], 3)[0], np.repeat(series[-1:], 3, 0))


def test_scores_of_the_truth_and_of_nonsense(data):
    perfect = svs.scores(data, data.future)
    for name in ("sMAPE", "MAE", "RMSE", "MASE", "D_stsp", "D_H"):
        assert perfect[name] == pytest.approx(0, abs=1e-9)
    for name in ("R2", "Pearson", "Spearman"):
        assert perfect[name] == pytest.approx(1)
    assert perfect["VPT"] == pytest.approx(480 / 60)
    assert perfect["VPT periods"] == pytest.approx(480 / 30)
    opposite = svs.scores(data, -data.future)
    assert opposite["Pearson"] == pytest.approx(-1)
    assert opposite["mutual information"] == pytest.approx(perfect["mutual information"], rel=0.05)
    lost = svs.scores(data, np.full_like(data.future, np.nan))
    assert lost["sMAPE"] == pytest.approx(200)
    assert lost["D_H"] == 1
    assert lost["VPT"] == pytest.approx(1 / 60)
    far = svs.scores(data, data.future * np.geomspace(1, 1e300, data.future.shape[1])[:, None])
    assert all(np.isfinite(value) for row in (lost, far) for value in row.values())


def test_mutual_information_of_equal_and_of_independent_samples():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 16_000))
    assert svs.mutual_information(a, a, bins=8) == pytest.approx(np.log(8), rel=1e-3)
    assert svs.mutual_information(a, b, bins=8) < 0.01


def test_a_mase_of_one_is_the_step_of_the_series():
    future = 0.1 * np.cumsum(np.ones((1, 60, 1)), 1)
    past, train = np.zeros((1, sd.CONTEXT, 1)), 0.1 * np.arange(60.0)[:, None]
    made = sd.Task(train, past, future, exponent=1.0)
    assert svs.scores(made, future + 0.1)["MASE"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.fit_tuned("oracle", rotation(100)), "name is 'oracle'"),
        (lambda: sd.fit_tuned("ar", rotation(100), seconds=0.0), "seconds is 0"),
        (lambda: sd.fit_tuned("ar", rotation(100) * np.nan), "series holds"),
        (lambda: sd.fit_tuned("ar", rotation(10)), "none could be fitted"),
        (lambda: sd.task("lorenz-63", 5), "size 5"),
        (lambda: sd.task("lorenz-63", 2000, points=1000), "size 2000"),
        (lambda: sd.task(System("unknown", spin, None, (1.0,)), 300), "no exponent"),
        (lambda: sd.valid_steps(np.full((1, 3, 1), np.nan), np.ones((1, 3, 1))), "finite numbers only"),
    ],
)
def test_bad_arguments_are_named(call, message, monkeypatch):
    for name in ("fit_tuned", "task", "valid_steps"):
        monkeypatch.setattr(sd, name, unchecked(getattr(sd, name)))
    with pytest.raises(ValueError, match=message):
        call()
