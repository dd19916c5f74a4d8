"""Fields in network weights: derivatives, the order in time, a linear field that must be exact, and the projection."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.insr_pde import (
    Siren,
    adam,
    divergence,
    jittered,
    known_values,
    levenberg_marquardt,
    pointwise_rows,
    project,
    time_step,
)
from touchstone.pinns.insr_pde_baselines import at_places, fourier_midpoint, grid_midpoint, space_time_network


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def fourier(weights, points, orders=0):
    """A field linear in its weights: sines and cosines of period 1, and their derivatives."""
    count = len(weights) // 2
    wave = 2 * math.pi * torch.arange(1, count + 1, dtype=points.dtype)
    angle = points * wave
    value = torch.cat([angle.sin(), angle.cos()], 1)
    first = torch.cat([wave * angle.cos(), -wave * angle.sin()], 1)
    second = -(torch.cat([wave, wave]) ** 2) * value
    return torch.stack([value, first, second][: 1 + orders]) @ weights[:, None]


def constant(weights, points, orders=0):
    """One weight: the same value everywhere."""
    value = weights.expand(len(points), 1)
    return torch.stack([value] + [torch.zeros_like(value)] * (2 * points.shape[1] if orders else 0))


def test_siren_derivatives_are_those_of_automatic_differentiation():
    field = Siren((2, 5, 4, 3), frequency=3.0)
    weights = field.start(draw())
    assert len(weights) == field.size == 3 * 5 + 6 * 4 + 5 * 3
    points = torch.rand(6, 2, generator=draw(1), dtype=torch.float64)
    streams = field(weights, points, 2)
    for m in range(6):
        gradient = torch.func.jacrev(lambda x: field(weights, x[None])[0, 0])(points[m])
        hessian = torch.func.hessian(lambda x: field(weights, x[None])[0, 0])(points[m])
        assert torch.allclose(streams[1:3, m], gradient.T, atol=1e-10)
        assert torch.allclose(streams[3:5, m], hessian.diagonal(dim1=1, dim2=2).T, atol=1e-9)
    assert torch.equal(field(weights, points)[0], streams[0])
    assert Siren((1, 10, 10, 10, 1)).size == 251


@pytest.mark.parametrize("scheme, ratio", [("midpoint", 4), ("implicit Euler", 2), ("explicit Euler", 2)])
def test_order_in_time(scheme, ratio):
    def error(steps):
        weights, points = torch.ones(1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
        for _ in range(steps):
            optimise = partial(levenberg_marquardt, damping=0.0, iterations=1)
            weights = time_step(constant, weights, lambda s, _: -s[0], points, 1 / steps, scheme, 0, optimise=optimise)
        return float(weights) - math.exp(-1)

    assert abs(error(20) / error(40) / ratio - 1) < 0.1
    if scheme != "midpoint":
        assert (error(20) > 0) == (scheme == "implicit Euler")  # explicit steps fall too fast, implicit ones too slowly


def test_zero_time_step_changes_nothing():
    field = Siren((1, 6, 6, 1))
    weights = field.start(draw())
    points = jittered(50, [-1.0], [1.0], draw(1))
    after = time_step(field, weights, lambda s, _: -s[0] * s[1], points, 0.0)
    assert (after - weights).abs().max() < 1e-12


def test_linear_field_takes_one_undamped_iteration_and_conserves_the_norm():
    weights = torch.randn(10, generator=draw(), dtype=torch.float64)
    points = torch.arange(32, dtype=torch.float64)[:, None] / 32
    once = partial(levenberg_marquardt, damping=0.0, iterations=1)
    twice = partial(levenberg_marquardt, damping=0.0, iterations=2)
    before = fourier(weights, points)[0].square().sum()
    step = partial(time_step, fourier, right_side=lambda s, _: -0.7 * s[1], points=points, dt=0.05)
    assert (step(weights, optimise=once) - step(weights, optimise=twice)).abs().max() < 1e-11
    # mode k turns by 2 atan(0.7 k pi dt): the closed form of the midpoint rule
    turned = step(torch.eye(10, dtype=torch.float64)[0], optimise=once)  # sin(2 pi x)
    angle = 2 * math.atan(0.7 * 2 * math.pi * 0.05 / 2)
    assert torch.allclose(turned[[0, 5]], torch.tensor([math.cos(angle), -math.sin(angle)], dtype=torch.float64))
    for _ in range(20):
        weights = step(weights, optimise=once)
    assert abs(fourier(weights, points)[0].square().sum() / before - 1) < 1e-10


def test_old_field_is_a_constant_and_boundary_rows_hold():
    field = Siren((1, 8, 8, 1), frequency=4.0)
    weights = field.start(draw())
    points, ends = jittered(100, [-1.0], [1.0], draw(1)), torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    edge = known_values(field, ends, torch.tensor([[0.3], [-0.2]], dtype=torch.float64), 100.0)
    optimise = partial(levenberg_marquardt, iterations=60)
    after = time_step(field, weights, lambda s, _: 0 * s[0], points, 0.1, edges=[edge], optimise=optimise)
    assert (field(after, ends)[0, :, 0] - torch.tensor([0.3, -0.2])).abs().max() < 0.02
    inside = points[(points.abs() < 0.8)[:, 0]]
    assert (field(after, inside) - field(weights, inside)).abs().max() < 0.1


def test_weight_scales_the_mean_square_and_the_jacobian_is_its_derivative():
    field = Siren((1, 4, 1), frequency=2.0)
    weights, points = field.start(draw()), jittered(7, [0.0], [1.0], draw(1))
    rows = pointwise_rows(field, points, lambda s, x: s[0] * s[1] - x, (), 1, weight=3.0)
    value, jacobian = rows(weights)
    streams = field(weights, points, 1)
    assert torch.allclose(value.square().sum(), 3 * (streams[0] * streams[1] - points).square().mean())
    assert torch.allclose(jacobian, torch.func.jacrev(lambda w: rows(w)[0])(weights))


def test_advection_steps_follow_the_exact_pulse_and_adam_agrees():
    field, generator = Siren((1, 8, 8, 1), frequency=4.0), draw()
    weights = field.start(generator)
    points = jittered(200, [-1.0], [1.0], generator)

    def pulse(x):
        return torch.exp(-((x / 0.3) ** 2))

    fitted = weights = levenberg_marquardt(weights, [known_values(field, points, pulse(points))], 60, 1e-3)
    for _ in range(5):
        points = jittered(200, [-1.0], [1.0], generator)
        weights = time_step(field, weights, lambda s, _: -0.5 * s[1], points, 0.02)
    places = torch.linspace(-0.8, 0.8, 101, dtype=torch.float64)[:, None]
    found, exact = field(weights, places)[0], pulse(places - 0.05)
    assert (found - exact).norm() / exact.norm() < 2e-3
    optimise = partial(adam, iterations=60, rate=2e-3)
    slow = time_step(field, fitted, lambda s, _: -0.5 * s[1], points, 0.02, optimise=optimise)
    exact = pulse(places - 0.01)
    assert (field(slow, places)[0] - exact).norm() < 0.3 * (field(fitted, places)[0] - exact).norm()


def test_projection_removes_divergence():
    velocity, pressure = Siren((2, 10, 10, 2), frequency=1.5), Siren((2, 12, 12, 1), frequency=1.5)
    generator = draw()
    points = jittered(16, [-1.0, -1.0], [1.0, 1.0], generator)
    side = torch.linspace(-1, 1, 21, dtype=torch.float64)
    walls, normals = [], []
    for axis in (0, 1):
        for end in (-1.0, 1.0):
            wall = torch.stack([side, torch.full_like(side, end)], 1)
            walls.append(wall if axis else wall.flip(1))
            normal = torch.zeros(21, 2, dtype=torch.float64)
            normal[:, axis] = end
            normals.append(normal)
    # a random field that no wall stops: with flow through the corners the pressure would be singular there
    a = torch.randn(4, generator=generator, dtype=torch.float64)
    x, y = (math.pi * (points + 1) / 2).T
    wanted = torch.stack([x.sin() * (a[0] + a[1] * y.cos()), (a[2] + a[3] * x.cos()) * y.sin()], 1)
    optimise = partial(levenberg_marquardt, iterations=15, damping=1e-6)
    weights = optimise(velocity.start(generator), [known_values(velocity, points, wanted)])
    after, _ = project(
        velocity, weights, pressure, pressure.start(generator), points, torch.cat(walls), torch.cat(normals), optimise
    )
    check = jittered(20, [-1.0, -1.0], [1.0, 1.0], generator)
    before = divergence(velocity(weights, check, 1)).abs().max()
    assert divergence(velocity(after, check, 1)).abs().max() < 0.1 * before
    # what was taken away is a gradient: the vorticity stays
    curl = [(lambda s: s[1, :, 1] - s[2, :, 0])(velocity(w, check, 1)) for w in (weights, after)]
    assert (curl[0] - curl[1]).abs().max() < 0.1 * before
    assert (velocity(after, torch.cat(walls))[0] * torch.cat(normals)).sum(1).abs().max() < 0.02 * before


def test_points_are_one_a_cell():
    points = jittered(10, [-2.0, 0.0], [2.0, 1.0], draw())
    cells = torch.stack([(points[:, 0] + 2) / 0.4, points[:, 1] / 0.1], 1).long()
    assert sorted(map(tuple, cells.tolist())) == [(i, j) for i in range(10) for j in range(10)]


def test_baselines_share_the_integrator():
    # on a resolved wave grid and Fourier basis have the midpoint rule's phase error and nothing else
    n, dt, steps, speed = 401, 0.1, 10, 1.0
    x = np.linspace(0, 1, n)
    turn = 2 * math.atan(2 * math.pi * speed * dt / 2) * steps / (2 * math.pi)

    def ends(t):
        return (math.sin(-2 * math.pi * turn * t / (dt * steps)),) * 2

    on_grid = grid_midpoint(np.sin(2 * np.pi * x), 0, 1, dt, steps, ends, speed=speed)[-1]
    spectral = fourier_midpoint(np.sin(2 * np.pi * np.arange(21) / 21), 1, dt, steps, speed=speed)[-1]
    exact = np.sin(2 * np.pi * (x - turn))
    assert np.abs(on_grid - exact).max() < 2e-3
    assert np.abs(spectral - np.sin(2 * np.pi * (np.arange(21) / 21 - turn))).max() < 1e-10
    assert (
        np.abs(at_places(on_grid, x, np.array([0.3, 0.77])) - np.sin(2 * np.pi * (np.array([0.3, 0.77]) - turn))).max()
        < 2e-3
    )


def test_baselines_solve_a_travelling_front():
    def front(x, t):
        return 0.5 - 0.5 * np.tanh((x + 0.3 - 0.5 * t) / (4 * 0.02))

    x = np.linspace(-1, 1, 401)
    found = grid_midpoint(
        front(x, 0), -1, 1, 0.01, 50, lambda t: (front(-1, t), front(1, t)), burgers=1.0, viscosity=0.02
    )
    assert np.abs(found[-1] - front(x, 0.5)).max() < 3e-3
    with pytest.raises(ValueError, match="start has 10 nodes"):
        fourier_midpoint(np.zeros(10), 1.0, 0.1, 1)


@pytest.mark.parametrize("optimiser", ["Adam", "Levenberg-Marquardt"])
def test_space_time_network_learns(optimiser):
    field, weights = space_time_network(0, 0.3, lambda x: torch.exp(-4 * x**2), 0.2, 1.0, 1.0, optimiser, (6, 6))
    first = torch.tensor([[-1.0, 0.0], [-1.0, 0.9]], dtype=torch.float64)
    values = field(weights, first)[0, :, 0]
    assert values[0] > values[1] + 0.3


def test_bad_arguments_are_named():
    field = Siren((1, 4, 1))
    weights, points = field.start(draw()), torch.zeros(3, 1, dtype=torch.float64)
    step = unchecked(time_step)
    with pytest.raises(ValueError, match="scheme is 'trapezoid'"):
        step(field, weights, lambda s, _: s[0], points, 0.1, "trapezoid")
    with pytest.raises(ValueError, match="points is empty"):
        step(field, weights, lambda s, _: s[0], points[:0], 0.1)
    with pytest.raises(ValueError, match="weights holds 13 NaN"):
        step(field, weights * torch.nan, lambda s, _: s[0], points, 0.1)
    with pytest.raises(ValueError, match="weights has shape"):
        unchecked(Siren.__call__)(field, weights[1:], points)
    with pytest.raises(ValueError, match="points has shape"):
        unchecked(Siren.__call__)(field, weights, torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match="values has shape"):
        unchecked(known_values)(field, points, torch.zeros(2, 1).double())
    with pytest.raises(ValueError, match="sizes is"):
        Siren((1, 1))
