import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.generative.samplers import euler, heun, rk45


def rotation(z, t):
    return 2 * math.pi * t * torch.stack([-z[..., 1], z[..., 0]], dim=-1)


def test_constant_velocity_is_exact_in_one_euler_step():
    start = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.3, -1.7], dtype=torch.float64)
    flow = euler(lambda z, t: shift.expand_as(z), start, 1)
    assert flow.nfe == 1
    assert (flow.end - start - shift).abs().max() < 1e-12


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_orders_of_accuracy(solver, order):
    """The angle is pi t^2: half a turn at t = 1."""
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    errors = [(solver(rotation, start, steps).end + start).norm() for steps in (100, 200)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_every_call_is_counted():
    calls = []

    def velocity(z, t):
        calls.append(float(t))
        return rotation(z, t)

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for solve in (lambda: euler(velocity, start, 5), lambda: heun(velocity, start, 5), lambda: rk45(velocity, start)):
        calls.clear()
        assert solve().nfe == len(calls)
    assert heun(velocity, start, 5).nfe == 10


def test_reversed_rk45_returns_to_the_start():
    start = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    there = rk45(rotation, start).end
    assert (there + start).abs().max() < 1e-3
    assert (rk45(rotation, there, span=(1.0, 0.0)).end - start).abs().max() < 1e-4


def test_path_holds_every_step_and_runs_backwards():
    start = torch.zeros(3)
    flow = euler(lambda z, t: torch.ones_like(z), start, 4, span=(1.0, 0.0))
    torch.testing.assert_close(flow.path[:, 0], torch.tensor([0.0, -0.25, -0.5, -0.75, -1.0]))


def test_bad_input_is_named():
    for solver in (euler, heun):
        with pytest.raises(ValueError, match="start"):
            unchecked(solver)(rotation, torch.full((2, 2), torch.nan), 3)
        with pytest.raises(ValueError, match="steps"):
            unchecked(solver)(rotation, torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match="start"):
        unchecked(rk45)(rotation, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="tolerance"):
        unchecked(rk45)(rotation, torch.zeros(2, 2), tolerance=0.0)
