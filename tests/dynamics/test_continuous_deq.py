"""Continuous deep equilibria: the solver, the steady state, its implicit gradient and the first guess."""

import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import continuous_deq as deq
from touchstone.dynamics import continuous_deq_baselines as baselines
from touchstone.dynamics.odeint import RK4, Count, odeint
from touchstone.dynamics.steady_state import adams, anderson


def linear(width=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(width, width, generator=draw).double()
    return 0.7 * a / torch.linalg.matrix_norm(a, 2), torch.randn(5, width, generator=draw).double()


def test_adams_is_of_order_three_and_meets_its_tolerance():
    start = torch.ones(1).double()
    for tolerance in (1e-4, 1e-6):
        count = Count()
        end = adams(lambda z: -z, start, 2.0, tolerance, count=count)
        assert abs(end.item() - math.exp(-2)) < 10 * tolerance
        assert count.forward == 1 + 2 * count.accepted + count.rejected
    # ten thousand times tighter takes about ten times the steps (order 3: error of a step of order 4)
    steps = []
    for tolerance in (1e-5, 1e-9):
        count = Count()
        adams(lambda z: torch.stack([z[1], -z[0]]), torch.tensor([1.0, 0.0]).double(), 6.0, tolerance, count=count)
        steps.append(count.accepted)
    assert 5 < steps[1] / steps[0] < 20


def test_linear_layer_returns_the_solution():
    a, drive = linear()
    exact = torch.linalg.solve(torch.eye(6).double() - a, drive.T).T
    for discrete in (False, True):
        layer = deq.Equilibrium(stop=1e-6, most=500, discrete=discrete)
        found = layer(lambda z, u: z @ a.T + u, torch.zeros(5, 6).double(), drive)
        assert (found - exact).norm() < 1e-4 * exact.norm()
        assert layer.capped == 0


def test_implicit_gradient_is_that_of_unrolled_steps():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = deq.Cell(8, 2).double()
        drive = (2 * torch.randn(4, 8).double()).requires_grad_()
        weights = torch.randn(4, 8).double()
    z = torch.zeros(4, 8).double()
    for _ in range(200):
        z = cell(z, drive)
    inputs = (drive, *cell.parameters())
    told = torch.autograd.grad((z * weights).sum(), inputs)
    layer = deq.Equilibrium(stop=1e-10, most=2000, backward_stop=1e-12, backward_most=200)
    ours = torch.autograd.grad((layer(cell, torch.zeros(4, 8).double(), drive) * weights).sum(), inputs)
    for a, b in zip(ours, told, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_started_at_the_equilibrium_the_solver_stops_at_once():
    a, drive = linear()
    exact = torch.linalg.solve(torch.eye(6).double() - a, drive.T).T
    layer = deq.Equilibrium()
    layer.find(lambda z, u: z @ a.T + u, exact, drive)
    assert (layer.count.forward, layer.count.accepted) == (1, 0)


def test_guess_is_trained_by_the_penalty_alone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, drive = deq.Layer(16, "network"), torch.randn(4, 16)
    mine, shared = list(layer.network.parameters()), [layer.cell.length]
    rest, guess = layer(drive)
    assert all(g is None for g in torch.autograd.grad(rest.sum(), mine, allow_unused=True, retain_graph=True))
    told = torch.autograd.grad(deq.distance(rest.detach(), guess), mine, retain_graph=True)
    ours = torch.autograd.grad(deq.distance(rest, guess), mine + shared)
    for a, b in zip(ours, told, strict=False):
        assert b.norm() > 0 and torch.equal(a, b)
    assert ours[-1].norm() > 0  # the steady state is not detached: the layer moves towards its guess
    precise = deq.Layer(16, "network", deq.Equilibrium(stop=1e-6, most=500)).double()
    precise.cell.load_state_dict(layer.cell.state_dict())
    there, _ = precise(drive.double())
    precise.first = lambda u: there
    assert deq.distance(*precise(drive.double())) < 1e-6


def test_guess_of_the_layer_is_one_evaluation_from_zero():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, drive = deq.Layer(16, "layer"), torch.randn(4, 16)
    _, guess = layer(drive)
    assert torch.equal(guess, layer.cell(torch.zeros_like(drive), drive))
    assert len(list(layer.parameters())) == len(list(layer.cell.parameters()))
    state, _ = layer(drive, unroll=2)
    assert torch.equal(state, layer.cell(layer.cell(guess, drive), drive))


def test_solves_that_end_at_the_cap_are_counted():
    a, drive = linear()
    for discrete in (False, True):
        layer = deq.Equilibrium(most=2, discrete=discrete)
        layer.find(lambda z, u: z @ a.T + u, torch.zeros_like(drive), drive)
        assert (layer.capped, layer.solves) == (1, 1)


def test_anderson_beats_plain_iteration():
    a, drive = linear()
    exact = torch.linalg.solve(torch.eye(6).double() - a, drive.T).T
    plain = torch.zeros_like(drive)
    for _ in range(10):
        plain = plain @ a.T + drive
    found, calls = anderson(lambda z: z @ a.T + drive, torch.zeros_like(drive), 0.0, 10)
    assert calls == 10 and (found - exact).norm() < 0.1 * (plain - exact).norm()


def test_bad_input_is_named():
    one = torch.ones(2, 2).double()
    with pytest.raises(ValueError, match="start holds"):
        unchecked(adams)(lambda z: -z, one * torch.nan, 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        unchecked(adams)(lambda z: -z, one, -1.0)
    with pytest.raises(ValueError, match="span is infinite"):
        unchecked(adams)(lambda z: -z, one)
    with pytest.raises(ValueError, match="most is 0"):
        unchecked(anderson)(lambda z: z, one, most=0)
    with pytest.raises(ValueError, match="guess has shape"):
        unchecked(deq.Equilibrium.__call__)(deq.Equilibrium(), lambda z, u: u, one[:1], one)
    with pytest.raises(ValueError, match="guess is 'none'"):
        unchecked(deq.Layer.__init__)(deq.Layer.__new__(deq.Layer), 4, "none")
    with pytest.raises(FloatingPointError, match="3 steps reach only"):
        adams(lambda z: -z, one, 5.0, most=3)
    with pytest.raises(FloatingPointError, match="underflows"):
        adams(lambda z: z * torch.nan, one, 1.0)


def test_adams_adjoint_is_the_gradient_of_the_solution():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = baselines.Driven(deq.Cell(8, 2)).double()
        joint = torch.randn(4, 16).double().requires_grad_()
    told = odeint(field, joint, torch.tensor([0.0, 1.0]).double(), RK4(40))[-1]
    count = Count()
    ours = baselines.AdamsAdjoint.apply(field, 1e-8, count, joint, *field.parameters())
    torch.testing.assert_close(ours, told, atol=5e-6, rtol=0)  # some 50 steps, each with an error of 1e-8 a unit
    assert count.backward == 0
    inputs = (joint, *field.parameters())
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), inputs), torch.autograd.grad(told.square().sum(), inputs), strict=True
    ):
        assert (a - b).norm() < 1e-5 * (1 + b.norm())
    assert count.backward > 0


@pytest.mark.parametrize("model", baselines.MODELS)
def test_every_model_learns(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        points = torch.randn(64, 2)
        labels = (points[:, 0] > 0).long()
        net = baselines.Classifier(model, 2, 16, 2)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
        for update in range(12):
            optimiser.zero_grad()
            logits, state, start = net(points, unroll=5 if update < 4 else 0)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            (loss + deq.distance(state, start) if "Skip" in model else loss).backward()
            optimiser.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.75
    assert state.abs().max() <= 1 + 1e-3
    assert net.count.forward > 0 and net.count.backward > 0
    assert (net.layer.network is not None) == (model == "Skip")
    assert (start != 0).any() == ("Skip" in model)
    paid = net.count.backward
    with torch.no_grad():
        net(points)
    assert net.count.backward == paid


def test_moons_in_rings():
    data = baselines.moons_in_rings(0, 200)
    assert data.train.shape == (160, 2) and data.held_out.shape == (40, 2)
    assert set(data.train_labels.tolist()) == {0, 1, 2, 3}
    radius = data.train.norm(dim=1) * 1.5
    assert radius[data.train_labels == 3].mean() > radius[data.train_labels == 2].mean() > 2
    with pytest.raises(ValueError, match="count is 7"):
        baselines.moons_in_rings(0, 7)
    with pytest.raises(ValueError, match="model is 'x'"):
        unchecked(baselines.Classifier.__init__)(baselines.Classifier.__new__(baselines.Classifier), "x", 2, 8, 2)
