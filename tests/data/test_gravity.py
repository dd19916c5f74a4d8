"""The mass model: Carlson's closed form against quadrature and limits, Laplace and Poisson, and where samples lie."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.gravity import Body, above_surface, confocal, gravity, samples, shell

BODY = Body()
RNG = np.random.default_rng(5)
OUTSIDE = shell(BODY, 40, 0.0, 3.0, RNG)
INSIDE = np.array([[0.1, 0.3, 0.2], [-0.8, 0.05, 0.1], [0.3, -0.35, 0.1], [0.0, 0.2, -0.3]])  # in the ellipsoid alone


def derivative(points, axis, h=2e-3):
    """Sixth-order central difference of the acceleration."""
    step = h * np.eye(3)[axis]
    sides = [gravity(points + k * step, BODY)[1] - gravity(points - k * step, BODY)[1] for k in (1, 2, 3)]
    return (45 * sides[0] - 9 * sides[1] + sides[2]) / (60 * h)


def potential_by_quadrature(points, body):
    """Ferrers' integral over the confocal family, differentiable: with its upper root held fixed, as the integrand is 0 there."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    share, *others = body.shares
    local = points + torch.as_tensor(body.origin)
    squares = torch.tensor(body.axes, dtype=torch.float64) ** 2
    root = torch.as_tensor(confocal(local.detach().numpy(), body.axes))
    u = torch.as_tensor(0.5 * (nodes + 1))  # s = root + (u / (1 - u))^2
    s = root[:, None] + (u / (1 - u)) ** 2
    jacobian = 2 * u / (1 - u) ** 3 * torch.as_tensor(0.5 * weights)
    sums = squares + s[..., None]
    integrand = (1 - (local[:, None] ** 2 / sums).sum(-1)) / sums.prod(-1).sqrt()
    total = -0.75 * share * (integrand * jacobian).sum(-1)
    for share, (centre, radius, _) in zip(others, body.spheres, strict=True):
        distance = (local - torch.tensor(centre, dtype=torch.float64)).norm(dim=-1)
        total = total + share * torch.where(
            distance < radius, (distance**2 - 3 * radius**2) / (2 * radius**3), -1 / distance
        )
    return total


@pytest.mark.parametrize("where", ["outside", "inside", "in a sphere"])
def test_acceleration_is_minus_autograd_of_the_potential_by_quadrature(where):
    centre = np.array(BODY.spheres[0][0]) - BODY.origin
    points = {"outside": OUTSIDE, "inside": INSIDE, "in a sphere": centre + 0.1 * RNG.uniform(-1, 1, (5, 3))}[where]
    variable = torch.tensor(points, requires_grad=True)
    potential = potential_by_quadrature(variable, BODY)
    pull = -torch.autograd.grad(potential.sum(), variable)[0]
    closed, acceleration = gravity(points, BODY)
    assert np.abs(closed - potential.detach().numpy()).max() < 1e-10
    assert np.abs(acceleration - pull.numpy()).max() < 1e-9


def test_laplacian_is_zero_outside_and_constant_inside():
    divergence = sum(derivative(OUTSIDE, axis)[:, axis] for axis in range(3))
    assert np.abs(divergence).max() < 1e-8
    inside = sum(derivative(INSIDE, axis)[:, axis] for axis in range(3))
    assert np.abs(inside + 3 * BODY.shares[0] / np.prod(BODY.axes)).max() < 1e-8  # -4 pi G rho


def test_a_nearly_round_ellipsoid_is_a_point_mass_and_moments_appear_far_away():
    ball = Body(axes=(1.0, 1.0, 1.0), spheres=())
    potential, pull = gravity(OUTSIDE[:5] * 3, ball)
    r = np.linalg.norm(OUTSIDE[:5] * 3, axis=-1, keepdims=True)
    assert np.abs(potential + 1 / r[:, 0]).max() < 1e-12
    assert np.abs(pull + OUTSIDE[:5] * 3 / r**3).max() < 1e-12
    pole, equator = (gravity(np.array([x]) * 300.0, BODY)[0][0] for x in ([0, 0, 1.0], [1.0, 0, 0]))
    assert abs(300 * pole + 1 + 5**0.5 * BODY.c20 / 300**2) < 1e-9  # C20 < 0: weaker above the pole
    assert BODY.c20 < -0.03
    assert equator < pole


def test_centre_of_mass_has_no_dipole():
    r = 1e4
    pair = gravity(np.array([[r, 0, 0], [-r, 0, 0], [0, r, 0], [0, -r, 0], [0, 0, r], [0, 0, -r]]), BODY)[0] * r**2
    assert np.abs(pair[::2] - pair[1::2]).max() < 1e-5  # a dipole d would give 2 d
    assert abs(BODY.shares.sum() - 1) < 1e-12
    assert BODY.shares[3] < 0


def test_spheres_lie_inside_and_apart():
    for centre, radius, _ in BODY.spheres:
        rim = np.array(centre) - BODY.origin + radius * OUTSIDE / np.linalg.norm(OUTSIDE, axis=-1, keepdims=True)
        assert not BODY.outside(rim).any()
    for i, (a, ra, _) in enumerate(BODY.spheres):
        assert all(np.linalg.norm(np.subtract(a, b)) > ra + rb for b, rb, _ in BODY.spheres[:i])


def test_confocal_root_solves_its_equation():
    far = np.concatenate([OUTSIDE, 1e4 * OUTSIDE, [[1.2, 0, 0], [0, 0, 0.51], [0, 0.9, 0]]])
    root = confocal(far, BODY.axes)
    local = far[BODY.outside(far - BODY.origin)]
    sums = (local**2 / (np.array(BODY.axes) ** 2 + root[BODY.outside(far - BODY.origin)][:, None])).sum(-1)
    assert np.abs(sums - 1).max() < 1e-12
    assert (confocal(INSIDE + BODY.origin, BODY.axes) == 0).all()


def test_points_lie_where_they_should():
    points = shell(BODY, 500, 0.0, 3.0, np.random.default_rng(0))
    r = np.linalg.norm(points, axis=-1)
    assert BODY.outside(points).all()
    assert r.max() < 3 and r.min() < 0.75
    low = above_surface(BODY, 500, 0.3, np.random.default_rng(0))
    assert BODY.outside(low).all()
    height = confocal(low + BODY.origin, BODY.axes)
    assert height.max() < 0.3**2 + 2 * 0.3  # a_x^2 + lambda is the squared axis of the confocal ellipsoid, below 1.3^2


def test_noise_has_the_stated_length_and_a_seed_its_own_set():
    points, clean = samples(BODY, [0, 1], 50)
    again, noisy = samples(BODY, [1], 50, noise=0.1)
    assert torch.equal(points[1], again[0]) and not torch.equal(points[0], points[1])
    error = (noisy[0] - clean[1]).norm(dim=-1) / clean[1].norm(dim=-1)
    assert torch.allclose(error, torch.full((50,), 0.1), atol=1e-5)
    assert (noisy[0] - clean[1]).mean(0).norm() < 0.05 * clean.norm(dim=-1).mean()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="points holds 1 NaN"):
        unchecked(gravity)(np.array([[0.0, np.nan, 1.0]]), BODY)
    with pytest.raises(ValueError, match="points has shape"):
        unchecked(gravity)(np.ones((4, 2)), BODY)
    with pytest.raises(ValueError, match="points is empty"):
        unchecked(gravity)(np.ones((0, 3)), BODY)
    with pytest.raises(ValueError, match="low < high"):
        unchecked(shell)(BODY, 5, 2.0, 1.0, RNG)
    with pytest.raises(ValueError, match="height"):
        unchecked(above_surface)(BODY, 5, 0.0, RNG)
    with pytest.raises(ValueError, match="noise"):
        unchecked(samples)(BODY, [0], 5, -1.0)
