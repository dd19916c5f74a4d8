"""Stacks of seeds."""

import pytest
import torch

from touchstone.nn import jets
from touchstone.nn.networks import MLP, FourierMLP, ModifiedMLP, generators, single, uniform


@pytest.mark.parametrize("kind", [MLP, ModifiedMLP])
def test_a_seed_in_a_stack_is_that_seed_alone(kind):
    stack, alone = kind(2, 1, [4, 7, 9]), kind(2, 1, [7])
    for many, one in zip(stack.parameters(), alone.parameters(), strict=True):
        assert torch.equal(many[1], one[0])
    points = torch.rand(1, 6, 2)
    together = stack(points.expand(3, -1, -1), (1, 2)).streams
    assert torch.allclose(together[1], alone(points, (1, 2)).streams[0], atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_glorot_variance_and_zero_biases():
    network = MLP(2, 1, range(3), 100, 2)
    assert network.weights[1].var().item() == pytest.approx(2 / 200, rel=0.05)
    assert all((bias == 0).all() for bias in network.biases)


def test_modified_layers_follow_their_equation():
    network = ModifiedMLP(2, 1, [0], 8, 2)
    x = torch.rand(5, 2)
    with torch.no_grad():
        u, v = (torch.tanh(x @ w[0] + b[0]) for w, b in zip(network.encoders, network.shifts, strict=True))
        hidden = x
        for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
            hidden = torch.tanh(hidden @ weight[0] + bias[0])
            hidden = hidden * u + (1 - hidden) * v
        by_hand = hidden @ network.weights[-1][0] + network.biases[-1][0]
        assert torch.allclose(network(x[None], (0, 0)).value[0], by_hand, atol=1e-6)


def test_generators_are_independent_streams():
    first, again, other = (uniform(generators([5], stream), 4) for stream in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="seeds"):
        generators([])


def test_fourier_networks_see_frequencies_of_the_wanted_scale():
    network = FourierMLP((0.0, -4.0), (1.0, 4.0), 1, range(3), features=2000, scale=5.0)
    assert network.frequencies.shape == (3, 2, 2000)
    assert torch.allclose(network.frequencies.std((0, 2)), torch.tensor([10.0, 1.25]), rtol=0.05)
    points = torch.rand(3, 4, 2)
    exact = jets.by_autograd(lambda p: network(p, (0, 0)).value, points, (1, 2)).streams.detach()
    assert torch.allclose(network(points, (1, 2)).streams, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("make", [lambda s: ModifiedMLP(2, 1, s), lambda s: FourierMLP((0.0, 0.0), (1.0, 1.0), 1, s)])
def test_a_single_network_is_cut_out_of_the_stack_and_shares_nothing(make):
    stack = make([4, 7])
    alone, points = single(stack, 1), torch.rand(1, 6, 2)
    before = alone(points, (1, 2)).streams
    assert torch.allclose(stack(points.expand(2, -1, -1), (1, 2)).streams[1], before[0], atol=1e-5)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.zero_()
    assert torch.equal(alone(points, (1, 2)).streams, before)


def test_other_activations():
    network = MLP(2, 1, [0], 8, 2, activation=jets.sine).double()
    points = torch.rand(1, 4, 2, dtype=torch.float64)
    exact = jets.by_autograd(lambda p: network(p, (0, 0)).value, points, (1, 2)).streams
    assert torch.allclose(network(points, (1, 2)).streams, exact, atol=1e-10)
