"""Lagrangian networks: exact pairs, the chain rule to physical space, periodicity, the way back to the fixed frame, baselines."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns import lagrangian_pinn_baselines as baselines
from touchstone.pinns.lagrangian_pinn import (
    PERIOD,
    LagrangianNetwork,
    _polish,
    as_transport,
    compression,
    convection,
    in_fixed_frame,
    initial_line,
    labels,
    misfits,
    moving_burgers,
    residuals,
    root_mean_square,
    solve,
    total,
    train,
)
from touchstone.pinns.problems import ac, burgers, conv, reac5

TIMES, PLACES = torch.linspace(0, 1, 11, dtype=torch.float64), PERIOD * torch.arange(64, dtype=torch.float64) / 64


def points(seeds=1, count=50):
    """Float64 times and labels."""
    draw = torch.Generator().manual_seed(3)
    return torch.rand(seeds, count, 2, generator=draw, dtype=torch.float64) * torch.tensor([1.0, PERIOD])


def pair(place, value, displacement):
    """Jets of two closed forms of (t, xi) by nested differentiation."""
    return tuple(
        jets.by_autograd(lambda p, f=f: f(p[..., :1], p[..., 1:]) + 0 * p.sum(-1, keepdim=True), place, (1, 2))
        for f in (value, displacement)
    )


class Travelling(nn.Module):
    """A known solution in place of a trained pair: sin of the label, carried along at a constant speed."""

    def __init__(self, speed):
        super().__init__()
        self.speed, self.unused = speed, nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))

    def forward(self, points, orders=(0, 0)):
        t, label = points.split(1, -1)
        return Jet(label.sin()[:, None], (0, 0)), Jet((self.speed * t)[:, None], (0, 0))


@pytest.mark.parametrize("chain_rule", [False, True])
def test_exact_pair_of_pure_convection(chain_rule):
    carried, moved = pair(points(), lambda t, x: x.sin() + 0.3 * (2 * x).cos(), lambda t, x: 30 * t)
    along, value = residuals(convection(30.0), carried, moved, chain_rule)
    assert along.abs().max() < 1e-12 and value.abs().max() < 1e-12
    assert (residuals(convection(-30.0), carried, moved)[0] - 60).abs().max() < 1e-12


def test_exact_pair_with_diffusion():
    carried, moved = pair(points(), lambda t, x: (-0.1 * t).exp() * x.sin(), lambda t, x: 5 * t)
    along, value = residuals(convection(5.0, viscosity=0.1), carried, moved)
    assert along.abs().max() < 1e-12 and value.abs().max() < 1e-9
    assert residuals(convection(5.0, viscosity=-0.1), carried, moved)[1].abs().max() > 0.1


def test_chain_rule_against_the_composed_function():
    place = points()
    t, label = place.split(1, -1)

    def value(t, x):
        return (x.sin() + t).exp()

    carried, moved = pair(place, value, lambda t, x: 0.3 * x.sin() * t)
    position = (label + 0.3 * label.sin() * t).requires_grad_()
    inverse = label
    for _ in range(3):  # Newton steps from the solution have its derivatives with respect to the position
        inverse = inverse - (inverse + 0.3 * inverse.sin() * t - position) / (1 + 0.3 * inverse.cos() * t)
    first = torch.autograd.grad(value(t, inverse).sum(), position, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), position)[0]
    problem = convection(1.0, viscosity=1.0)
    with_chain, without = (carried.d(0) - residuals(problem, carried, moved, on)[1] for on in (True, False))
    assert (with_chain - second).abs().max() < 1e-8
    assert (without - carried.d(1, 2)).abs().max() < 1e-12
    assert (without - second).abs().max() > 0.1


def test_burgers_particles_move_with_what_they_carry():
    carried, moved = pair(points(), lambda t, x: 3 + x.sin(), lambda t, x: (3 + x.sin()) * t)
    along, value = residuals(moving_burgers(3.0, viscosity=0.0), carried, moved)
    assert along.abs().max() < 1e-12 and value.abs().max() < 1e-12
    assert abs(moving_burgers(3.0).fastest - 4) < 1e-12


def test_compression_is_kept_above_its_floor():
    place = torch.linspace(0, PERIOD, 5000, dtype=torch.float64)[None, :, None]
    place = torch.cat([torch.ones_like(place), place], -1)
    _, moved = pair(place, lambda t, x: x, lambda t, x: 2 * x.sin())  # 1 + 2 cos falls to -1
    spacing, slope = compression(moved)
    assert spacing.min() >= 0.05
    free = 1 + moved.d(1) > 0.5
    assert (spacing - 1 - moved.d(1))[free].abs().max() < 1e-8
    differences = (spacing[:, 2:] - spacing[:, :-2]) / (place[:, 2:, 1:] - place[:, :-2, 1:])
    assert (differences - slope[:, 1:-1]).abs().max() < 0.02


def test_both_branches_are_periodic_and_share_nothing():
    network, place = LagrangianNetwork([0, 1], 10.0).double(), points(2)
    turn = torch.tensor([0.0, PERIOD], dtype=torch.float64)
    for here, there in zip(network(place, (1, 2)), network(place + turn, (1, 2)), strict=True):
        assert (here.streams - there.streams).abs().max() < 1e-10
    assert not torch.equal(network.carried.weights[0], network.moved.weights[0])
    assert len(network.carried.weights) == 5 and len(network.moved.weights) == 3
    total(misfits(convection(10.0)), network, place).sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    displacement = LagrangianNetwork([0, 1], 20.0).double()(place)[1].value
    assert torch.allclose(displacement, 2 * network(place)[1].value)


def test_parameter_counts_match():
    count = [
        sum(w[0].numel() for w in net.parameters())
        for net in (LagrangianNetwork([0], 1.0), baselines.eulerian_network([0]))
    ]
    assert count == [4546, 4637]


def test_singular_values_in_either_frame():
    x, t = PERIOD * np.arange(256) / 256, np.linspace(0, 1, 101)[:, None]
    fixed = np.linalg.svd(np.sin(x - 30 * t), compute_uv=False)
    moving = np.linalg.svd(np.sin(x + 0 * t), compute_uv=False)
    assert (fixed > 1e-10).sum() == 2 and (moving > 1e-10).sum() == 1
    assert baselines.modes_needed(np.sin(x - 30 * t)) == 2 and baselines.modes_needed(np.sin(x + 0 * t)) == 1
    bump = np.exp(-((np.sin((x - 30 * t) / 2) / 0.15) ** 2) / 2)
    assert baselines.modes_needed(bump) > 8


def test_way_back_to_the_fixed_frame():
    for speed in (0.0, 30.0, -7.0):
        found = in_fixed_frame(Travelling(speed), TIMES, PLACES)
        exact = torch.sin(PLACES - speed * TIMES[:, None]).numpy()
        assert found.shape == (2, 11, 64)
        assert np.abs(found - exact).max() < 1e-4  # straight lines between 512 particles
    far = in_fixed_frame(Travelling(30.0), TIMES, PLACES + 3 * PERIOD)
    assert np.abs(far - in_fixed_frame(Travelling(30.0), TIMES, PLACES)).max() < 1e-10


def test_references_solve_their_equations():
    problem = convection(30.0, viscosity=0.01)
    found = baselines.convection_reference(problem, 30.0, TIMES.numpy(), 64)
    t = TIMES[:, None]
    assert np.abs(found - ((-0.01 * t).exp() * torch.sin(PLACES - 30 * t)).numpy()).max() < 1e-12
    problem = moving_burgers(2.0, viscosity=0.05)
    u = baselines.burgers_reference(problem, 2.0, 1000, 1, 256)
    step, x, modes = 1e-3, PERIOD * np.arange(256) / 256, np.arange(129)
    assert np.abs(u[0] - 2 - np.sin(x)).max() < 1e-10
    u_t = (u[2:] - u[:-2]) / (2 * step)
    u_x, u_xx = (np.fft.irfft(np.fft.rfft(u, axis=1) * (1j * modes) ** k, 256, axis=1)[1:-1] for k in (1, 2))
    assert np.abs(u_t + u[1:-1] * u_x - 0.05 * u_xx).max() < 0.02 * np.abs(u_t).max()


def test_eulerian_terms_vanish_on_the_exact_solution():
    problem = convection(3.0, viscosity=0.2)

    def exact(place, orders):
        wave = lambda p: torch.exp(-0.2 * p[..., :1]) * torch.sin(p[..., 1:] - 3 * p[..., :1])  # noqa: E731
        return jets.by_autograd(wave, place, orders)

    for _, values in baselines.eulerian_misfits(problem)(exact, points()):
        assert values.abs().max() < 1e-9
    wrong = [
        values.abs().max() for _, values in baselines.eulerian_misfits(convection(-3.0, viscosity=0.2))(exact, points())
    ]
    assert wrong[0] > 1


def test_loss_is_the_weighted_sum_of_norms():
    network, place = LagrangianNetwork([0, 1], 5.0), labels([torch.Generator().manual_seed(s) for s in (0, 1)], 8)
    terms = misfits(convection(5.0, viscosity=0.1))
    by_hand = sum(weight * values.square().mean((1, 2)).sqrt() for weight, values in terms(network, place))
    assert torch.allclose(total(terms, network, place), by_hand)
    assert [weight for weight, _ in terms(network, place)] == [100, 10, 1000, 1000]
    zero = torch.zeros(1, 3, 1, requires_grad=True)
    root_mean_square(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_labels_are_jittered_within_their_cells():
    cell = labels([torch.Generator().manual_seed(0)], 10)[0] * torch.tensor([10, 10 / PERIOD])
    assert torch.equal(cell.floor(), torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)))
    line = initial_line(8, 2)
    assert line.shape == (2, 8, 2) and (line[..., 0] == 0).all() and line[0, 1, 1] == PERIOD / 8


def test_training_learns_and_is_deterministic():
    problem = convection(2.0, viscosity=0.01)

    def error(steps):
        network = LagrangianNetwork([0], 2.0, width=12, carried_depth=2, moved_depth=1)
        assert train(network, misfits(problem), [0], steps, 0, count=6) == steps
        reference = baselines.convection_reference(problem, 2.0, TIMES.numpy(), 64)
        return np.linalg.norm(in_fixed_frame(network, TIMES, PLACES)[0] - reference) / np.linalg.norm(reference)

    assert error(80) < 0.6
    assert error(3) == error(3)


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    # in float64: the norms, which are not squared, and their weights of 1000 magnify rounding tenfold beyond 1e-5 in float32
    problem, place, answers = convection(3.0, viscosity=0.05), points()[:, :40], []
    for seeds in ([3, 5], [5]):
        network = LagrangianNetwork(seeds, 3.0, width=8, carried_depth=2, moved_depth=1).double()
        train(
            network, misfits(problem), seeds, 50, 0, count=6, choose=lambda draws, count: labels(draws, count).double()
        )
        answers.append([jet.value[-1] for jet in network(place.expand(len(seeds), -1, -1))])
    for many, one in zip(*answers, strict=True):
        assert (many - one).norm() <= 1e-5 * one.norm() + 1e-6


def test_a_loss_that_is_not_finite_takes_no_step():
    network, terms, seen = (
        LagrangianNetwork([0, 1], 2.0, width=6, carried_depth=1, moved_depth=1),
        misfits(convection(2.0)),
        [],
    )

    def spoilt(network, place):
        seen.append([weight.detach().clone() for weight in network.parameters()])
        for weight, values in terms(network, place):
            yield weight, values * (torch.nan if len(seen) == 4 else 1)

    with pytest.raises(FloatingPointError, match="NaN or infinite at step 3"):
        train(network, spoilt, [0, 1], 10, 0, count=4)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), seen[3], strict=True))
    assert not torch.equal(seen[2][0], seen[3][0])


def test_polish_never_raises_the_loss():
    network, terms = LagrangianNetwork([0, 1], 2.0, width=8, carried_depth=1, moved_depth=1), misfits(convection(2.0))
    place = labels([torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)], 6).double()
    before = total(terms, network.double(), place).detach()
    _polish(network, terms, place, 10)
    assert (total(terms, network, place) < before).all()


def test_hard_start_is_exact_and_differentiable():
    network = baselines.HardStart(baselines.eulerian_network([0]).double(), torch.sin)
    place = points()
    reference = jets.by_autograd(
        lambda p: p[..., 1:].sin() + p[..., :1] * network.network(p, (0, 0)).value, place, (1, 2)
    )
    assert (network(place, (1, 2)).streams - reference.streams).abs().max() < 1e-10
    line = initial_line(16, 1).double()
    assert (network(line, (0, 0)).value - line[..., 1:].sin()).abs().max() < 1e-12


def test_time_marching_hands_each_window_to_the_next(monkeypatch):
    seen = []
    monkeypatch.setattr(baselines, "train", lambda network, terms, seeds, *rest: seen.append((network, terms, rest)))
    predict = baselines.march(convection(6.0, viscosity=0.4), 1, 2, 100, 10)
    (first, _, spent), (second, terms, _) = seen
    assert spent == (50, 5)
    found = predict(torch.tensor([0.25, 0.75], dtype=torch.float64), PLACES)
    half = torch.tensor([0.5])
    assert np.abs(found[:, 0] - baselines.values_on_grid(first, half, PLACES)[:, 0]).max() < 1e-6
    assert np.abs(found[:, 1] - baselines.values_on_grid(second, half, PLACES)[:, 0]).max() < 1e-6
    (_, residual), (_, start) = terms(second, points().float())
    u = second(points().float(), (1, 2))
    assert torch.allclose(residual, u.d(0) + 3 * u.d(1) - 0.2 * u.d(1, 2), atol=1e-5)  # half the time: half of both
    line = initial_line(128, 1)
    end = first(torch.cat([torch.ones_like(line[..., :1]), line[..., 1:]], -1), (0, 0)).value
    assert torch.allclose(start, second(line, (0, 0)).value - end, atol=1e-6)


def test_curriculum_raises_the_speed_and_polishes_last(monkeypatch):
    seen = []
    monkeypatch.setattr(baselines, "train", lambda network, terms, seeds, *rest: seen.append((network, terms, rest)))
    network = baselines.curriculum([1.0, 5.0], torch.sin, 0.0, [0], 20, 7)
    assert [rest for _, _, rest in seen] == [(10, 0), (10, 7)] and all(net is network for net, _, _ in seen)
    u = network(points().float(), (1, 2))
    for (_, terms, _), speed in zip(seen, (1.0, 5.0), strict=True):
        (_, residual), _ = terms(network, points().float())
        assert torch.allclose(residual, u.d(0) + speed * u.d(1), atol=1e-5)


def test_top_eigenvalue_against_the_whole_hessian():
    network = LagrangianNetwork([0], 3.0, width=3, carried_depth=1, moved_depth=1).double()
    place, terms = points(count=20), misfits(moving_burgers(2.0))
    weights = list(network.parameters())

    def gradient():
        loss = sum(weight * part.square().mean() for weight, part in terms(network, place))
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

    columns = []  # by central differences of the gradient
    for weight in weights:
        for entry in weight.data.view(-1).split(1):
            entry += 1e-5
            up = gradient()
            entry -= 2e-5
            columns.append((up - gradient()) / 2e-5)
            entry += 1e-5
    whole = torch.stack(columns)
    whole = (whole + whole.T) / 2
    assert abs(baselines.top_eigenvalue(network, terms, place)[0] / torch.linalg.eigvalsh(whole)[-1] - 1) < 1e-2
    carried = sum(weight.numel() for weight in network.carried.parameters())
    part = torch.linalg.eigvalsh(whole[:carried, :carried])[-1]
    assert abs(baselines.top_eigenvalue(network, terms, place, "carried")[0] / part - 1) < 1e-2


def test_ring_problem_is_read_off_and_others_are_refused():
    found = as_transport(conv(10.0))
    x = torch.rand(1, 5, 1)
    assert found.fastest == 10 and (found.velocity(x) == 10).all() and torch.allclose(found.start(x), x.sin())
    for other in (burgers(), ac(), reac5()):
        with pytest.raises(ValueError, match=other.name):
            as_transport(other)
    solution = solve(conv(3.0), Budget(0.5), 0)
    assert solution.steps > 2 and math.isfinite(solution.rel_l2)
    few = torch.tensor([[0.0, 1.0], [0.5, 2.0]])
    assert solution.predict(few).shape == (2, 1) and math.isfinite(float(solution.predict(few).sum()))


@pytest.mark.parametrize(
    "times, places, message",
    [
        (TIMES * torch.nan, PLACES, "times holds 11 NaN"),
        (TIMES, PLACES[:, None], "places has shape"),
        (TIMES[:0], PLACES, "times is empty"),
    ],
)
def test_bad_arguments_are_named(times, places, message):
    with pytest.raises(ValueError, match=message):
        unchecked(in_fixed_frame)(Travelling(1.0), times, places)


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="step 0"):
        train(LagrangianNetwork([0], math.inf), misfits(convection(1.0)), [0], 2, 0, count=4)
