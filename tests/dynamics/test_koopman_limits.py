"""Koopman limits: matrices, residuals and pseudospectra in closed form, averages over time, the adversarial pair."""

import numpy as np
import pytest
from scipy.special import jv

from tests.helpers import unchecked
from touchstone.dynamics import koopman_limits as koopman
from touchstone.dynamics import koopman_limits_systems as systems


def torus_galerkin(advance, largest, side=48, dims=2):
    points = koopman.torus_grid(side, dims)
    frequencies = koopman.box(largest, dims)
    weights = np.full(len(points), 1 / len(points))
    return koopman.galerkin(lambda x: koopman.fourier(x, frequencies), points, advance(points), weights), frequencies


def test_rotation_is_diagonal_with_the_right_phases():
    found, frequencies = torus_galerkin(systems.rotation(systems.GOLDEN), 4, 30, dims=1)
    expected = np.diag(np.exp(2j * np.pi * frequencies[:, 0] * systems.GOLDEN))
    np.testing.assert_allclose(np.linalg.pinv(found.G) @ found.A, expected, atol=1e-10)
    values, vectors = found.edmd()
    assert np.abs(found.residuals(values, vectors)).max() < 1e-6
    # the best function in the span is the nearest eigenfunction
    z = np.array([0.3 + 0.2j, 1.2, -1j, np.exp(0.3j)])
    nearest = np.abs(z[:, None] - np.diag(expected)).min(1)
    np.testing.assert_allclose(found.pseudospectrum(z), nearest, atol=1e-7)


def test_image_products_equal_those_of_the_functions_where_the_measure_is_preserved():
    for advance in (systems.rotation(0.31, 0.77), systems.cat):
        found, _ = torus_galerkin(advance, 3)
        np.testing.assert_allclose(found.L, found.G, atol=1e-12)
        np.testing.assert_allclose(found.G, np.eye(49), atol=1e-12)
    shrunk = koopman.galerkin(
        lambda x: koopman.fourier(x, koopman.box(2)), systems.sample(500, 0), 0.5 * systems.sample(500, 0), np.ones(500)
    )
    assert np.abs(shrunk.L - shrunk.G).max() > 50


def test_residual_is_the_norm_of_the_difference():
    points = systems.sample(300, 1)
    before = koopman.fourier(points, koopman.box(2))
    after = koopman.fourier(systems.skew(points), koopman.box(2))
    weights = np.random.default_rng(2).uniform(0.5, 2.0, 300)
    found = koopman.galerkin(
        lambda x: koopman.fourier(x, koopman.box(2)), points, systems.skew(points), weights, chunk=77
    )
    values, vectors = found.edmd()
    values = values + 0.1j  # candidates need not be eigenpairs
    g, image = before @ vectors, after @ vectors
    direct = np.sqrt(
        (weights[:, None] * np.abs(image - values * g) ** 2).sum(0) / (weights[:, None] * np.abs(g) ** 2).sum(0)
    )
    np.testing.assert_allclose(found.residuals(values, vectors), direct, atol=1e-10)
    np.testing.assert_allclose(koopman.residuals(before, after, weights, values, vectors), direct, atol=1e-10)
    ours, theirs = koopman.edmd(before, after, weights)[0], found.edmd()[0]
    np.testing.assert_allclose(np.sort(np.abs(ours)), np.sort(np.abs(theirs)), atol=1e-8)
    assert (found.pseudospectrum(values) <= direct + 1e-8).all()


def test_pseudospectrum_is_lipschitz_and_never_below_the_distance_to_the_spectrum():
    points = systems.sample(400, 5)
    found = koopman.galerkin(
        lambda x: koopman.fourier(x, koopman.box(2)), points, systems.skew(points), np.full(400, 1 / 400)
    )
    axis = np.linspace(-1.5, 1.5, 7)
    z = (axis[:, None] + 1j * axis).ravel()
    tau = found.pseudospectrum(z)
    assert (np.abs(tau[:, None] - tau) <= np.abs(z[:, None] - z) + 1e-7).all()
    exact, _ = torus_galerkin(systems.cat, 3)
    assert (exact.pseudospectrum(z) >= np.minimum(np.abs(np.abs(z) - 1), np.abs(z - 1)) - 1e-7).all()


@pytest.mark.parametrize(("largest", "chain"), [(1, 2), (3, 4), (5, 5), (8, 6)])
def test_cat_map_in_integers(largest, chain):
    assert systems.longest_chain(largest) == chain
    if largest > 4:
        return
    found, frequencies = torus_galerkin(systems.cat, largest)
    np.testing.assert_allclose(found.A, systems.cat_matrix(frequencies), atol=1e-12)
    values, vectors = found.edmd()
    order = np.argsort(np.abs(values - 1))
    assert abs(values[order[0]] - 1) < 1e-10
    assert np.abs(values[order[1:]]).max() < 0.05
    assert found.residuals(values, vectors)[order[1:]].min() > 0.9
    # chains of functions are truncated shifts, whose numerical range is a disc of radius cos(pi / (n + 1))
    z = np.array([1j, -1.0, 0.6 - 0.3j, 1.3j, 0.99])
    shift = np.sqrt(1 + np.abs(z) ** 2 - 2 * np.abs(z) * np.cos(np.pi / (chain + 1)))
    np.testing.assert_allclose(found.pseudospectrum(z), np.minimum(shift, np.abs(z - 1)), atol=1e-7)


def test_wiener_sums_in_closed_form():
    points = systems.sample(4000, 3)

    def wave(p):
        return np.exp(2j * np.pi * p[:, 1])

    assert abs(koopman.wiener_sums(systems.rotation(0.0, systems.GOLDEN), wave, points, 50)[-1] - 1) < 1e-12
    for advance in (systems.skew, systems.cat):
        sums = koopman.wiener_sums(advance, wave, points, 100)
        np.testing.assert_allclose(sums[[0, 9, 99]], [1, 0.1, 0.01], atol=2e-3)  # correlations 1, 0, 0, ...
    two = koopman.wiener_sums(
        systems.rotation(0.0, systems.GOLDEN), lambda p: wave(p) + wave(p) ** 2, koopman.torus_grid(8), 3000
    )
    assert abs(two[-1] - 0.5) < 1e-3  # half of the function on each of two eigenvalues


def test_ergodic_projection_picks_the_eigenvalue():
    points, shift, n = systems.sample(20, 4), systems.GOLDEN, 37
    first, second = (np.exp(2j * np.pi * k * points[:, 1]) for k in (1, 2))
    found = koopman.ergodic_projections(
        systems.rotation(0.0, shift),
        lambda p: np.exp(2j * np.pi * p[:, 1]) + np.exp(4j * np.pi * p[:, 1]),
        points,
        [5, n],
        np.exp(2j * np.pi * shift),
    )
    turn = np.exp(2j * np.pi * shift)
    np.testing.assert_allclose(found[1], first + second * (1 - turn**n) / (1 - turn) / n, atol=1e-12)
    assert found.shape == (2, 20)
    assert abs(koopman.overlap(3j * first, first) - 1) < 1e-12


def test_adversarial_pair():
    points = systems.sample(3000, 6)
    for terms in (1, 2):
        g = systems.adversary_eigenfunction(points, terms)
        moved = systems.adversary(terms)(points)
        np.testing.assert_allclose(systems.adversary_eigenfunction(moved, terms), g, atol=1e-9)
        x = points[:, 0]
        cohomology = systems.transfer(x, terms) - systems.transfer(x + systems.LIOUVILLE, terms)
        np.testing.assert_allclose(systems.drift(x, terms), cohomology, atol=1e-12)
        np.testing.assert_allclose(moved[:, 1] - points[:, 1], cohomology, atol=1e-12)
    x = np.linspace(0, 1, 4001)[:-1]
    gap = np.abs(systems.drift(x, 1) - systems.drift(x, 2)).max()
    assert abs(gap - 2 * np.sin(np.pi * 1e-4)) < 1e-6
    grid = np.stack([x, np.zeros_like(x)], axis=1)
    cosine = koopman.overlap(systems.adversary_eigenfunction(grid, 1), systems.adversary_eigenfunction(grid, 2))
    assert abs(cosine - abs(jv(0, 2 * np.pi))) < 1e-10


def test_pendulum_flow_and_dictionary():
    points, weights = systems.pendulum_grid(24, 120)
    psi = systems.pendulum_dictionary(points)
    np.testing.assert_allclose(psi.conj().T @ (weights[:, None] * psi), np.eye(195), atol=1e-10)
    states = np.random.default_rng(0).uniform(-2, 2, (50, 2))
    moved = systems.pendulum(states)
    energy = moved[:, 1] ** 2 / 2 - np.cos(moved[:, 0])
    np.testing.assert_allclose(energy, states[:, 1] ** 2 / 2 - np.cos(states[:, 0]), atol=1e-8)
    np.testing.assert_allclose(systems.pendulum(moved, -0.5), states, atol=1e-8)
    assert (systems.pendulum(np.array([[0.5, 0.0]]))[0] < [0.5, 0.0]).all()  # it falls back
    found = koopman.galerkin(lambda z: systems.pendulum_dictionary(z, 3, 9), points, systems.pendulum(points), weights)
    assert found.pseudospectrum(np.array([1.0 + 0j]))[0] < 1e-3  # functions of the energy stay as they are


def test_hankel_dmd_finds_the_exponents_of_a_sum():
    turns = np.exp(2j * np.pi * np.array([0.1, 0.27, -0.4]))
    series = (turns ** np.arange(60)[:, None]).sum(1)
    before, after = systems.delays(series, 3)
    values, vectors = koopman.edmd(before, after, np.ones(57))
    np.testing.assert_allclose(np.sort_complex(values), np.sort_complex(turns), atol=1e-9)
    assert koopman.residuals(before, after, np.ones(57), values, vectors).max() < 1e-9


def test_bad_input_is_named():
    points = systems.sample(30, 0)
    psi = koopman.fourier(points, koopman.box(1))
    with pytest.raises(ValueError, match="after has shape"):
        unchecked(koopman.edmd)(psi, psi[:-1], np.ones(30))
    with pytest.raises(ValueError, match="weights must be positive"):
        unchecked(koopman.edmd)(psi, psi, np.zeros(30))
    with pytest.raises(ValueError, match="values holds 9 NaN"):
        unchecked(koopman.residuals)(psi, psi, np.ones(30), np.full(9, np.nan), np.eye(9))
    with pytest.raises(ValueError, match="images has shape"):
        unchecked(koopman.galerkin)(lambda x: x, points, points[1:], np.ones(30))
    with pytest.raises(ValueError, match="largest is 0"):
        unchecked(koopman.box)(0)
    few = koopman.galerkin(lambda x: koopman.fourier(x, koopman.box(3)), points, points, np.ones(30))
    with pytest.raises(ValueError, match="G is singular"):
        few.pseudospectrum(np.array([1j]))
    with pytest.raises(ValueError, match="steps is 0"):
        unchecked(koopman.wiener_sums)(systems.cat, lambda p: p[:, 0], points, 0)
    with pytest.raises(ValueError, match=r"lengths is \[3, 2\]"):
        unchecked(koopman.ergodic_projections)(systems.cat, lambda p: p[:, 0], points, [3, 2])
    with pytest.raises(ValueError, match="terms is 3"):
        unchecked(systems.adversary)(3)
    with pytest.raises(ValueError, match="count is 9"):
        unchecked(systems.delays)(np.ones(9, dtype=complex), 9)
