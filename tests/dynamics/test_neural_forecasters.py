"""Networks that forecast in blocks: shapes, residuals, causality, roll-out, repeatability."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import neural_forecasters as nf
from touchstone.dynamics.protocol import Simulator

FITS = [nf.fit_nbeats, nf.fit_nhits, nf.fit_lstm, nf.fit_transformer, nf.fit_tcn]
BUILDS = [nf.nbeats, nf.nhits, nf.lstm, nf.attention, nf.tcn]


def rotation(steps, angle=0.3, phase=0.0):
    time = angle * np.arange(steps) + phase
    return np.sqrt(2) * np.stack([np.sin(time), np.cos(time)], 1)


@pytest.mark.parametrize("fit", FITS)
def test_every_network_is_a_simulator_and_its_block_changes_from_the_last_state(fit):
    model = fit(rotation(60), 7, horizon=3, updates=2, batch=4, seed=1)
    assert isinstance(model, Simulator)
    past = np.stack([rotation(9), rotation(9, phase=1.0)])
    assert model.simulate(past, 8).shape == (2, 8, 2)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    np.testing.assert_allclose(model.simulate(past, 8), np.repeat(past[:, -1:], 8, 1), atol=1e-6)


@pytest.mark.parametrize("build", BUILDS)
def test_the_whole_window_is_looked_at_and_nothing_is_mixed_between_windows(build):
    torch.manual_seed(0)
    network = build(2, 16, 5)
    window = torch.randn(3, 16, 2, requires_grad=True)
    forecast = network(window)
    assert forecast.shape == (3, 5, 2)
    (gradient,) = torch.autograd.grad(forecast[1].square().sum(), window)
    assert (gradient[1].abs().sum(1) > 0).float().mean() > (0.3 if build is nf.nhits else 0.99)  # of pools, the largest
    assert gradient[[0, 2]].abs().max() == 0


def test_blocks_are_doubly_residual():
    torch.manual_seed(0)
    network, window = nf.nbeats(2, 6, 4), torch.randn(3, 6, 2)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], *output)))
    forecast = network(window)
    assert len(seen) == 6
    for (before, explained, _), (after, _, _) in zip(seen, seen[1:], strict=False):
        torch.testing.assert_close(before - explained, after)
    torch.testing.assert_close(forecast, sum(part for _, _, part in seen))


def test_a_coarse_block_interpolates_linearly_between_its_knots():
    torch.manual_seed(0)
    past, future = nf.MultiRateBlock(2, 8, 9, rate=4)(torch.randn(3, 8, 2))
    assert past.shape == (3, 8, 2)
    bends = future.diff(n=2, dim=1).abs().amax((0, 2))
    assert (bends > 1e-5).sum() == 1  # three knots, one of them inside


def test_causal_encoders_do_not_look_ahead():
    for build in (nf.lstm, nf.attention, nf.tcn):
        torch.manual_seed(0)
        encoder, window = build(2, 12, 1).encoder, torch.randn(1, 12, 2)
        changed = window.clone()
        changed[:, 8:] += 1.0
        before, after = encoder(window), encoder(changed)
        torch.testing.assert_close(before[:, :8], after[:, :8])
        assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-3


def test_long_forecasts_feed_blocks_back():
    model = nf.fit_nbeats(rotation(80), 6, horizon=4, updates=3)
    past = rotation(10)[None]
    first = model.simulate(past, 4)
    rest = model.simulate(np.concatenate([past, first], 1), 4)
    np.testing.assert_allclose(model.simulate(past, 8), np.concatenate([first, rest], 1), atol=1e-5)


def test_a_rotation_is_learned_and_a_seed_gives_the_same_bits():
    models = [nf.fit_nbeats(rotation(300), 6, horizon=5, updates=150, seed=3) for _ in range(2)]
    truth = rotation(40)
    runs = [model.simulate(truth[None, :10], 30) for model in models]
    assert np.array_equal(*runs)
    assert np.abs(runs[0][0] - truth[10:]).max() < 0.3
    assert models[0].losses[-10:].mean() < 0.05 * models[0].losses[0]


def test_a_budget_in_seconds_ends_the_training():
    model = nf.fit_lstm(rotation(60), 5, horizon=2, seconds=0.05, batch=4)
    assert 1 <= len(model.losses) < 1000


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (rotation(12), {"lookback": 8}, "series has 12 states"),
        (rotation(60) * np.nan, {"lookback": 4}, "series holds"),
        (rotation(60), {"lookback": 0}, "must be positive"),
        (rotation(60), {"lookback": 4, "updates": 0}, "must be positive"),
        (rotation(60), {"lookback": 4, "seconds": 0.0}, "seconds is 0"),
    ],
)
def test_bad_arguments_are_named(series, options, message):
    with pytest.raises(ValueError, match=message):
        unchecked(nf.fit_network)(nf.lstm, series, **options)


def test_a_past_shorter_than_the_lookback_is_refused():
    model = nf.fit_lstm(rotation(60), 9, updates=1)
    with pytest.raises(ValueError, match="needs the last 9"):
        model.simulate(rotation(5)[None], 3)
