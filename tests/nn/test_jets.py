"""Jets against nested differentiation, and the periodic features."""

import functools

import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, ModifiedMLP

ORDERS = [(1, 2), (1, 1), (2, 2), (0, 0), (0, 2), (3, 1), (1, 4)]


def nested(network, points, axis, order):
    """The pure derivative of every output by repeated reverse mode."""
    points = points.clone().requires_grad_()
    value = network(points, (0,) * points.shape[-1]).value
    columns = []
    for column in value.unbind(-1):
        for _ in range(order):
            (slope,) = torch.autograd.grad(column.sum(), points, create_graph=True)
            column = slope[..., axis]
        columns.append(column)
    return torch.stack(columns, -1)


def make(kind, dtype, outputs=1):
    embed = functools.partial(jets.periodic, axis=1, period=2.0, harmonics=2)
    network = kind(5, outputs, [0, 3], 8, 2, embed).to(dtype)
    with torch.no_grad():  # biases away from their initial zero
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.1 * torch.sin(torch.arange(parameter.numel(), dtype=dtype) + number).view_as(parameter)
    return network


@pytest.mark.parametrize("kind", [MLP, ModifiedMLP])
@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_jets_equal_nested_differentiation(kind, orders, dtype, tolerance):
    network, points = make(kind, dtype), torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    jet = network(points, orders)
    assert torch.equal(jet.d(0, 0), jet.value)
    for axis, highest in enumerate(orders):
        for order in range(1, highest + 1):
            exact = nested(network, points, axis, order)
            assert (jet.d(axis, order) - exact).abs().max() <= tolerance * (1 + exact.abs().max())


@pytest.mark.parametrize("kind", [MLP, ModifiedMLP])
@pytest.mark.parametrize("orders", [(1, 2), (2, 2), (1, 3)])
def test_gradients_of_a_residual_equal_nested_differentiation(kind, orders):
    network, points = make(kind, torch.float64, 2), torch.rand(2, 7, 2, dtype=torch.float64)
    wanted = [(axis, order) for axis, highest in enumerate(orders) for order in range(highest + 1)]
    jet = network(points, orders)
    forward = torch.autograd.grad(sum((jet.d(*which) ** 2).sum() for which in wanted), network.parameters())
    loss = sum((nested(network, points, *which) ** 2).sum() for which in wanted)
    for ours, exact in zip(forward, torch.autograd.grad(loss, network.parameters()), strict=True):
        assert torch.allclose(ours, exact, rtol=1e-9, atol=1e-9)


def test_vector_output_of_one_coordinate():
    network, points = MLP(1, 3, [0, 1], 8, 2).double(), torch.rand(2, 5, 1, dtype=torch.float64)
    jet = network(points, (2,))
    assert jet.value.shape == (2, 5, 3)
    assert torch.allclose(jet.d(0, 2), nested(network, points, 0, 2), atol=1e-10)


def test_second_derivatives_with_respect_to_parameters():
    network, points = ModifiedMLP(2, 1, [0], 2, 1).double(), torch.rand(1, 2, 2, dtype=torch.float64)
    weights = tuple(network.parameters())
    names = [name for name, _ in network.named_parameters()]

    def residual(*values):
        jet = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (points, (1, 2)))
        return (jet.d(0) - jet.d(1, 2)).square().sum()

    assert torch.autograd.gradgradcheck(residual, weights)


def test_periodic_features_agree_at_both_ends():
    network = make(ModifiedMLP, torch.float64)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    left, right = (network(torch.stack([t, torch.full_like(t, x)], -1).expand(2, -1, -1), (1, 2)) for x in (-1.0, 1.0))
    for axis, order in [(0, 0), (0, 1), (1, 1), (1, 2)]:
        assert (left.d(axis, order) - right.d(axis, order)).abs().max() < 1e-6
    middle = network(torch.stack([t, torch.zeros_like(t)], -1).expand(2, -1, -1), (1, 2))
    assert (middle.value - left.value).abs().max() > 1e-2


def test_periodic_features_have_the_derivatives_of_cosine_and_sine():
    points = torch.rand(1, 4, 2, dtype=torch.float64)
    jet = jets.periodic(points, (1, 2), axis=1, period=0.5, harmonics=2)
    angle = 4 * torch.pi * points[..., 1]
    assert torch.allclose(jet.d(1, 2)[..., 4], -((8 * torch.pi) ** 2) * torch.sin(2 * angle))
    assert torch.allclose(jet.d(1)[..., 1], -4 * torch.pi * torch.sin(angle))
    assert torch.equal(jet.d(0)[..., 0], torch.ones(1, 4, dtype=torch.float64))


def test_clear_errors():
    with pytest.raises(ValueError, match="orders"):
        unchecked(jets.coordinates)(torch.rand(1, 3, 2), (1,))
    with pytest.raises(ValueError, match="streams"):
        Jet(torch.rand(1, 2, 3, 1), (1, 2))
    with pytest.raises(ValueError, match="orders"):
        Jet(torch.rand(1, 6, 3, 1), (5,))
    jet = jets.coordinates(torch.rand(1, 3, 2), (1, 1))
    with pytest.raises(ValueError, match="axis 1"):
        jet.d(1, 2)
    with pytest.raises(ValueError, match="right"):
        jets.product(jet, jets.coordinates(torch.rand(1, 3, 2), (1, 2)))


@pytest.mark.parametrize("orders", [(0, 0), (1, 2), (3, 1), (1, 4)])
def test_autograd_jets_equal_forward_jets(orders):
    network, points = make(MLP, torch.float64, 2), torch.rand(2, 7, 2, dtype=torch.float64)
    forward = network(points, orders)
    backward = jets.by_autograd(lambda p: network(p, (0, 0)).value, points, orders)
    assert torch.allclose(forward.streams, backward.streams, atol=1e-9)
    grads = [
        torch.autograd.grad(jet.streams.square().sum(), network.weights[0], retain_graph=True)[0]
        for jet in (forward, backward)
    ]
    assert torch.allclose(*grads, rtol=1e-8)


def test_autograd_jets_of_functions_that_ignore_a_coordinate():
    points = torch.rand(1, 4, 2, dtype=torch.float64)
    jet = jets.by_autograd(lambda p: 3 * p[..., :1], points, (2, 2))
    assert (jet.d(0) == 3).all() and (jet.d(0, 2) == 0).all() and (jet.d(1, 2) == 0).all()
    with pytest.raises(ValueError, match="orders has 1"):
        unchecked(jets.by_autograd)(lambda p: p, points, (1,))


@pytest.mark.parametrize("orders", [(1, 2), (4, 3)])
def test_sine_and_fourier_features_equal_nested_differentiation(orders):
    points, rates = torch.rand(2, 5, 2, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    features = jets.fourier(points, orders, rates)
    by_hand = jets.by_autograd(lambda p: torch.cat([(p @ rates).cos(), (p @ rates).sin()], -1), points, orders)
    assert torch.allclose(features.streams, by_hand.streams, atol=1e-9)
    waves = jets.sine(features)
    nested_waves = jets.by_autograd(lambda p: jets.fourier(p, (0, 0), rates).value.sin(), points, orders)
    assert torch.allclose(waves.streams, nested_waves.streams, atol=1e-8)


def test_a_composition_needs_enough_derivatives():
    jet = jets.coordinates(torch.rand(1, 3, 2), (1, 3))
    with pytest.raises(ValueError, match="derivatives has 2 entries"):
        jets.compose(jet, [jet.value, jet.value])
