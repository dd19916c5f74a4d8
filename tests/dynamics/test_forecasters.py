"""The forecasters without gradients: closed forms, recovery of exact maps, and the choice of a setting."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.dynamics import forecasters
from touchstone.dynamics.protocol import Simulator
from touchstone.metrics.attractors import running_smape

TONE = np.sin(2 * np.pi * np.arange(240) / 24)[:, None]


def henon(steps=200):
    states = [np.array([0.1, 0.2])]
    for _ in range(steps - 1):
        x, y = states[-1]
        states.append(np.array([1 - 1.4 * x**2 + y, 0.3 * x]))
    return np.array(states)


@pytest.mark.parametrize(
    "fit",
    [
        forecasters.fit_last_value,
        forecasters.fit_seasonal,
        forecasters.fit_autoregression,
        forecasters.fit_nvar,
        forecasters.fit_smoothing,
        forecasters.fit_fourier,
        lambda series, lookback: forecasters.fit_random_forest(series, lookback, trees=3),
        lambda series, lookback: forecasters.fit_echo_state(series, lookback, nodes=30),
    ],
)
def test_the_interface_continues_several_pasts_alike(fit):
    series = henon()
    model = fit(series, 3)
    assert isinstance(model, Simulator)
    past = np.stack([series[10:40], series[60:90]])
    both = model.simulate(past, 4)
    assert both.shape == (2, 4, 2) and np.isfinite(both).all()
    np.testing.assert_allclose(both[1:], model.simulate(past[1:], 4), atol=1e-9)  # runs do not touch each other
    with pytest.raises(ValueError, match="past"):
        model.simulate(np.full((1, 30, 2), np.nan), 2)


def test_naive_forecasts():
    series = np.arange(7.0)[:, None]
    assert forecasters.fit_last_value(series).simulate(series[None], 3).ravel().tolist() == [6, 6, 6]
    assert forecasters.fit_seasonal(series, 3).simulate(series[None], 5).ravel().tolist() == [4, 5, 6, 4, 5]


def test_nvar_finds_a_quadratic_map_exactly():
    series = henon()
    model = forecasters.fit_nvar(series[:150], 1, ridge=0.0)
    one_step = model.simulate(series[:-1, None], 1)[:, 0]
    assert np.abs(one_step - series[1:]).max() < 1e-10
    linear = forecasters.fit_nvar(series[:150], 1, degree=1, ridge=0.0).simulate(series[:-1, None], 1)[:, 0]
    assert np.abs(linear - series[1:]).max() > 0.1


def test_nvar_reads_the_delays_that_it_is_told_to():
    series = np.random.default_rng(0).uniform(size=(400, 1))
    for time in range(6, 400):  # six logistic maps that take turns
        series[time] = 3.9 * series[time - 6] * (1 - series[time - 6])
    past, truth = np.stack([series[i : i + 6] for i in range(300)]), series[6:306]
    model = forecasters.fit_nvar(series, 2, spacing=5, ridge=0.0)
    assert np.abs(model.simulate(past, 1)[:, 0] - truth).max() < 1e-9
    blind = forecasters.fit_nvar(series, 2, spacing=4, ridge=0.0)
    assert np.abs(blind.simulate(past, 1)[:, 0] - truth).max() > 0.1


def test_autoregression_and_fourier_continue_a_tone():
    truth = TONE[200:]
    regression = forecasters.fit_autoregression(TONE[:200], 2, ridge=0.0)
    np.testing.assert_allclose(regression.simulate(TONE[None, :200], 40)[0], truth, atol=1e-6)
    weak = 2 + TONE + 0.1 * np.sin(2 * np.pi * np.arange(240) / 8)[:, None]
    strongest = forecasters.fit_fourier(weak[:192], 96, harmonics=1).simulate(weak[None, :192], 40)[0]
    np.testing.assert_allclose(strongest, 2 + TONE[192:232], atol=1e-9)
    both = forecasters.fit_fourier(weak[:192], 96, harmonics=2).simulate(weak[None, :192], 40)[0]
    np.testing.assert_allclose(both, weak[192:232], atol=1e-9)


def test_smoothing_continues_a_line_and_damps_a_random_walk():
    line = np.arange(50.0)[:, None]
    np.testing.assert_allclose(
        forecasters.fit_smoothing(line, 40).simulate(line[None], 5).ravel(), [50, 51, 52, 53, 54], atol=1e-2
    )
    walk = np.random.default_rng(0).normal(size=(2000, 1)).cumsum(0)
    model = forecasters.fit_smoothing(walk, 50)
    assert np.abs(model.simulate(walk[None], 5) - walk[-1]).max() < 1.0


def test_forest_asks_its_trees_as_sklearn_does():
    from sklearn.ensemble import RandomForestRegressor

    series = np.concatenate([TONE, np.roll(TONE, 6)], 1)
    model = forecasters.fit_random_forest(series, 3, seed=4, trees=7)
    steps = np.diff(series, axis=0)[2:]
    lags = np.stack([series[i : i + 3].ravel() for i in range(len(steps))])
    twin = RandomForestRegressor(7, max_features=1 / 3, min_samples_leaf=2, random_state=4).fit(
        lags, steps / steps.std(0)
    )
    expected = series[50:53][-1] + steps.std(0) * twin.predict(series[50:53].reshape(1, -1))
    np.testing.assert_allclose(model.simulate(series[None, :53], 1)[0], expected, atol=1e-12)


def test_reservoir_hears_only_its_lookback():
    model = forecasters.fit_echo_state(henon(), 20, nodes=40)
    past = henon()[None]
    np.testing.assert_array_equal(model.simulate(past, 5), model.simulate(past[:, -20:], 5))


def test_the_setting_is_chosen_on_the_end_of_the_series():
    assert forecasters.choose(forecasters.fit_seasonal, [10, 24, 30], TONE, 24) == 24
    # were the validation span fitted too, a copy of it would win
    seen = []

    def spy(series, setting):
        seen.append(len(series))
        return forecasters.fit_last_value(series)

    assert forecasters.choose(spy, ["a", "b"], TONE, 40, runs=3, horizon=10) == "a"  # the earlier of equals
    assert seen == [200, 200]

    def explode(series, setting):
        value = np.nan if setting == "nan" else 3.0
        return forecasters.Continuation(lambda window, steps: np.full((len(window), steps, 1), value), 1)

    assert forecasters.choose(explode, ["nan", "three"], TONE + 2, 20) == "three"
    assert forecasters.choose(forecasters.fit_seasonal, [1000, 24], TONE, 24) == 24  # too long to be fitted


def test_smape_of_forecasts_lies_between_0_and_200():
    truth = henon()[None]
    assert running_smape(truth, truth).max() == 0.0
    assert running_smape(truth, -truth).max() <= 200.0 + 1e-9


def test_errors_name_the_argument():
    series = henon()
    for fit in (
        forecasters.fit_seasonal,
        forecasters.fit_autoregression,
        forecasters.fit_nvar,
        forecasters.fit_smoothing,
    ):
        with pytest.raises(ValueError, match="lookback"):
            unchecked(fit)(series, 0)
        with pytest.raises(ValueError, match="series"):
            unchecked(fit)(np.full((50, 1), np.nan), 3)
    with pytest.raises(ValueError, match="lookback"):
        forecasters.fit_fourier(series, 1)
    with pytest.raises(ValueError, match="trees"):
        forecasters.fit_random_forest(series, 3, trees=0)
    with pytest.raises(ValueError, match="nodes"):
        forecasters.fit_echo_state(series, nodes=0)
    with pytest.raises(ValueError, match="settings"):
        forecasters.choose(forecasters.fit_seasonal, [], TONE, 24)
    with pytest.raises(ValueError, match="settings: none"):
        forecasters.choose(forecasters.fit_seasonal, [1000], TONE, 24)
    with pytest.raises(ValueError, match="horizon"):
        forecasters.choose(forecasters.fit_seasonal, [3], TONE, 24, horizon=25)
