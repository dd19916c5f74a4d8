"""Operator preconditioning: A against the Hessian and closed forms, the descent against a loop, the two cures."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.operator_preconditioning import (
    Descent,
    Problem,
    Tangents,
    advection_model,
    best_weight,
    condition_number,
    derivative,
    fourier_model,
    legendre,
    spectrum,
    tangents,
)

DOUBLE = torch.float64


def poisson(count=160):
    points = 2 * math.pi * (torch.arange(count, dtype=DOUBLE)[:, None] + 0.5) / count
    ends = torch.tensor([[0.0], [2 * math.pi]], dtype=DOUBLE)
    weights = torch.full((count,), 2 * math.pi / count, dtype=DOUBLE)
    return Problem(
        lambda u: derivative(derivative(u, 0), 0),
        lambda p: torch.sin(p[:, 0]) + 0.5 * torch.cos(3 * p[:, 0]) + 0.3,
        points,
        weights,
        ends,
        torch.ones(2, dtype=DOUBLE),
    )


def advection(speed, places=12, times=14):
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(times))
    place = 2 * math.pi * torch.arange(places, dtype=DOUBLE) / places
    points = torch.cartesian_prod((nodes + 1) / 2, place)
    inner = (weights / 2)[:, None].expand(-1, places).reshape(-1) * 2 * math.pi / places
    start = torch.stack([torch.zeros_like(place), place], dim=1)
    return Problem(
        lambda u: lambda p: derivative(u, 0)(p) + speed * derivative(u, 1)(p),
        lambda p: torch.sin(p[:, 1] - speed * p[:, 0]) * (1 + p[:, 0]),
        points,
        inner,
        start,
        torch.full((places,), 2 * math.pi / places, dtype=DOUBLE),
    )


def network(parameters, points):
    """Ten tanh units on one coordinate."""
    a, w, b = parameters.view(3, 10)
    return torch.tanh(points[:, :1] * w + b) @ a


def zeros(count):
    return torch.zeros(count, dtype=DOUBLE)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_matrix_is_the_hessian_and_gradient_the_gradient_of_a_linear_models_loss(weight):
    problem = advection(3.0)
    model, count = advection_model(3.0, 2, 4)
    start = drawn(count)

    def loss(parameters):
        inside, edge = problem.residuals(lambda points: model(parameters, points))
        return (inside.square().sum() + weight * edge.square().sum()) / 2

    linear = tangents(model, start, problem)
    hessian = torch.autograd.functional.hessian(loss, start)
    torch.testing.assert_close(linear.matrix(weight), hessian, rtol=1e-10, atol=1e-10)
    gradient = torch.func.grad(loss)(start)
    torch.testing.assert_close(linear.gradient(weight), gradient, rtol=1e-10, atol=1e-10)


def test_fourier_poisson_closed_form():
    largest, weight = 6, 0.7
    model, count = fourier_model(largest)
    linear = tangents(model, zeros(count), poisson())
    order = torch.arange(1, largest + 1, dtype=DOUBLE)
    diagonal = math.pi * torch.cat([zeros(1), order**4, order**4])  # |cos kx|^2 = |sin kx|^2 = pi
    torch.testing.assert_close(linear.inside.T @ linear.inside, diagonal.diag(), rtol=1e-10, atol=1e-9)
    end = torch.cat([torch.ones(1 + largest, dtype=DOUBLE), zeros(largest)])  # the same row at both ends
    boundary = linear.edge.T @ linear.edge
    torch.testing.assert_close(boundary, 2 * torch.outer(end, end), rtol=1e-10, atol=1e-10)
    assert torch.linalg.matrix_rank(boundary, rtol=1e-10) == 1
    torch.testing.assert_close(linear.matrix(weight), diagonal.diag() + weight * boundary, rtol=1e-10, atol=1e-9)


def test_rescaling_is_the_change_of_parameters_that_makes_poisson_well_conditioned():
    plain, count = fourier_model(12)
    cured, _ = fourier_model(12, rescaled=True, constant=0.5)
    order = torch.arange(1, 13, dtype=DOUBLE)
    change = torch.cat([torch.tensor([0.5], dtype=DOUBLE), order**-2, order**-2]).diag()
    base = tangents(plain, zeros(count), poisson())
    torch.testing.assert_close(
        base.changed(change).matrix(1.0), tangents(cured, zeros(count), poisson()).matrix(1.0), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(base.changed(change).matrix(2.0), change.T @ base.matrix(2.0) @ change)
    assert condition_number(base.features(1.0)) > 12**4
    assert condition_number(tangents(fourier_model(12, True)[0], zeros(count), poisson()).features(1.0)) < 7


def test_moving_frame_has_condition_number_one_and_a_faster_wave_a_larger_one():
    values = {}
    for speed in (20.0, 80.0):
        for cure in ("none", "frame"):
            model, count = advection_model(speed, 2, 5, cure)
            values[speed, cure] = condition_number(tangents(model, zeros(count), advection(speed)).features(1.0))
        assert abs(values[speed, "frame"] - 1) < 1e-10
    assert values[80.0, "none"] > 8 * values[20.0, "none"] > 8000


def test_legendre_values_and_diagonal_scaling():
    time = torch.tensor([0.0, 0.25, 1.0], dtype=DOUBLE)
    z = 2 * time - 1
    expected = torch.stack([torch.ones_like(z), z, (3 * z**2 - 1) / 2, (5 * z**3 - 3 * z) / 2], dim=1)
    torch.testing.assert_close(legendre(time, 4), expected)
    plain, count = advection_model(4.0, 2, 3)
    scaled, _ = advection_model(4.0, 2, 3, "diagonal")
    points = advection(4.0).points
    divisor = torch.tensor([1.0, 5.0, 9.0, 5.0, 9.0], dtype=DOUBLE).repeat_interleave(3)
    parameters = drawn(count)
    torch.testing.assert_close(scaled(parameters, points), plain(parameters / divisor, points))


def test_descent_agrees_with_a_loop():
    problem = poisson()
    model, count = fourier_model(3)
    linear = tangents(model, zeros(count), problem)
    descent = Descent(linear, weight=0.5)
    matrix, right = linear.matrix(0.5), -linear.gradient(0.5)
    parameters = zeros(count)
    for _ in range(37):
        parameters = parameters - descent.step * (matrix @ parameters - right)
    torch.testing.assert_close(descent.parameters(37), parameters, rtol=1e-9, atol=1e-9)
    inside, edge = problem.residuals(lambda points: model(parameters, points))
    assert abs(descent.loss(37) - (inside.square().sum() + 0.5 * edge.square().sum()).item() / 2) < 1e-8
    points = torch.linspace(0, 6, 50, dtype=DOUBLE)[:, None]

    def error(theta):
        return (model(theta, points) - problem.solution(points)).norm().item()

    steps = descent.steps_to(error, 1e-3)
    assert error(descent.parameters(steps)) <= 1e-3 < error(descent.parameters(steps - 1))
    assert descent.steps_to(error, 1e-3, limit=3) == math.inf


def test_worst_eigenvector_contracts_by_one_minus_two_over_kappa_plus_one():
    features = torch.diag(torch.tensor([3.0, 1.5, 0.5], dtype=DOUBLE))
    for eigenvector in (0, 2):
        residual = zeros(3)
        residual[eigenvector] = 1.0
        descent = Descent(Tangents(features, torch.zeros(1, 3, dtype=DOUBLE), residual, zeros(1)))
        goal = descent.parameters(10**9)
        for steps in (1, 2, 5):
            left = descent.parameters(steps) - goal
            expected = (1 - 2 / (36 + 1)) ** steps * (-1 if eigenvector == 0 and steps % 2 else 1)
            torch.testing.assert_close(left, -goal * expected, rtol=1e-10, atol=1e-12)
    assert abs(descent.condition - 36) < 1e-10


def test_orthogonal_change_of_parameters_keeps_kappa_on_the_range():
    features = drawn(12, 9)[:, :6] @ drawn(6, 9, seed=1)  # rank 6 of 9 parameters
    rotation = torch.linalg.qr(drawn(9, 9, seed=2)).Q
    before, after = condition_number(features), condition_number(features @ rotation)
    assert abs(before / after - 1) < 1e-10
    assert len(spectrum(features)) == 6
    eigenvalues = torch.linalg.eigvalsh(features.T @ features).flip(0)[:6]
    torch.testing.assert_close(spectrum(features), eigenvalues, rtol=1e-8, atol=0)


@pytest.mark.parametrize("count", [160, 12])
def test_network_tangents_agree_with_differences(count):
    # 30 parameters: more points than that are differentiated forward, fewer backward
    problem, start = poisson(count), drawn(30)
    linear = tangents(network, start, problem)
    direction, step = drawn(30, seed=4), 1e-6

    def shifted(size):
        return torch.cat(problem.residuals(lambda p: network(start + size * direction, p)))

    slope = (shifted(step) - shifted(-step)) / (2 * step)
    torch.testing.assert_close(linear.features(1.0) @ direction, slope, rtol=1e-5, atol=1e-6)
    # u'' of a tanh(wx + b) by hand
    a, w, b = start.view(3, 10)
    inside = torch.tanh(problem.points * w + b)
    second = (a * w**2 * -2 * inside * (1 - inside**2)).sum(dim=1)
    exact = -torch.sin(problem.points[:, 0]) - 4.5 * torch.cos(3 * problem.points[:, 0])
    torch.testing.assert_close(linear.residual, (second - exact) * problem.weights.sqrt())


def test_best_weight_is_an_interior_minimum():
    model, count = fourier_model(8, rescaled=True)
    linear = tangents(model, zeros(count), poisson())
    weight, kappa = best_weight(linear)
    assert 1e-3 < weight < 1e3
    assert kappa < min(condition_number(linear.features(weight * factor)) for factor in (0.5, 2.0))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="parameters has shape"):
        unchecked(tangents)(network, zeros(30)[None], poisson())
    with pytest.raises(ValueError, match="parameters holds 30 NaN"):
        unchecked(tangents)(network, zeros(30) * math.nan, poisson())
    with pytest.raises(ValueError, match="features is empty"):
        unchecked(condition_number)(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="features is zero"):
        unchecked(spectrum)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="low is 2"):
        unchecked(best_weight)(None, 2.0, 1.0)
    with pytest.raises(ValueError, match="largest is 0"):
        unchecked(fourier_model)(0)
    with pytest.raises(ValueError, match="preconditioner is 'magic'"):
        unchecked(advection_model)(1.0, 2, 3, "magic")
    with pytest.raises(ValueError, match="modes is 1"):
        unchecked(advection_model)(1.0, 2, 1)
