"""Neural ODEs: solvers against closed forms and torchdiffeq, the adjoint against autograd, models against identities."""

import math

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import RK45
from torch import nn

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.dynamics import neural_ode_baselines as baselines
from touchstone.dynamics import neural_ode_models as models
from touchstone.dynamics import odeint as solvers
from touchstone.dynamics.neural_ode import ODEBlock, odeint_adjoint
from touchstone.dynamics.neural_ode_entrant import LearnedField, fit_field, learn
from touchstone.dynamics.odeint import RK4, Count, Dopri5, odeint
from touchstone.dynamics.protocol import Series, Simulator

TIMES = torch.tensor([0.0, 0.7, 1.1, 2.0], dtype=torch.float64)


def decay(time, state):
    return -state


def spin(time, state):
    """A pendulum that is shaken; depends on time and state."""
    x, y = state[..., :1], state[..., 1:]
    return torch.cat([y, -x.sin() + 0.3 * math.cos(2 * time)], -1)


def start(batch=3, dim=2, seed=0):
    return torch.randn(batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(dim=2, hidden=8):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        field = models.TimedField(dim, hidden).double()
    for parameter in field.parameters():
        parameter.data *= 2
    return field


class Clocked(nn.Module):
    """A field for torchdiffeq, whose time is a tensor."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, time, state):
        return self.field(time.item(), state)


def observed_loss(states):
    """A loss that looks at every time, at some more than at others."""
    weight = torch.linspace(0.5, 2.0, states.numel(), dtype=states.dtype).view_as(states)
    return (weight * states.sin()).sum()


def gradients(states, inputs):
    return torch.autograd.grad(observed_loss(states), inputs)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_dopri5_reaches_the_tolerance_on_decay(tolerance):
    one, count = torch.ones(1, dtype=torch.float64), Count()
    end = odeint(decay, one, torch.tensor([0.0, 1.0]).double(), Dopri5(tolerance), count)[-1]
    assert abs(end.item() - math.exp(-1)) < 10 * tolerance
    assert count.forward == 2 + 6 * (count.accepted + count.rejected)


def test_tighter_tolerances_cost_more_and_err_less():
    errors, calls = [], []
    reference = odeint(spin, start(), TIMES, Dopri5(1e-12))[-1]
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        count = Count()
        errors.append((odeint(spin, start(), TIMES, Dopri5(tolerance), count)[-1] - reference).abs().max().item())
        calls.append(count.forward)
    assert errors == sorted(errors, reverse=True) and calls == sorted(calls)
    assert errors[0] > 1e3 * errors[-1] and calls[-1] > 4 * calls[0]


def test_one_step_of_dopri5_integrates_quartic_rates_exactly():
    """The weights and nodes of order 5, without the controller."""
    zero = torch.zeros(1, dtype=torch.float64)
    wide = Dopri5(1e9)
    end = odeint(lambda time, state: zero + 5 * time**4, zero, torch.tensor([0.0, 2.0]).double(), wide)[-1]
    assert abs(end.item() - 32) < 1e-12


def test_dopri5_has_the_tables_of_scipy():
    assert np.allclose(np.array(solvers.INTERPOLATION), RK45.P, rtol=1e-14, atol=0)
    assert np.allclose(np.abs(solvers.ERROR), np.abs(RK45.E), rtol=1e-14, atol=0)
    assert np.allclose(solvers.STAGES[-1], RK45.B, rtol=1e-14, atol=0)
    for row, scipys in zip(solvers.STAGES, RK45.A, strict=False):
        assert np.allclose(row, scipys[: len(row)], rtol=1e-14, atol=0)


def test_states_between_the_steps_are_as_good():
    times = torch.linspace(0, 4, 41, dtype=torch.float64)
    one, count = torch.ones(1, dtype=torch.float64), Count()
    path = odeint(lambda time, state: state * math.cos(time), one, times, Dopri5(1e-6), count)[:, 0]
    assert count.accepted < 40  # most times lie inside a step
    assert (path - times.sin().exp()).abs().max() < 1e-4
    alone = odeint(lambda time, state: state * math.cos(time), one, times[[0, -1]], Dopri5(1e-6))[-1]
    assert torch.equal(alone, path[-1:])  # asking for more times does not change the steps


def test_rk4_error_falls_sixteenfold():
    errors = []
    for steps in (10, 20, 40):
        end = odeint(spin, start(), TIMES[[0, 3]], RK4(steps))[-1]
        errors.append((end - odeint(spin, start(), TIMES[[0, 3]], Dopri5(1e-12))[-1]).norm().item())
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 14 < coarse / fine < 18


def test_rk4_integrates_cubic_rates_exactly_and_counts():
    count, zero = Count(), torch.zeros(1, dtype=torch.float64)
    end = odeint(lambda time, state: zero + 4 * time**3, zero, TIMES[[0, 3]], RK4(3), count)[-1]
    assert abs(end.item() - 16) < 1e-12
    assert count.forward == 12


def test_forward_then_backward_returns():
    end = odeint(spin, start(), TIMES, Dopri5(1e-8))[-1]
    back = odeint(spin, end, TIMES.flip(0), Dopri5(1e-8))
    assert (back[-1] - start()).abs().max() < 1e-5
    assert (back[-1] - end).abs().max() > 0.1  # it did move


def test_values_agree_with_torchdiffeq():
    ours = odeint(spin, start(), TIMES, Dopri5(1e-9))
    theirs = torchdiffeq.odeint(lambda t, z: spin(float(t), z), start(), TIMES, rtol=1e-9, atol=1e-9, method="dopri5")
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", [Dopri5(1e-10), RK4(60)], ids=["dopri5", "rk4"])
def test_adjoint_gradients_are_those_of_back_propagation(solver):
    field, first = network(), start().requires_grad_()
    inputs = (first, *field.parameters())
    direct = gradients(odeint(field, first, TIMES, Dopri5(1e-10)), inputs)
    adjoint = gradients(odeint_adjoint(field, first, TIMES, solver), inputs)
    for found, wanted in zip(adjoint, direct, strict=True):
        assert (found - wanted).norm() < 1e-6 * wanted.norm()


def test_adjoint_gradients_agree_with_torchdiffeq():
    field, first = network(), start().requires_grad_()
    inputs = (first, *field.parameters())
    ours = gradients(odeint_adjoint(field, first, TIMES, Dopri5(1e-9)), inputs)
    theirs = torchdiffeq.odeint_adjoint(Clocked(field), first, TIMES, rtol=1e-9, atol=1e-9, method="dopri5")
    for found, wanted in zip(ours, gradients(theirs, inputs), strict=True):
        assert (found - wanted).norm() < 1e-6 * wanted.norm()


def test_adjoint_counts_both_passes_and_a_shift_of_time_leaves_gradients():
    field, first, count = nn.Linear(2, 2).double(), start().requires_grad_(), Count()
    still = models.Autonomous(field)
    early = gradients(odeint_adjoint(still, first, TIMES, Dopri5(1e-8), count=count), (first, *field.parameters()))
    assert count.forward > 14 and count.backward > 3 * 8  # the backward pass starts anew at every observed time
    late = gradients(odeint_adjoint(still, first, TIMES + 5, Dopri5(1e-8)), (first, *field.parameters()))
    for found, wanted in zip(late, early, strict=True):
        assert (found - wanted).norm() < 1e-8 * wanted.norm()


def test_adjoint_keeps_nothing_of_the_steps():
    kept = {}
    for adjoint in (True, False):
        for tolerance in (1e-2, 1e-8):
            block, first = ODEBlock(network(), Dopri5(tolerance), adjoint), start(16).requires_grad_()
            with baselines.SavedMemory() as memory:
                out = block(first)
                kept[adjoint, tolerance] = memory.now
                out.square().sum().backward()
                kept["peak", adjoint, tolerance] = memory.peak
    assert kept[True, 1e-8] == kept[True, 1e-2] > 0
    assert kept["peak", True, 1e-8] == kept["peak", True, 1e-2] > kept[True, 1e-2]
    assert kept[False, 1e-8] > 3 * kept[False, 1e-2] > 3 * kept[True, 1e-2]


def test_memory_meter_counts_each_storage_once_and_forgets():
    weight = torch.ones(10, 10, requires_grad=True)
    with baselines.SavedMemory() as memory:
        first = weight @ weight  # one storage, saved twice
        assert memory.now == 400
        second = first.exp()
        assert memory.now == 800
        del first, second
        assert memory.now == 0 and memory.peak == 800


class Turn(nn.Module):
    """A linear field with its divergence."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[0.3, -1.0], [0.8, 0.4]], dtype=torch.float64))

    def rates(self, time, points):
        return points @ self.A.T, self.A.trace().expand(len(points))


def test_linear_flow_changes_the_log_density_by_the_trace():
    turn = Turn()
    flow = models.ContinuousFlow(turn, Dopri5(1e-9))
    points = start(5)
    moved, change = flow.transport(points, 0.0, 1.0)
    assert (change + turn.A.trace()).abs().max() < 1e-6
    torch.testing.assert_close(moved, points @ torch.linalg.matrix_exp(turn.A).T, rtol=0, atol=1e-7)
    # the density at time 1 is the normal distribution with covariance exp(A) exp(A)^T
    spread = torch.linalg.matrix_exp(turn.A)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2).double(), spread @ spread.T).log_prob(points)
    torch.testing.assert_close(flow.log_density(points), exact, rtol=0, atol=1e-6)


def test_divergence_of_the_hyper_field_is_the_trace_of_its_jacobian():
    field, points = models.HyperField(3, units=16).double(), start(4)
    for time in (0.0, 0.6):
        _, divergence = field.rates(time, points)
        jacobians = torch.func.vmap(torch.func.jacrev(lambda x, t=time: field.rates(t, x[None])[0][0]))(points)
        torch.testing.assert_close(divergence, jacobians.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(field.rates(0.0, points)[0], field.rates(0.6, points)[0])


def grid(reach=7.0, cells=141):
    line = torch.linspace(-reach, reach, cells)
    return torch.cartesian_prod(line, line), (line[1] - line[0]).item() ** 2


def test_flows_are_densities():
    points, area = grid()
    planar = baselines.PlanarFlow(0, layers=4)
    planar.u.data *= 10
    planar.b.data += torch.tensor([0.5, -0.5, 0.2, 0.0])
    continuous = models.ContinuousFlow(models.HyperField(0), RK4(4))
    with torch.no_grad():
        for flow in (planar, continuous):
            assert abs(flow.log_density(points).exp().sum().item() * area - 1) < 0.01
    planar.u.data.zero_()
    origin, change = planar.carried(points)
    assert torch.allclose(origin, points, atol=1e-5) and change.abs().max() < 1e-5  # then the flow is the identity
    samples = continuous.sample(200, torch.Generator().manual_seed(0))
    assert samples.shape == (200, 2) and samples.isfinite().all()


def test_stacked_gru_is_the_one_of_torch():
    layer = models.GatedUnits(models.generators([0, 1]), 3, 5)
    layer.read_bias.data.normal_(), layer.recur_bias.data.normal_()
    reference = nn.GRUCell(3, 5)
    reference.weight_ih.data, reference.weight_hh.data = layer.read[1].T, layer.recur[1].T
    reference.bias_ih.data, reference.bias_hh.data = layer.read_bias[1, 0], layer.recur_bias[1, 0]
    features, memory = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(features, memory)[1], reference(features[1], memory[1]))


def test_seeds_of_a_stack_do_not_meet():
    data = baselines.spirals([0, 1], 6, 10, inside=20, beyond=5)
    alone = baselines.spirals([1], 6, 10, inside=20, beyond=5)
    assert torch.equal(data.values[1:], alone.values)
    for make, arguments in ((models.LatentODE, (data.times[:20], 0.5)), (baselines.GapGRU, (data.times[:20],))):
        both = make([0, 1]).loss(data.values, data.index, *arguments)
        single = make([1]).loss(alone.values, alone.index, *arguments)
        torch.testing.assert_close(both[1:], single, rtol=1e-5, atol=1e-5)


def test_latent_ode_is_the_solution_at_the_observed_times():
    data = baselines.spirals([0], 4, 8, inside=20, beyond=5)
    model = models.LatentODE([0])
    curve = model.predict(data.values, data.index, data.times)
    assert curve.shape == data.curves.shape
    mean, _ = model.encode(data.values, data.times[data.index])
    exact = odeint(model.field, mean, torch.cat([torch.zeros(1), data.times]), Dopri5(1e-5))[-1]
    torch.testing.assert_close(curve[:, :, -1], model.decoder(exact), rtol=0, atol=3e-3)
    shifted = data._replace(values=data.values.clone())
    shifted.values[0, 1, 0] += 1  # the first observation of one series matters to this series only
    other = model.predict(shifted.values, data.index, data.times)
    assert torch.equal(other[0, 0], curve[0, 0]) and not torch.allclose(other[0, 1], curve[0, 1])


def test_gap_gru_predicts_from_the_past_only():
    data = baselines.spirals([0], 5, 8, inside=20, beyond=5)
    model = baselines.GapGRU([0])
    curve = model.predict(data.values, data.index, data.times, inside=20)
    assert curve.shape == data.curves.shape
    changed = data.values.clone()
    changed[:, :, 4:] += 1.0
    other = model.predict(changed, data.index, data.times, inside=20)
    for series in range(5):
        fifth = data.index[0, series, 4]
        assert torch.equal(curve[0, series, : fifth + 1], other[0, series, : fifth + 1])
        assert not torch.allclose(curve[0, series, fifth + 1 :], other[0, series, fifth + 1 :])
    # its prediction at an observed time is what its loss compares with that observation
    predicted = curve.gather(2, data.index[..., None].expand(-1, -1, -1, 2))[:, :, 1:]
    expected = model.loss(data.values, data.index, data.times)
    torch.testing.assert_close((predicted - data.values[:, :, 1:]).square().mean((1, 2, 3)), expected)


def test_spirals_are_archimedean_and_of_both_turns():
    data = baselines.spirals([0, 5], 10, 30)
    radius = data.curves.norm(dim=-1)
    torch.testing.assert_close(
        radius.diff(dim=-1), (data.times.diff() / (4 * math.pi)).expand(2, 10, -1), atol=1e-5, rtol=0
    )
    x, y = data.curves.unbind(-1)
    turn = (x[..., :-1] * y[..., 1:] - y[..., :-1] * x[..., 1:]).sign()[..., 0]
    assert (turn[:, ::2] == 1).all() and (turn[:, 1::2] == -1).all()
    clean = data.curves.gather(2, data.index[..., None].expand(-1, -1, -1, 2))
    assert 0.08 < (data.values - clean).std() < 0.12
    assert (data.index.diff(dim=-1) > 0).all() and data.times[99] < 3 * math.pi < data.times[100]


def test_classifiers_learn_and_share_their_width():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        points = torch.randn(64, 2)
        labels = (points[:, 0] * points[:, 1] > 0).long()
        for model in (models.ode_classifier(2, 2, RK4(2), 8), baselines.residual_classifier(2, 2, 8, 2)):
            optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
            for _ in range(40):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(points), labels)
                loss.backward()
                optimiser.step()
            assert loss < 0.4
    # a residual block is an Euler step: with a field of its own weights, input plus rate
    block = baselines.ResidualBlock(3, 4)
    torch.testing.assert_close(block(points[:, :1].expand(-1, 3)).shape, torch.Size([64, 3]))


def test_entrant_learns_a_rotation_and_simulates():
    angle = 0.2 * np.arange(400)
    series = np.stack([np.cos(angle), np.sin(angle)], 1)
    field = learn(Series("circle", series, 0.2), Budget(1.0), seed=0)
    assert isinstance(field, Simulator)
    orbit = field.simulate(series[None, :50], 20)
    assert orbit.shape == (1, 20, 2) and orbit.dtype == np.float64
    assert np.abs(orbit[0] - series[50:70]).max() < 0.2
    wild = LearnedField(0, torch.tensor([1e30, 1e30]))
    assert wild.simulate(series[None, :2], 30).shape == (1, 30, 2)  # a run may leave the finite numbers


def test_bad_input_is_named():
    one, line = torch.ones(2), torch.tensor([0.0, 1.0])
    solve = unchecked(odeint)
    for start_, times, solver, message in (
        (one * torch.nan, line, RK4(), "start holds"),
        (one, line.flip(0).repeat(2), RK4(), "times must be"),
        (one, torch.zeros(2), RK4(), "times must be"),
        (one, line, RK4(0), "steps is 0"),
        (one, line, Dopri5(0.0), "must be positive"),
        (one, line, Dopri5(1e-6), "need torch.float64"),
        (one, line[:0], RK4(), "times is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(decay, start_, times, solver)
    data = baselines.spirals([0], 3, 4, inside=9, beyond=1)
    for model, rest in ((models.LatentODE([0]), (1.0,)), (baselines.GapGRU([0]), ())):
        with pytest.raises(ValueError, match="values holds"):
            unchecked(type(model).loss)(model, data.values * torch.nan, data.index, data.times, *rest)
        with pytest.raises(ValueError, match="index has shape"):
            unchecked(type(model).loss)(model, data.values, data.index[:, :2], data.times, *rest)
    with pytest.raises(ValueError, match="seen is 1"):
        baselines.spirals([0], 3, 1)
    with pytest.raises(ValueError, match="points holds"):
        models.ContinuousFlow(models.HyperField(0), RK4()).log_density(one[None] * torch.nan)
    with pytest.raises(ValueError, match="this method needs"):
        fit_field(np.zeros((5, 2)), Budget(1.0), 0)


def test_what_cannot_be_solved_is_said():
    one, line = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 2.0]).double()
    with pytest.raises(FloatingPointError, match="underflows|steps reach"):
        odeint(lambda time, state: state**2, one, line, Dopri5(1e-6, most=500))  # infinite at time 1
    with pytest.raises(FloatingPointError, match="steps reach"):
        odeint(lambda time, state: -1e4 * (state - math.cos(time)), one, line, Dopri5(1e-6, most=50))  # stiff
