"""Pseudo-sequences, attention and its derivatives, the Wavelet, and the sequential loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import generators
from touchstone.pinns.pinnsformer import (
    Attention,
    PINNsFormer,
    Tanh,
    Wavelet,
    pseudo_sequence,
    sequential_loss,
    solve,
    train_on_grid,
    training_grid,
)
from touchstone.pinns.pinnsformer_baselines import POINTWISE, TRANSFORMERS, Pointwise, Sine, alone, build, count
from touchstone.pinns.problems import ac, burgers, conv, helm14, kdv, lorenz, reac5, wave


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(network, size=0.2):
    """The network in float64 with every parameter moved."""
    network.double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += size * numbers(*parameter.shape, seed=number)
    return network


def test_members_lie_at_later_times():
    points = numbers(1, 3, 2)
    members = pseudo_sequence(points, 4, 0.1)
    assert members.shape == (1, 12, 2) and torch.equal(members[:, ::4], points)
    assert (members[0, 7] - points[0, 1] - torch.tensor([0.3, 0.0], dtype=torch.float64)).abs().max() < 1e-12


def test_wavelet_is_a_sum_of_sine_and_cosine_with_its_derivatives():
    wavelet, x = Wavelet(2).double(), numbers(2, 5, 1)
    jet = jets.coordinates(x, (2,))
    assert (wavelet(jet).value - x.sin() - x.cos()).abs().max() < 1e-15
    with torch.no_grad():
        wavelet.omega.copy_(torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64))
    out = wavelet(jet)
    assert torch.equal(out.value[0], x[0].sin())
    assert (out.d(0)[1] - 0.3 * x[1].cos() - 2.0 * x[1].sin()).abs().max() < 1e-14  # w1 cos x - w2 sin x
    assert (out.d(0, 2) + out.value).abs().max() < 1e-15


@pytest.mark.parametrize("activation", [Wavelet, Tanh])
def test_consistent_derivatives_shift_the_whole_sequence(activation):
    network = shaken(PINNsFormer(2, [0, 1], step=0.05, kind="consistent", activation=activation))
    points = numbers(2, 4, 2)
    jet = network.members(points, (2, 2))
    for member in (0, 3):  # a member's value as a function of the point that its sequence starts from
        value = lambda p, member=member: network.members(p, (0, 0)).value[:, member::5]  # noqa: E731
        expected = jets.by_autograd(value, points, (2, 2)).streams
        assert (jet.streams[:, :, member::5] - expected).abs().max() < 1e-9 * expected.abs().max()


def test_published_derivatives_sum_over_outputs_and_the_two_kinds_differ_by_the_transposed_jacobian():
    network = shaken(PINNsFormer(1, [0], length=3, step=0.2))
    point = numbers(1, 1, 2)
    sequence = pseudo_sequence(point, 3, 0.2)
    jacobian = torch.autograd.functional.jacobian(lambda s: network.read(s, (0, 0)).value[0, :, 0], sequence)[:, 0]
    published = network.members(point, (1, 1))
    network.kind = "consistent"
    consistent = network.members(point, (1, 1))
    for axis in (0, 1):
        assert (published.d(axis)[0, :, 0] - jacobian[:, :, axis].sum(0)).abs().max() < 1e-12
        assert (consistent.d(axis)[0, :, 0] - jacobian[:, :, axis].sum(1)).abs().max() < 1e-12
        assert (published.d(axis) - consistent.d(axis)).sum().abs() < 1e-12  # both sum all entries
    assert (published.d(0) - consistent.d(0)).abs().max() > 1e-3


def test_without_a_step_the_sequence_is_one_point_and_both_kinds_agree():
    network = shaken(PINNsFormer(1, [0], step=0.0))
    points = numbers(1, 6, 2)
    published = network.members(points, (2, 1)).streams
    network.kind = "consistent"
    assert (network.members(points, (2, 1)).streams - published).abs().max() < 1e-10 * published.abs().max()
    assert (alone(network)(points, (2, 1)).streams - published[:, :, ::5]).abs().max() < 1e-10 * published.abs().max()
    network.step = 0.1
    assert (alone(network)(points, (0, 0)).value - network(points, (0, 0)).value).abs().max() > 1e-4


def test_one_member_with_silent_attention_is_a_pointwise_perceptron():
    network, points = shaken(PINNsFormer(1, [0], length=1)), numbers(1, 9, 2)
    with torch.no_grad():
        for layer in (network.encoder, network.decoder):
            layer.attention.out.weight.zero_()
            layer.attention.out.bias.zero_()
    wave = lambda module, z: module.omega[0, 0] * z.sin() + module.omega[0, 1] * z.cos()  # noqa: E731

    def run(modules, z):
        for module in modules:
            z = wave(module, z) if isinstance(module, Wavelet) else z @ module.weight[0] + module.bias[0]
        return z

    mixed = points[0] @ network.mixer.weight[0] + network.mixer.bias[0]
    decoded = mixed + run(network.decoder.feed_forward, wave(network.decoder.between, mixed))
    expected = run(network.head, wave(network.decoded, decoded))
    assert (network(points, (0, 0)).value[0] - expected).abs().max() < 1e-7


def test_attention_agrees_with_that_of_torch():
    attention = shaken(Attention(generators([0]), 8, 2, 5)).double()
    x, memory = numbers(1, 1, 15, 8), numbers(1, 1, 15, 8, seed=1)
    torch_attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        three = (attention.query, attention.key, attention.value)
        torch_attention.in_proj_weight.copy_(torch.cat([layer.weight[0].T for layer in three]))
        torch_attention.in_proj_bias.copy_(torch.cat([layer.bias[0, 0] for layer in three]))
        torch_attention.out_proj.weight.copy_(attention.out.weight[0].T)
        torch_attention.out_proj.bias.copy_(attention.out.bias[0, 0])
    expected = torch_attention(*(z.view(3, 5, 8) for z in (x, memory, memory)))[0].reshape(15, 8)
    assert (attention(Jet(x, (0, 0)), Jet(memory, (0, 0))).value[0] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["published", "consistent"])
def test_sequences_of_different_points_do_not_interact(kind):
    network, points = PINNsFormer(1, [0], step=0.1, kind=kind).double(), numbers(1, 12, 2)
    before = network.members(points, (1, 1)).streams
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    rows = (5 * order[:, None] + torch.arange(5)).flatten()
    assert (network.members(points[:, order], (1, 1)).streams - before[:, :, rows]).abs().max() < 1e-12
    moved = points.clone()
    moved[0, 4] += 0.5
    change = (network.members(moved, (1, 1)).streams - before).abs().amax((0, 1, 3)).view(12, 5).amax(1)
    assert change[4] > 1e-3 and change[torch.arange(12) != 4].max() == 0


def test_members_see_one_another_unless_mixing_is_off():
    sequence = pseudo_sequence(numbers(1, 1, 2), 5, 0.1)
    moved = sequence.clone()
    moved[0, 4, 0] += 0.3
    for mixing in (True, False):
        network = PINNsFormer(1, [0], mixing=mixing).double()
        gap = (network.read(moved, (0, 0)).value - network.read(sequence, (0, 0)).value).abs()[0, :, 0]
        assert gap[4] > 1e-3 and (gap[:4].min() > 1e-6 if mixing else gap[:4].max() == 0)


class Exact(nn.Module):
    """A known solution in the place of a network."""

    def __init__(self, solution, length=5, step=1e-2):
        super().__init__()
        self.solution, self.length, self.step = solution, length, step
        self.dtype_holder = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def members(self, points, orders):
        return jets.by_autograd(self.solution, pseudo_sequence(points, self.length, self.step), orders)


def bump(p):
    start = torch.exp(-((p[..., 1:] - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
    grown = start * torch.exp(5 * p[..., :1])
    return grown / (grown + 1 - start)


def standing(p):
    sine = lambda rate: torch.sin(rate * math.pi * p[..., 1:])  # noqa: E731
    cosine = lambda rate: torch.cos(rate * math.pi * p[..., :1])  # noqa: E731
    return sine(1) * cosine(2) + 0.5 * sine(3) * cosine(6)


@pytest.mark.parametrize(
    ("problem", "solution"),
    [(reac5(), bump), (wave(), standing), (conv(30.0), lambda p: torch.sin(p[..., 1:] - 30 * p[..., :1]))],
)
def test_loss_of_the_exact_solution_vanishes(problem, solution):
    terms = sequential_loss(problem, Exact(solution), 13)
    assert set(terms) == {"residual", "initial", "boundary"}
    assert all(term.max() < 1e-10 for term in terms.values())
    off = sequential_loss(problem, Exact(lambda p: solution(p) + 0.1 * p[..., 1:] * (1 + p[..., 1:])), 13)
    assert all(term.min() > 1e-4 for term in off.values())


@pytest.mark.parametrize("kind", ["published", "consistent"])
@pytest.mark.parametrize("activation", [Wavelet, Tanh])
def test_gradient_of_the_loss_equals_finite_differences(kind, activation):
    network = PINNsFormer(1, [0], length=2, step=0.1, kind=kind, width=4, hidden=4, reach=4, activation=activation)
    network, problem = shaken(network), wave()
    total = lambda: sum(sequential_loss(problem, network, 3).values()).sum()  # noqa: E731
    weights = list(network.parameters())
    slopes = torch.autograd.grad(total(), weights)
    directions = [numbers(*weight.shape, seed=number) for number, weight in enumerate(weights)]
    values = []
    for move in (1e-6, -2e-6):
        for weight, direction in zip(weights, directions, strict=True):
            weight.data += move * direction
        values.append(total().item())
    expected = sum((slope * direction).sum().item() for slope, direction in zip(slopes, directions, strict=True))
    assert abs((values[0] - values[1]) / 2e-6 - expected) < 1e-5 * abs(expected)


def test_initial_values_bind_the_first_member_only():
    problem = conv(1.0)
    kinked = Exact(lambda p: torch.where(p[..., :1] < 1e-3, torch.sin(p[..., 1:]), torch.ones_like(p[..., 1:])))
    assert sequential_loss(problem, kinked, 7)["initial"] < 1e-20
    late = Exact(lambda p: torch.where(p[..., :1] < 1e-3, torch.ones_like(p[..., 1:]), torch.sin(p[..., 1:])))
    assert sequential_loss(problem, late, 7)["initial"] > 0.1


def test_boundary_and_slopes_of_a_periodic_second_order_equation():
    tilted = Exact(lambda p: p[..., 1:] ** 2)  # equal at both ends of [-1, 1], slopes opposite
    assert (sequential_loss(ac(), tilted, 5)["boundary"] - 16).abs() < 1e-10
    assert (sequential_loss(burgers(), tilted, 5)["boundary"] - 2).abs() < 1e-10  # 1 at either wall, 0 wanted


def test_grid_holds_the_edges():
    points = training_grid(reac5(), 5)
    assert torch.equal(points[0, :5, 0], torch.zeros(5)) and points[0, 4, 1] == points[0, 24, 1] == 2 * np.pi


def test_models_match_in_parameters_and_in_derivatives():
    wanted = count(PINNsFormer(1, [0]))
    points = numbers(1, 5, 2)
    for name in [*TRANSFORMERS, *POINTWISE]:
        network = build(name, wave(), 0, 1e-2, "consistent").double()
        assert abs(count(network) / wanted - 1) < 0.02, name
        value = lambda p, network=network: network(p, (0, 0)).value  # noqa: E731
        expected = jets.by_autograd(value, points, (2, 2)).streams
        assert (network(points, (2, 2)).streams - expected).abs().max() < 1e-8 * expected.abs().max(), name
    assert build("k = 1", wave(), 0, 1e-2).kind == "consistent" and build("tanh", wave(), 0, 1e-2).kind == "published"
    assert build("MLP, sequential loss", wave(), 0, 1e-2).length == 5
    assert isinstance(build("first-layer sine", wave(), 0, 1e-2).layers[1], Sine)
    with pytest.raises(ValueError, match="model is 'LSTM'"):
        build("LSTM", wave(), 0, 1e-2)


def _flat(jet, parameter):
    return Jet(jet.streams + 0 * parameter, jet.orders)


def test_training_lowers_the_error_and_repeats_bit_for_bit():
    problem, losses = reac5(), []
    for _ in range(2):
        network = PINNsFormer(1, [3], kind="consistent")
        first = sum(sequential_loss(problem, network, 9).values()).item()
        state = train_on_grid(problem, network, 9, 20)
        losses.append(sum(sequential_loss(problem, network, 9).values()).item())
    assert losses[0] == losses[1] < 0.5 * first and 0 < state.step <= 20
    minimum = Exact(bump)  # nothing to gain: no parameter moves the loss
    minimum.members = lambda p, orders: _flat(Exact.members(minimum, p, orders), minimum.dtype_holder)
    assert train_on_grid(problem, minimum, 5, 10**9).step < 20
    perceptron = build("MLP", problem, 3, 1e-4)
    assert isinstance(perceptron, Pointwise) and train_on_grid(problem, perceptron, 9, 20).step == 20


def test_solver_enters_the_ring_and_names_what_it_declines():
    budget = Budget(0.5)
    solution = solve(conv(10.0), budget, 0)
    assert np.isfinite(solution.rel_l2) and budget.spent() < 8  # with the error on 25,856 points in it
    assert solution.predict(torch.rand(5, 2)).shape == (5, 1)
    for problem in (helm14(), lorenz(0.1)):
        with pytest.raises(ValueError, match="not one of time and one coordinate"):
            solve(problem, Budget(1.0), 0)
    with pytest.raises(ValueError, match="order 3"):
        solve(kdv(), Budget(1.0), 0)


def test_bad_arguments_are_named():
    points = numbers(1, 3, 2)
    with pytest.raises(ValueError, match="points is empty"):
        unchecked(pseudo_sequence)(points[:, :0], 5, 0.1)
    with pytest.raises(ValueError, match="points holds 6 NaN"):
        unchecked(pseudo_sequence)(points * torch.nan, 5, 0.1)
    with pytest.raises(ValueError, match="points has shape"):
        unchecked(pseudo_sequence)(points[0], 5, 0.1)
    with pytest.raises(ValueError, match="length is 0"):
        pseudo_sequence(points, 0, 0.1)
    with pytest.raises(ValueError, match=r"step is -0\.1"):
        pseudo_sequence(points, 5, -0.1)
    with pytest.raises(ValueError, match="kind is 'mean'"):
        PINNsFormer(1, [0], kind="mean")
    with pytest.raises(ValueError, match="length is 0"):
        PINNsFormer(1, [0], length=0)
    with pytest.raises(ValueError, match="heads is 3"):
        PINNsFormer(1, [0], heads=3)
    with pytest.raises(ValueError, match="orders are"):
        PINNsFormer(1, [0], kind="consistent").double().members(points, (1, 3))
    with pytest.raises(ValueError, match="size is 1"):
        sequential_loss(reac5(), PINNsFormer(1, [0]), 1)
    with pytest.raises(ValueError, match="iterations is 0"):
        train_on_grid(reac5(), PINNsFormer(1, [0]), 9, 0)
