"""The Schroedinger solver against closed forms, symmetries and conservation; entropies and splitting schemes."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import nlse
from touchstone.dynamics.nlse_baselines import finite_differences, split_step


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def final(psi, grid, time, **options):
    return nlse.solve(psi, grid, np.array([0.0, time]), **options).psi[-1]


def test_derivatives_of_band_limited_functions_and_filter():
    grid = nlse.Grid(10.0, 64)
    rng = np.random.default_rng(0)
    modes = np.arange(-12, 13)
    k, c = 2 * np.pi * modes / 10.0, rng.standard_normal(25) + 1j * rng.standard_normal(25)
    waves = np.exp(1j * np.outer(grid.x, k))
    for order, symbol in [(1, 1j * k), (2, -(k**2))]:
        assert distance(grid.derivative(waves @ c, order), waves @ (symbol * c)) < 1e-10
    largest = 2 / 3 * np.pi / grid.spacing
    assert np.abs(grid.filter[np.abs(grid.k) < 0.35 * largest] - 1).max() < 1e-12
    assert grid.filter[np.abs(grid.k) > 1.2 * largest].max() < 1e-12
    assert 0.9 < grid.filter[np.argmin(np.abs(np.abs(grid.k) - 0.85 * largest))] < 1  # high order: flat, then steep


def test_closed_forms_solve_the_equation():
    """The residual of i psi_t + psi_xx / 2 + |psi|^2 psi, with the time derivative by central differences."""
    wide, short = nlse.Grid(60.0, 512), nlse.Grid(4 * 2 * np.pi / np.sqrt(2), 256)
    forms = [
        (wide, lambda t: nlse.soliton(wide, t, 1.2, 2 * np.pi * 6 / 60, 3.0, 0.4)),
        (short, lambda t: nlse.breather(short, t)),
    ]
    for grid, form in forms:
        for time in (-0.7, 0.0, 1.1):
            step = 1e-3
            rate = (8 * (form(time + step) - form(time - step)) - form(time + 2 * step) + form(time - 2 * step)) / (
                12 * step
            )
            psi = form(time)
            residual = 1j * rate + grid.derivative(psi, 2) / 2 + np.abs(psi) ** 2 * psi
            assert np.abs(residual).max() < 1e-8
    assert abs(np.abs(nlse.breather(short, 0.0, 0.25)).max() - (1 + 2 * np.sqrt(0.5))) < 1e-12


def test_soliton_after_twenty_time_units():
    grid = nlse.Grid(60.0, 256)
    velocity = 2 * np.pi * 2 / 60
    start = nlse.soliton(grid, 0.0, velocity=velocity)
    truth = [nlse.soliton(grid, time, velocity=velocity) for time in (2.0, 20.0)]
    assert np.abs(final(start, grid, 20.0, rtol=1e-11, filtered=False) - truth[1]).max() < 1e-7
    # on so few points the filter cuts the soliton's spectrum
    assert 1e-7 < np.abs(final(start, grid, 2.0) - truth[0]).max() < 1e-4


def test_boosted_solution_is_a_solution():
    grid, time = nlse.Grid(20.0, 128), 1.5
    velocity = 2 * np.pi * 3 / 20
    calm = 0.8 * np.exp(0.5 * np.cos(2 * np.pi * grid.x / 20)) * np.exp(0.3j * np.sin(2 * np.pi * grid.x / 20))

    def boosted(psi, t):
        moved = np.fft.ifft(np.exp(-1j * grid.k * velocity * t) * np.fft.fft(psi))
        return moved * np.exp(1j * (velocity * grid.x - velocity**2 * t / 2))

    options = dict(rtol=1e-11, filtered=False)
    assert (
        distance(final(boosted(calm, 0.0), grid, time, **options), boosted(final(calm, grid, time, **options), time))
        < 1e-7
    )


def test_invariants_by_hand_and_their_drift_at_step_ends():
    grid, height = nlse.Grid(60.0, 512), 1.3
    velocity = 2 * np.pi * 5 / 60
    psi = nlse.soliton(grid, 0.0, height, velocity)
    expected = [2 * height, 2 * height * velocity, height * velocity**2 - height**3 / 3]
    np.testing.assert_allclose(grid.invariants(psi), expected, rtol=1e-12)
    run = nlse.solve(psi, grid, np.linspace(0, 1, 4), rtol=1e-12)
    assert [nlse.drift(run.invariants[:, i]) < limit for i, limit in enumerate((1e-11, 1e-9, 1e-9))] == [True] * 3
    assert run.steps[0] == 0 and run.steps[-1] == 1 and len(run.steps) == len(run.invariants) > 20
    np.testing.assert_allclose(grid.invariants(run.psi[-1]), run.invariants[-1], rtol=1e-13)
    assert distance(run.psi[1], nlse.soliton(grid, 1 / 3, height, velocity)) < 1e-7
    assert nlse.drift(np.array([2.0, 2.5, 1.0])) == 0.5
    assert nlse.drift(np.array([0.0, -0.3]), scale=3.0) == pytest.approx(0.1)


def test_collision_displaces_the_faster_soliton_forwards():
    grid, velocity = nlse.Grid(60.0, 384), 2 * np.pi * 20 / 60
    psi = nlse.soliton(grid, 0.0, 1.0, velocity, -8.0) + nlse.soliton(grid, 0.0, 0.9, -velocity, 8.0)
    psi = final(psi, grid, 16 / (2 * velocity) * 2)
    fast, slow = nlse.centre(psi, grid, 8.0) - 8.0, nlse.centre(psi, grid, -8.0) + 8.0
    assert abs(fast / nlse.collision_shift(1.0, 0.9, 2 * velocity) - 1) < 0.01
    assert abs(slow / nlse.collision_shift(0.9, 1.0, 2 * velocity) + 1) < 0.01
    assert nlse.centre(nlse.soliton(grid, 0.0, start=29.3), grid, -30.0) == pytest.approx(-30.7, abs=1e-6)


def test_small_waves_grow_at_the_theoretical_rate():
    grid = nlse.Grid(2 * np.pi * 3, 64)
    for mode, growing in [(2, True), (7, False)]:  # wavenumbers 2/3 and 7/3
        run = nlse.solve(1 + 1e-6 * np.cos(mode * grid.x / 3) + 0j, grid, np.linspace(0, 8, 9), rtol=1e-10)
        size = np.log(np.abs(np.fft.fft(run.psi)[:, mode]))
        rate = nlse.instability_rate(np.array([mode / 3]))[0]
        assert (rate > 0) == growing
        if growing:
            assert abs((size[8] - size[6]) / 2 / rate - 1) < 0.005
        else:
            assert size.max() - size[0] < 1


def test_entropies():
    p = np.random.default_rng(1).random((9, 3))  # Tsallis differs from Shannon by half its square times q - 1
    share = p / p.sum(axis=1, keepdims=True)
    shannon = -(share * np.log(share)).sum(axis=1)
    for entropy in (nlse.renyi, nlse.tsallis):
        np.testing.assert_allclose(entropy(p, 1.0), shannon, rtol=1e-12)
        assert np.abs(entropy(p, 1.0001) - shannon).max() < 1e-4
        assert (entropy(p, 2.0) < entropy(p, 0.5)).all()
    np.testing.assert_allclose(nlse.renyi(np.ones(7), 3.0), np.log(7))
    np.testing.assert_allclose(nlse.tsallis(p, 2.0), 1 - (share**2).sum(axis=1))
    assert nlse.renyi(np.eye(5)[0], 1.0) == 0


@pytest.mark.parametrize("order", [2, 4])
def test_splitting_has_its_order_keeps_mass_and_reverses(order):
    grid = nlse.Grid(30.0, 128)
    start = torch.from_numpy(np.stack([nlse.soliton(grid, 0.0, h, 2 * np.pi * 2 / 30) for h in (1.0, 0.8)]))
    truth = final(start[0].numpy(), grid, 2.0, rtol=1e-11, filtered=False)
    errors = [distance(split_step(start, 30.0, 2.0, steps, order).numpy()[0], truth) for steps in (80, 160)]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3
    end = split_step(start, 30.0, 2.0, 40, order)
    np.testing.assert_allclose(end.abs().square().sum(-1), start.abs().square().sum(-1), rtol=1e-12)
    assert (split_step(end, 30.0, -2.0, 40, order) - start).abs().max() < 1e-11


def test_splitting_is_differentiable():
    grid = nlse.Grid(20.0, 32)
    start = torch.from_numpy(nlse.soliton(grid, 0.0, 1.0, 2 * np.pi / 20))
    loss = lambda factor: (split_step(factor * start, 20.0, 0.5, 5) - start).abs().square().sum()  # noqa: E731
    factor = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    loss(factor).backward()
    step = 1e-5
    expected = (loss(factor.detach() + step) - loss(factor.detach() - step)) / (2 * step)
    assert abs(factor.grad - expected) < 1e-6


def test_finite_differences_have_second_order():
    errors = []
    for points in (128, 256):
        grid = nlse.Grid(30.0, points)
        found = finite_differences(nlse.soliton(grid, 0.0), grid, 2.0, int(2 * 2.0 / grid.spacing**2))
        errors.append(distance(found, nlse.soliton(grid, 2.0)))
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.2
    assert not np.isfinite(finite_differences(nlse.soliton(grid, 0.0), grid, 9.0, 200)).all()


def test_bad_input_is_named():
    grid, solve = nlse.Grid(20.0, 32), unchecked(nlse.solve)
    psi, times = nlse.soliton(grid, 0.0), np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="length is -1"):
        nlse.Grid(-1.0, 32)
    with pytest.raises(ValueError, match="points is 33"):
        nlse.Grid(20.0, 33)
    with pytest.raises(ValueError, match="psi has shape"):
        solve(psi[:-1], grid, times)
    with pytest.raises(ValueError, match="psi holds 32"):
        solve(psi * np.nan, grid, times)
    with pytest.raises(ValueError, match="times"):
        solve(psi, grid, times[::-1])
    with pytest.raises(ValueError, match="rtol"):
        solve(psi, grid, times, rtol=0.0)
    with pytest.raises(ValueError, match="wavelengths"):
        nlse.breather(grid, 0.0)
    with pytest.raises(ValueError, match="a is 0.5"):
        nlse.breather(grid, 0.0, 0.5)
    with pytest.raises(ValueError, match="height"):
        nlse.soliton(grid, 0.0, height=0.0)
    with pytest.raises(ValueError, match="density"):
        unchecked(nlse.renyi)(np.array([1.0, -1.0]), 2.0)
    with pytest.raises(ValueError, match="scale"):
        unchecked(nlse.drift)(np.zeros(3))
    with pytest.raises(ValueError, match="reach"):
        nlse.centre(psi, grid, 0.0, reach=11.0)
    with pytest.raises(ValueError, match="order is 3"):
        unchecked(split_step)(torch.from_numpy(psi), 20.0, 1.0, 3, order=3)
    with pytest.raises(ValueError, match="steps"):
        unchecked(finite_differences)(psi, grid, 1.0, 0)
