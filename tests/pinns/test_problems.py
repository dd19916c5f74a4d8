"""Reference solutions against tighter or independent computations, and residuals against the references."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from touchstone.nn.jets import Jet
from touchstone.pinns import problems
from touchstone.pinns.problems import ac, burgers, conv, etdrk4, lorenz


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(problems, "CACHE", tmp_path_factory.getbasetemp() / "references")


def distance(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def jet_of(problem, function, points):
    """The jet of a known function by repeated differentiation."""
    points = points.clone().requires_grad_()
    value = function(points)
    streams = [value]
    for axis, highest in enumerate(problem.orders):
        columns = list(value.unbind(-1))
        for _ in range(highest):
            slopes = [torch.autograd.grad(c.sum(), points, create_graph=True)[0][..., axis] for c in columns]
            columns = slopes
            streams.append(torch.stack(slopes, -1))
    return Jet(torch.stack(streams, 1).detach(), problem.orders)


def test_allen_cahn_against_half_the_step():
    _, coarse = problems.allen_cahn_solution(512, 5e-4)
    _, fine = problems.allen_cahn_solution(512, 2.5e-4)
    assert distance(coarse, fine) < 1e-9
    assert ac().reference()[1].shape == (101 * 256, 1) and np.abs(coarse).max() < 1.01


def test_allen_cahn_against_more_modes():
    _, coarse = problems.allen_cahn_solution(512, 5e-4)
    _, fine = problems.allen_cahn_solution(1024, 1e-3)
    assert distance(coarse, fine) < 5e-5


def test_lorenz_against_a_tighter_tolerance():
    _, loose = problems.lorenz_solution(2.0, 1e-11)
    _, tight = problems.lorenz_solution(2.0, 1e-13)
    assert distance(loose, tight) < 1e-8
    assert np.array_equal(tight[0], [1, 1, 1])


def test_burgers_against_a_spectral_method():
    modes = 2048
    x, wave = -1 + 2 * np.arange(modes) / modes, np.pi * np.arange(modes // 2 + 1)

    def steepening(state):
        return -0.5j * wave * np.fft.rfft(np.fft.irfft(state, modes) ** 2)

    values = etdrk4(-0.01 / np.pi * wave**2, steepening, -np.sin(np.pi * x), 1e-3, 1000, 10)
    spline = CubicSpline(np.append(x, 1), np.append(values, values[:, :1], 1), axis=1)
    points, truth = burgers().reference()
    assert distance(spline(np.linspace(-1, 1, 256)), truth.reshape(101, 256)) < 1e-6
    assert np.allclose(truth[points[:, 0] == 0, 0], -np.sin(np.pi * np.linspace(-1, 1, 256)))


def test_convection_residual_vanishes_on_the_exact_solution():
    problem, points = conv(10.0), torch.rand(1, 20, 2, dtype=torch.float64)
    points = problem.scale(points)
    exact = jet_of(problem, lambda p: torch.sin(p[..., 1:] - 10 * p[..., :1]), points)
    assert problem.equation(exact, points).abs().max() < 1e-12
    wrong = jet_of(problem, lambda p: torch.sin(p[..., 1:] + 10 * p[..., :1]), points)
    assert problem.equation(wrong, points).abs().max() > 1


@pytest.mark.parametrize("make", [ac, burgers])
def test_residual_vanishes_on_the_reference(make):
    problem = make()
    points, values = problem.reference()
    t, x, u = np.unique(points[:, 0]), points[:256, 1], values.reshape(101, 256)
    early = slice(2, 30)  # before the solution is steep, where splines resolve it
    along = CubicSpline(x, u, axis=1)
    slope = CubicSpline(t, u, axis=0)(t, 1)
    stack = np.stack([u, slope, along(x, 1), along(x, 2)])[:, early, 20:-20].reshape(4, -1, 1)
    residual = problem.equation(Jet(torch.tensor(stack)[None], (1, 2)), torch.zeros(1, stack.shape[1], 2))
    assert residual.abs().max() < 2e-2 * np.abs(slope[early]).max()
    stack[1] *= -1
    assert problem.equation(Jet(torch.tensor(stack)[None], (1, 2)), torch.zeros(1, 1, 2)).abs().max() > 1


def test_lorenz_residual_vanishes_on_the_reference():
    problem = lorenz(1.0)
    points, values = problem.reference()
    slope = CubicSpline(points[:, 0], values)(points[:, 0], 1)
    jet = Jet(torch.tensor(np.stack([values, slope]))[None], (1,))
    assert problem.equation(jet, torch.tensor(points)[None]).abs().max() < 1e-3 * np.abs(slope).max()


def test_initial_values_and_domains():
    for problem in (conv(20.0), ac(), burgers()):
        points, values = problem.reference()
        start = points[:, 0] == 0
        assert np.allclose(problem.initial(torch.tensor(points[start, 1:])), values[start], atol=1e-12)
        assert points.shape == (101 * 256, 2) and (points >= problem.low).all() and (points <= problem.high).all()
        assert problem.error(lambda p, v=values: v[None])[0] == 0


def test_references_are_read_back_from_disk():
    first = problems.lorenz_solution(0.25, 1e-9)
    assert any(problems.CACHE.glob("lorenz_solution-*.npz"))
    again = problems.lorenz_solution(0.25, 1e-9)
    assert np.array_equal(first[1], again[1]) and not list(problems.CACHE.glob("tmp*"))
