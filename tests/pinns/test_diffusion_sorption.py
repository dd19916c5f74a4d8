"""Diffusion-sorption: the reference against a slow and simple scheme, the differences against polynomials, the signs."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns import diffusion_sorption as ds

START = torch.tensor([0.05, 0.15], dtype=torch.float64)


def test_retardation_has_the_printed_constants():
    u = torch.tensor([1.0, 0.1, 0.0, -1.0], dtype=torch.float64)
    at_one = 1 + 0.71 / 0.29 * 2880 * 3.5e-4 * 0.874
    assert abs(ds.retardation(u)[0].item() - at_one) < 1e-12
    assert abs(ds.retardation(u)[1].item() - (1 + (at_one - 1) * 0.1 ** (0.874 - 1))) < 1e-12
    assert ds.retardation(u)[2] == ds.retardation(u)[3] == 1 + (at_one - 1) * 1e-6 ** (0.874 - 1)


def test_reference_agrees_with_small_explicit_steps():
    # explicit Euler on 100 nodes, written independently; both errors are of the order of 1e-3
    nodes, dt = 101, 0.1
    x, u = np.linspace(0, 1, nodes), np.full(101, 0.15)
    u[0] = 1.0
    for _ in range(5000):
        r = 1 + 0.71 / 0.29 * 2880 * 3.5e-4 * 0.874 * np.maximum(u, 1e-6) ** -0.126
        u[1:-1] += dt * 5e-4 / r[1:-1] * np.diff(u, 2) / (x[1] - x[0]) ** 2
        u[-1] = u[-2] * 5e-4 / (5e-4 + (x[1] - x[0]))
    found = ds.reference(START[1:], places=nodes)[0]
    assert np.abs(found[-1].numpy() - u).max() < 2e-3
    assert torch.equal(found[0], torch.full((nodes,), 0.15, dtype=torch.float64))


def test_reference_converges_and_respects_the_maximum_principle():
    fine, coarse = ds.reference(START, cells=512), ds.reference(START, cells=256)
    assert (fine - coarse).norm() / fine.norm() < 5e-5
    assert fine.min() >= 0
    assert fine.max() <= 1 + 1e-6
    later = fine[:, 1:]
    assert (later.diff(dim=-1) < 1e-9).all()  # falls from the inlet to the outlet
    assert (later[:, :, 0] == 1).all()
    outlet = ds.edge_rows(fine)[:, -40:]  # u + D u_x, up to the one-sided difference
    assert outlet.abs().max() < 2e-4
    wrong_sign = later[..., -1] - ds.DIFFUSION * (later[..., -1] - later[..., -2]) * 63
    assert wrong_sign.abs().max() > 5 * outlet.abs().max()


def test_differences_are_exact_for_quadratic_fields():
    t = torch.linspace(0, 500, 11, dtype=torch.float64)[:, None]
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    field = 1e-3 * t + 2 * x**2 - x + 3e-3 * t * x
    u, rate, bend = ds.derivative_terms(field).unbind(-3)
    assert torch.equal(u, field[1:, 1:-1])
    assert torch.allclose(rate, (1e-3 + 3e-3 * x[1:-1]).expand(10, 7), atol=1e-12)
    assert torch.allclose(bend, torch.full((10, 7), 4.0, dtype=torch.float64), atol=1e-9)
    squared = ds.derivative_terms(t**2 * torch.ones_like(x))[1]
    assert torch.allclose(squared[:-1], (2 * t[1:-1]).expand(9, 7), atol=1e-9)  # central: exact for squares, too
    assert torch.allclose(squared[-1], 2 * t[-1] - 50)  # backward: half a step late


def test_equation_vanishes_on_a_manufactured_solution_and_has_the_right_sign():
    u = torch.tensor([0.5], dtype=torch.float64)
    bend = torch.tensor([3.0], dtype=torch.float64)
    rate = 5e-4 / ds.retardation(u) * bend
    assert ds.equation(torch.stack([u, rate, bend])).abs().max() < 1e-18
    assert ds.equation(torch.stack([u, rate, -bend])) > 0


def test_edges_of_the_reference_meet_their_targets_and_derivatives_are_linear():
    field = ds.reference(START)
    targets, scales = ds.edge_values(START)
    rows = ds.edge_rows(field)
    assert rows.shape == targets.shape == scales.shape == (2, 62 + 40 + 40)
    assert ((rows - targets) / scales).abs().max() < 2e-4
    assert torch.equal(scales[0, :62], targets[0, :62])
    both = ds.derivative_terms(2 * field[0] - field[1])
    assert torch.allclose(both, 2 * ds.derivative_terms(field[0]) - ds.derivative_terms(field[1]), atol=1e-9)


def test_grid_solution_solves_the_discrete_equations_near_the_reference():
    start = START[:1]
    found, truth = ds.grid_solution(start, 21, 16), ds.reference(start, 21, 16)
    targets, scales = ds.edge_values(start, 21, 16)
    assert ds.equation(ds.derivative_terms(found).flatten(-2)).abs().max() < 1e-10
    assert ((ds.edge_rows(found) - targets) / scales).abs().max() < 1e-10
    assert 1e-4 < (found - truth).norm() / truth.norm() < 0.05


def test_starts_and_inputs():
    starts = ds.draw_starts(1000, seed=0)
    assert torch.equal(starts, ds.draw_starts(1000, seed=0))
    assert starts.min() > 0
    assert 0.19 < starts.max() < 0.2
    channels = ds.network_inputs(START, 5, 6)
    assert channels.shape == (2, 3, 5, 6)
    assert torch.equal(channels[1, 2], torch.full((5, 6), 1.5, dtype=torch.float64))
    assert channels[0, 0, -1, 0] == channels[0, 1, 0, -1] == 1


@pytest.mark.parametrize("function", [ds.reference, ds.edge_values, ds.network_inputs, ds.grid_solution])
def test_bad_starts_are_named(function):
    for start, message in [
        (torch.tensor([0.1, torch.nan]), "start holds 1 NaN"),
        (torch.tensor([0.1, 0.0]), "start has the value 0"),
        (torch.zeros(0), "start is empty"),
        (torch.ones(2, 2), "start has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            unchecked(function)(start)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="field has 2 times"):
        unchecked(ds.derivative_terms)(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="cases is 0"):
        unchecked(ds.draw_starts)(0, 0)
