"""The Fourier algebra against values on a grid, the descent against autograd and closed forms, the sampled network."""

from itertools import islice

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.barron_pde import (
    barron_recursion,
    descend,
    gradient_reaction,
    inner,
    polynomial,
    product,
    reaction,
    sampled_network,
    total,
)

AXIS = 2 * np.pi * np.arange(24) / 24
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)  # exact for frequencies below 24


def draw(seed, terms=6, dims=2, largest=3):
    rng = np.random.default_rng(seed)
    frequencies = rng.integers(-largest, largest + 1, size=(terms, dims))
    return polynomial(frequencies, rng.normal(size=terms) + 1j * rng.normal(size=terms))


def test_equal_and_opposite_frequencies_are_merged():
    u = polynomial(np.array([[1, 2], [-1, -2], [0, 0], [1, 2]]), np.array([1.0, 2j, 3.0 + 4j, 1.0]))
    assert len(u.keys) == 2  # Re 2i e^{-iwx} = Re (-2i) e^{iwx}
    expected = (np.exp(1j * GRID @ [1, 2]) * (2 - 2j)).real + 3
    np.testing.assert_allclose(u(GRID), expected, atol=1e-12)


def test_algebra_agrees_with_values():
    u, v = draw(0), draw(1)
    uv, rest, square = product(u, v)
    np.testing.assert_allclose(uv(GRID), u(GRID) * v(GRID), atol=1e-11)
    np.testing.assert_allclose(total(u, v)(GRID), u(GRID) + v(GRID), atol=1e-12)
    assert len(rest.keys) == 0
    assert abs(inner(u, v) - (u(GRID) * v(GRID)).mean()) < 1e-12
    assert abs(square - (u(GRID) ** 2 * v(GRID) ** 2).mean()) < 1e-10
    step = 1e-6 * np.array([1.0, 0.0])
    np.testing.assert_allclose(u.derivative(0)(GRID), (u(GRID + step) - u(GRID - step)) / 2e-6, atol=1e-6)
    smooth = u.smoothed()
    second = sum(smooth.derivative(i).derivative(i)(GRID) for i in range(2))
    np.testing.assert_allclose(smooth(GRID) - second, u(GRID), atol=1e-11)
    assert np.abs(u(GRID)).max() <= u.wiener <= u.barron


def test_norms_and_preconditioner_by_hand():
    u = polynomial(np.array([[3, 4], [0, 0], [0, -1]]), np.array([2.0, -5.0, 3j]))
    assert abs(u.wiener - 10) < 1e-12  # the moduli; cos(wx) has two frequencies of amplitude one half
    assert abs(u.barron - ((1 + 5) * 2 + 5 + (1 + 1) * 3)) < 1e-12
    assert abs(u.smoothed().wiener - (2 / 26 + 5 + 3 / 2)) < 1e-12
    assert abs(inner(u, u) - (4 / 2 + 25 + 9 / 2)) < 1e-12


def test_barron_algebra_on_100_draws():
    for seed in range(100):
        dims = 1 + seed % 5
        u, v = draw(seed, 8, dims, 4), draw(1000 + seed, 8, dims, 4)
        assert product(u, v)[0].barron <= u.barron * v.barron * (1 + 1e-12)
        assert u.smoothed().barron <= u.barron
        assert u.smoothed().derivative(0).barron <= 0.5 * u.barron


def test_pruning_keeps_the_heaviest_and_returns_the_rest():
    u, v = draw(2, 30, 3), draw(3, 30, 3)
    whole, _, square = product(u, v)
    kept, rest, same = product(u, v, keep=50)
    assert len(kept.keys) == 50
    assert kept.weights.min() >= rest.weights.max()
    assert abs(kept.barron + rest.barron - whole.barron) < 1e-10
    assert same == square
    difference = total(whole, kept.scaled(-1.0), rest.scaled(-1.0))
    assert difference.wiener < 1e-12


def test_dropped_bound_covers_what_pruning_takes_from_the_force():
    u = draw(4, 12, 4, 3)
    exact, _, none = reaction(u, 0.5)
    pruned, _, bound = reaction(u, 0.5, keep=40)
    missing = total(exact, pruned.scaled(-1.0)).smoothed().barron
    assert none == 0
    assert 0 < missing <= bound
    exact, _, _ = gradient_reaction(u, 0.5)
    pruned, _, bound = gradient_reaction(u, 0.5, keep=40)
    assert 0 < total(exact, pruned.scaled(-1.0)).smoothed().barron <= bound


@pytest.mark.parametrize("nonlinearity", [reaction, gradient_reaction])
def test_derivative_agrees_with_autograd_of_the_energy(nonlinearity):
    # Energy by quadrature on a grid that is exact for fourth powers, differentiated in the coefficients.
    forcing, g, dims = draw(5, 3, 2, 2), 0.7, 2
    iterate = list(islice(descend(forcing, g, 0.4, nonlinearity, keep=12), 3))[2]
    u = iterate.solution
    axis = 2 * np.pi * np.arange(60) / 60
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    waves = torch.tensor(np.exp(1j * points @ u.frequencies.T))
    omega = torch.tensor(u.frequencies.astype(float))
    parts = torch.tensor(np.stack([u.coefficients.real, u.coefficients.imag]), requires_grad=True)
    c = torch.complex(parts[0], parts[1])
    value = (waves @ c).real
    slopes = [(waves @ (1j * omega[:, i] * c)).real for i in range(dims)]
    quartic = value**4 if nonlinearity is reaction else sum(s**4 for s in slopes) / dims
    density = sum(s**2 for s in slopes) / 2 + value**2 / 2 + g / 4 * quartic - torch.tensor(forcing(points)) * value
    energy = density.mean()
    energy.backward()
    assert abs(energy.item() - iterate.energy) < 1e-10
    # dE/d(real part) = <DE, cos(w x)> and dE/d(imaginary part) = -<DE, sin(w x)>
    exact = total(u.scaled(1 + u.squared_frequency), nonlinearity(u, g)[0], forcing.scaled(-1.0))
    for j, frequency in enumerate(u.frequencies):
        cosine = polynomial(frequency[None], np.array([1.0]))
        sine = polynomial(frequency[None], np.array([-1j]))
        assert abs(inner(exact, cosine) - parts.grad[0, j].item()) < 1e-8
        assert abs(-inner(exact, sine) - parts.grad[1, j].item()) < 1e-8


def test_linear_equation_is_solved_by_one_step():
    forcing = draw(6, 20, 8)
    _, solved = islice(descend(forcing, 0.0, 1.0), 2)
    assert solved.gradient.wiener < 1e-12
    exact = forcing.smoothed()
    assert total(solved.solution, exact.scaled(-1.0)).wiener < 1e-12
    assert abs(solved.energy + inner(forcing, exact) / 2) < 1e-12


def test_barron_norm_stays_below_the_recursion_and_energy_falls_at_the_rate_of_theory():
    forcing, g = draw(7, 4, 3, 2), 0.5
    forcing = forcing.scaled(6 / forcing.barron)
    bound = 1 + 3 * g * forcing.wiener**2  # sup|u| <= sup|f| by the maximum principle; iterates from below stay there
    steps = list(islice(descend(forcing, g, 1 / bound, keep=150), 25))
    for before, after in zip(steps, steps[1:], strict=False):
        assert after.solution.barron <= barron_recursion(before.solution.barron, forcing.barron, g, 1 / bound)
    energies = np.array([step.energy for step in steps])
    low = list(islice(descend(forcing, g, 0.5, keep=150), 30))[-1].energy
    gaps = energies - low
    assert (np.diff(energies) < 0).all()
    assert (gaps[1:] <= (1 - 1 / bound) * gaps[:-1] + 1e-9).all()


def test_recursion_by_hand():
    assert barron_recursion(2.0, 3.0, 0.5, 0.25) == 0.75 * 2 + 0.25 * (0.5 * 8 + 3)
    assert barron_recursion(5.0, 3.0, 0.5, 1.0) == 0.5 * 125 + 3


def test_plain_descent_is_unstable_where_the_preconditioned_one_is_not():
    forcing = polynomial(np.array([[1, 0], [8, 0]]), np.array([1.0, 1.0]))
    plain = [step.energy for step in islice(descend(forcing, 0.0, 0.5, preconditioned=False), 5)]
    ours = [step.energy for step in islice(descend(forcing, 0.0, 0.5), 5)]
    assert plain[-1] > plain[0]
    assert (np.diff(ours) < 0).all()
    small = [step.energy for step in islice(descend(forcing, 0.0, 0.03, preconditioned=False), 5)]
    assert (np.diff(small) < 0).all()


def test_sampled_network_is_unbiased_and_as_accurate_as_the_variance_says():
    u, units = draw(8, 30, 4), 64
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        difference = total(sampled_network(u, units, generator), u.scaled(-1.0))
        errors.append(inner(difference, difference))
    share = u.weights / u.barron
    mass = np.where(u.keys == 0, 1.0, 0.5) * np.abs(u.coefficients) ** 2
    expected = ((mass / share).sum() - inner(u, u)) / units
    assert abs(np.mean(errors) / expected - 1) < 0.1
    assert expected <= u.barron**2 / units
    averaged = total(*[sampled_network(u, units, generator).scaled(1 / 400) for _ in range(400)], u.scaled(-1.0))
    assert inner(averaged, averaged) < 5 * expected / 400
    same = [sampled_network(u, units, np.random.default_rng(3)).coefficients for _ in range(2)]
    assert np.array_equal(*same)


def test_bad_input_is_named():
    make = unchecked(polynomial)
    with pytest.raises(ValueError, match="coefficients holds 1 NaN"):
        make(np.array([[1, 2]]), np.array([np.nan]))
    with pytest.raises(ValueError, match="coefficients has shape"):
        make(np.array([[1, 2]]), np.ones(3))
    with pytest.raises(ValueError, match="frequencies is empty"):
        make(np.zeros((0, 2), dtype=int), np.ones(0))
    with pytest.raises(ValueError, match="frequencies must be integers"):
        make(np.array([[1.0, 2.0]]), np.ones(1))
    with pytest.raises(ValueError, match="step is -1"):
        next(unchecked(descend)(draw(0), 1.0, -1.0))
    with pytest.raises(ValueError, match="strength is -1"):
        next(unchecked(descend)(draw(0), -1.0, 1.0))
    with pytest.raises(ValueError, match="step is 2"):
        unchecked(barron_recursion)(1.0, 1.0, 1.0, 2.0)
    with pytest.raises(ValueError, match="units is 0"):
        unchecked(sampled_network)(draw(0), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="u is zero"):
        unchecked(sampled_network)(draw(0).scaled(0.0), 4, np.random.default_rng(0))
