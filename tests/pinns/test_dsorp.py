"""Diffusion-sorption as a problem of the suite: its reference, its residual and its two ends."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline

from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns import references
from touchstone.pinns.dsorp import dsorp, sorption_solution


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(references, "CACHE", tmp_path_factory.getbasetemp() / "references")


def test_half_as_many_cells_give_the_same_solution():
    _, fine = sorption_solution(0.1, 2048)
    _, coarse = sorption_solution(0.1, 1024)
    assert np.linalg.norm(fine - coarse) < 5e-6 * np.linalg.norm(fine)


def test_the_reference_agrees_with_finite_differences_on_a_graded_grid():
    # nodes that crowd at both ends, three-point differences in place of finite volumes: none of it is in the reference
    from scipy.integrate import solve_ivp

    x = (1 - np.cos(np.pi * np.arange(401) / 400)) / 2
    left, right = np.diff(x)[:-1], np.diff(x)[1:]

    def rate(t, inner):
        outlet = inner[-1] * 5e-4 / (5e-4 + x[-1] - x[-2])
        u = np.concatenate([[1.0], inner, [outlet]])
        bend = 2 * (np.diff(u)[1:] / right - np.diff(u)[:-1] / left) / (left + right)
        return 0.25 * bend / (1 + 0.71 / 0.29 * 2880 * 3.5e-4 * 0.874 * np.maximum(inner, 1e-6) ** -0.126)

    run = solve_ivp(rate, (0, 1), np.full(399, 0.1), "LSODA", [1.0], rtol=1e-7, atol=1e-9, lband=1, uband=1)
    points, values = dsorp().reference()
    last = points[:, 0] == 1
    found = np.interp(x[1:-1], points[last, 1], values[last, 0])
    assert np.abs(found - run.y[:, -1]).max() < 3e-5


def test_residual_vanishes_on_the_reference_and_not_with_the_wrong_sign():
    problem = dsorp()
    _, values = problem.reference()
    spline = RectBivariateSpline(np.linspace(0, 1, 101), np.linspace(0, 1, 256), values.reshape(101, 256), kx=5, ky=5)
    points = torch.cartesian_prod(torch.linspace(0.3, 0.9, 13), torch.linspace(0.1, 0.9, 17)).double()[None]
    t, x = points[0].numpy().T
    parts = [spline.ev(t, x), spline.ev(t, x, dx=1), spline.ev(t, x, dy=1), spline.ev(t, x, dy=2)]
    streams = torch.as_tensor(np.stack(parts))[None, :, :, None]
    assert problem.equation(Jet(streams, problem.orders), points).abs().max() < 2e-3
    streams[:, -1] *= -1
    assert problem.equation(Jet(streams, problem.orders), points).abs().max() > 0.1


def test_ends_ask_for_the_inlet_value_and_the_outward_flux():
    problem = dsorp()
    start, ends = problem.conditions
    place = problem.scale(ends.place(8).double())[None]
    assert (place[0, :4, 1] == 0).all() and (place[0, 4:, 1] == 1).all()
    # u = 1 - x is right at the inlet, and its flux at the outlet is D too large
    misfit = ends.misfit(jets.by_autograd(lambda p: 1 - p[..., 1:], place, ends.orders), place)[0, :, 0]
    assert torch.allclose(misfit[:4], torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(misfit[4:], torch.full((4,), -5e-4, dtype=torch.float64))
    line = problem.scale(start.place(8).double())[None]
    moved = start.misfit(jets.by_autograd(lambda p: 0.1 + 0 * p[..., 1:], line, start.orders), line)
    assert moved.abs().max() < 1e-12
