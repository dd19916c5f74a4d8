"""Structured Hankel network: factors, counts, independence of seeds, free runs; and what it is compared with."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.dynamics import structured_hankel_nn as shn
from touchstone.dynamics import structured_hankel_nn_baselines as rivals
from touchstone.dynamics import structured_hankel_nn_entrant as ring
from touchstone.dynamics.protocol import Series, Simulator

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def circle(steps, runs=1, angle=0.2):
    """Samples of a rotation, one start a run."""
    phase = angle * torch.arange(steps)[None] + torch.arange(runs)[:, None]
    return torch.stack([phase.sin(), phase.cos()], -1)


def small(seeds=(0, 1), size=8, copies=2, memory=3, dim=2):
    network = shn.HankelNetwork(seeds, size, copies)
    return shn.Stepper(network, shn.Layout(memory, dim, size), torch.full((dim,), 0.1))


def test_the_split_is_the_unitary_transform():
    a, b = draw(5, 8), draw(5, 8, seed=1)
    twiddle = torch.view_as_complex(shn.twiddles(8))
    expected = torch.fft.fft(torch.cat([a, b], -1), norm="ortho")
    torch.testing.assert_close(shn.split_dft(a, twiddle, b), expected, rtol=0, atol=1e-12)
    padded = torch.fft.fft(a, n=16, norm="ortho")
    torch.testing.assert_close(shn.split_dft(a, twiddle), padded, rtol=0, atol=1e-12)
    torch.testing.assert_close(shn.split_inverse(padded, twiddle), a + 0j, rtol=0, atol=1e-12)
    spectrum = torch.complex(draw(16), draw(16, seed=2))
    upper = torch.fft.ifft(spectrum, norm="ortho")[:8]
    torch.testing.assert_close(shn.split_inverse(spectrum, twiddle), upper, rtol=0, atol=1e-12)


def test_the_inverse_stays_the_adjoint_when_the_diagonal_is_trained():
    twiddle = torch.complex(draw(8, seed=3), draw(8, seed=4))
    x, spectrum = torch.complex(draw(8), draw(8, seed=1)), torch.complex(draw(16), draw(16, seed=2))
    left = torch.vdot(shn.split_dft(x, twiddle), spectrum)
    torch.testing.assert_close(left, torch.vdot(x, shn.split_inverse(spectrum, twiddle)), rtol=1e-12, atol=0)


def test_without_activation_the_network_multiplies_by_a_hankel_matrix():
    n = 8
    symbol = draw(2 * n - 1)
    network = shn.HankelNetwork([0], n, copies=1, activation=lambda value: value).double()
    with torch.no_grad():
        network.spectrum.copy_(torch.view_as_real(shn.hankel_spectrum(symbol)))
        network.twiddle.copy_(shn.twiddles(n))
        network.weight.fill_(1.0)
        x = draw(1, 4, n, seed=5)
        found = network(x)[0]
    hankel = symbol[torch.arange(n)[:, None] + torch.arange(n)]
    torch.testing.assert_close(found, x[0] @ hankel.T, rtol=0, atol=1e-10)


def test_the_count_of_parameters_and_products():
    p, n = 4, 16
    network = shn.HankelNetwork([0, 1], n, p)
    complex_ones = network.twiddle[0].numel() + network.spectrum[0].numel() + network.bias1[0].numel()
    assert shn.parameters(network) - complex_ones // 2 == 8 * p * n + n
    assert shn.parameters(network) == 13 * p * n + n
    dense = rivals.dense_like([0], n, p)
    widths = [n, 2 * p * n, p * n, p * n, n]
    assert dense.multiplications() == sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    assert shn.parameters(dense) == dense.multiplications() + sum(widths[1:])
    wide = [shn.HankelNetwork([0], size, p).multiplications() / (size * np.log2(size)) for size in (64, 1024)]
    assert wide[1] < wide[0]  # n log n, not n squared


def test_seeds_do_not_influence_each_other():
    series = circle(60)
    together = shn.train(small((3, 5)), series, [3, 5], updates=5)
    alone = shn.train(small((5,)), series, [5], updates=5)
    for one, two in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one[1:], two)
        assert not torch.equal(one[0], one[1]) or one[0].abs().max() == 0


def test_windows_hold_coordinates_one_after_the_other():
    layout = shn.Layout(memory=3, dim=2, size=8)
    series = torch.arange(10.0).view(5, 2)
    windows = layout.windows(series)
    assert windows.shape == (3, 8)
    assert windows[1].tolist() == [2, 4, 6, 3, 5, 7, 0, 0]
    assert windows[:, layout.newest].tolist() == series[2:].tolist()


def test_a_network_that_says_nothing_is_persistence_or_zero():
    model = small()
    with torch.no_grad():
        model.network.weight.zero_()
    past = circle(6, runs=3)[None].expand(2, -1, -1, -1)
    assert torch.equal(model.free_run(past, 4), past[:, :, -1:].expand(-1, -1, 4, -1))
    model.residual = False
    assert not model.free_run(past, 4).any()


def test_a_free_run_repeats_the_one_step_map():
    model, past = small(), circle(6, runs=3)[None].expand(2, -1, -1, -1)
    run = model.free_run(past, 3)
    with torch.no_grad():
        joined = torch.cat([past, run], 2)
        for time in range(3):
            window = model.layout.windows(joined[:, :, time + 3 : time + 6])[:, :, 0]
            torch.testing.assert_close(model(window), run[:, :, time])


def test_training_beats_persistence():
    series = circle(200)
    model = shn.train(small(), series, [0, 1], updates=150, rates=(1e-2, 1e-3))
    windows, following = model.layout.windows(series[0, :-1]), series[0, 3:]
    with torch.no_grad():
        error = (model(windows.expand(2, -1, -1)) - following).square().mean((1, 2)).sqrt()
    assert (error < 0.7 * (following - series[0, 2:-1]).square().mean().sqrt()).all()


def test_hankel_dmd_continues_a_sum_of_sines_exactly():
    time = 0.1 * np.arange(500)
    series = np.stack([np.sin(time) + np.sin(2.3 * time), np.cos(0.7 * time)], 1)
    fit = rivals.fit_hankel_dmd(series[:300], memory=8, rank=6)
    assert np.abs(fit.simulate(series[None, :300], 200)[0] - series[300:]).max() < 1e-6
    fits = [rivals.fit_hankel_dmd(series[:300], memory=8, rank=rank) for rank in (2, 6, 4)]
    assert rivals.best_forecaster(fits, series[300:], 8, horizon=50, starts=5) == 1
    assert fit.parameters == 16 * 6 + 36


def test_corrections_are_per_environment_and_penalised():
    scale = torch.full((2,), 0.1)
    model = rivals.Leads([0, 1], 3, scale, width=8)
    assert model.parameters_of_one == 4 * (2 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2)
    states = draw(2, 3, 4, 2).float()
    _, own = model(states)
    with torch.no_grad():
        model.own.weights[-1].view(2, 3, 8, 2)[0, 1] *= 2
    changed = (model(states)[1] != own).flatten(2).any(2)
    assert changed.tolist() == [[False, True, False], [False, False, False]]
    series = torch.stack([circle(40, runs=2, angle=angle) for angle in (0.1, 0.2, 0.3)])
    sizes = {}
    for penalty in (0.0, 100.0):
        trained = rivals.train_leads(
            rivals.Leads([0], 3, scale, width=8), series, [0], updates=60, rates=(1e-2, 1e-2), penalty=penalty
        )
        with torch.no_grad():
            sizes[penalty] = trained(series[None, :, 0])[1].abs().mean()
    assert sizes[100.0] < 0.3 * sizes[0.0]
    assert trained.free_run(series[None, :, :, 0], 5).shape == (1, 3, 2, 5, 2)


def test_the_entrant_learns_a_simulator():
    series = Series("circle", circle(300)[0].double().numpy(), 0.2)
    simulator = ring.learn(series, Budget(0.5), seed=0)
    assert isinstance(simulator, Simulator)
    past = np.stack([series.states[100:140], series.states[50:90]])
    run = simulator.simulate(past, 7)
    assert run.shape == (2, 7, 2)
    assert np.isfinite(run).all()
    with pytest.raises(ValueError, match="past"):
        simulator.simulate(past[:, :3], 2)


def test_bad_arguments_are_named():
    model = small()
    with pytest.raises(ValueError, match="series holds"):
        unchecked(shn.train)(model, circle(20) * torch.nan, [0, 1], 1)
    with pytest.raises(ValueError, match="series has 3 samples"):
        unchecked(shn.train)(model, circle(3), [0, 1], 1)
    with pytest.raises(ValueError, match="series has shape"):
        unchecked(shn.train)(model, circle(20)[0], [0, 1], 1)
    with pytest.raises(ValueError, match="past has 2 samples"):
        unchecked(shn.Stepper.free_run)(model, circle(2)[None], 1)
    with pytest.raises(ValueError, match="symbol has 4 entries"):
        unchecked(shn.hankel_spectrum)(torch.ones(4))
    with pytest.raises(ValueError, match="rank is 0"):
        unchecked(rivals.fit_hankel_dmd)(np.ones((99, 2)), 4, 0)
    with pytest.raises(ValueError, match="series has shape"):
        unchecked(rivals.train_leads)(rivals.Leads([0], 3, torch.ones(2)), circle(20)[None], [0], 1)
