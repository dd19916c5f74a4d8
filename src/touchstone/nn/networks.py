"""Small networks of coordinates that carry derivatives forward and hold several seeds as one stack of parameters.

Parameters are ``[seeds, in, out]``: the seeds of one configuration train in one process, side by side. Every seed
draws its own initial values from its own generator, so a seed in a stack is the same network as that seed alone.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn import jets
from touchstone.nn.jets import Jet

Embedding = Callable[[Tensor, Sequence[int]], Jet]


def generators(seeds: Sequence[int], stream: int = 0) -> list[torch.Generator]:
    """One random generator a seed.

    Args:
        seeds: the seeds, in the order of the stack.
        stream: which of a seed's independent streams (initial values, points, ...).

    Returns:
        the generators, freshly seeded.

    Raises:
        ValueError: if ``seeds`` is empty.
    """
    if not len(seeds):
        raise ValueError("seeds is empty: give at least one seed")
    return [torch.Generator().manual_seed(1_000_003 * stream + int(seed)) for seed in seeds]


def uniform(draws: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "seeds ..."]:
    """Uniform numbers in [0, 1), each seed from its own generator, stacked along the first axis."""
    return torch.stack([torch.rand(*shape, generator=draw) for draw in draws])


def glorot(draws: Sequence[torch.Generator], inputs: int, outputs: int) -> Float[Tensor, "seeds inputs outputs"]:
    """Glorot normal weights (variance 2 / (inputs + outputs)), each seed from its own generator."""
    scale = (2 / (inputs + outputs)) ** 0.5
    return scale * torch.stack([torch.randn(inputs, outputs, generator=draw) for draw in draws])


class _Stack(nn.Module):
    """Weights and biases of a perceptron for every seed, behind an embedding."""

    def __init__(self, draws: Sequence[torch.Generator], sizes: Sequence[int], embedding: Embedding):
        super().__init__()
        self.embedding = embedding
        self.weights = nn.ParameterList(glorot(draws, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, size) for size in sizes[1:])

    def hidden_layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weight and bias of every layer but the last."""
        return zip(self.weights[:-1], self.biases[:-1], strict=True)

    def last(self, hidden: Jet) -> Jet:
        """The linear output layer."""
        return jets.linear(hidden, self.weights[-1], self.biases[-1])


class MLP(_Stack):
    """A stack of multilayer perceptrons, one a seed.

    Args:
        inputs: features that the embedding delivers (the number of coordinates without one).
        outputs: components of the solution.
        seeds: one network for each.
        width: units of a hidden layer.
        depth: number of hidden layers.
        embedding: turns points into a jet of features; the coordinates themselves by default.
        activation: maps a jet to a jet, feature by feature.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        seeds: Sequence[int],
        width: int = 32,
        depth: int = 4,
        embedding: Embedding = jets.coordinates,
        activation: Callable[[Jet], Jet] = jets.tanh,
    ):
        super().__init__(generators(seeds), [inputs, *[width] * depth, outputs], embedding)
        self.activation = activation

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points.

        Args:
            points: coordinates, each seed its own.
            orders: highest derivative wanted along each coordinate.

        Returns:
            the networks' jet, with ``outputs`` features.
        """
        hidden = self.embedding(points, orders)
        for weight, bias in self.hidden_layers():
            hidden = self.activation(jets.linear(hidden, weight, bias))
        return self.last(hidden)


class ModifiedMLP(_Stack):
    r"""A stack of modified perceptrons (Wang, Teng and Perdikaris, 2021, arXiv:2001.04536), one a seed.

    Two encoders :math:`U=\tanh(W_ux+b_u)`, :math:`V=\tanh(W_vx+b_v)` of the input gate every hidden layer:
    :math:`h\leftarrow h\odot U+(1-h)\odot V`.

    Args:
        inputs: features that the embedding delivers (the number of coordinates without one).
        outputs: components of the solution.
        seeds: one network for each.
        width: units of a hidden layer.
        depth: number of hidden layers.
        embedding: turns points into a jet of features; the coordinates themselves by default.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        seeds: Sequence[int],
        width: int = 48,
        depth: int = 4,
        embedding: Embedding = jets.coordinates,
    ):
        draws = generators(seeds)
        super().__init__(draws, [inputs, *[width] * depth, outputs], embedding)
        self.encoders = nn.ParameterList(glorot(draws, inputs, width) for _ in "UV")
        self.shifts = nn.ParameterList(torch.zeros(len(seeds), 1, width) for _ in "UV")

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points.

        Args:
            points: coordinates, each seed its own.
            orders: highest derivative wanted along each coordinate.

        Returns:
            the networks' jet, with ``outputs`` features.
        """
        hidden = self.embedding(points, orders)
        u, v = (jets.tanh(jets.linear(hidden, w, b)) for w, b in zip(self.encoders, self.shifts, strict=True))
        difference = Jet(u.streams - v.streams, u.orders)
        for weight, bias in self.hidden_layers():
            gated = jets.product(jets.tanh(jets.linear(hidden, weight, bias)), difference)
            hidden = Jet(gated.streams + v.streams, u.orders)  # h U + (1 - h) V = h (U - V) + V
        return self.last(hidden)


class FourierMLP(MLP):
    r"""A stack of perceptrons behind random Fourier features :math:`\cos Bx,\ \sin Bx` (arXiv:2006.10739), one a seed.

    Args:
        low: smallest value of each coordinate.
        high: largest value of each coordinate.
        outputs: components of the solution.
        seeds: one network for each.
        width: units of a hidden layer.
        depth: number of hidden layers.
        features: number of frequencies.
        scale: standard deviation of the frequencies on the domain rescaled to [-1, 1], in radians per unit.
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        outputs: int,
        seeds: Sequence[int],
        width: int = 32,
        depth: int = 4,
        features: int = 32,
        scale: float = 1.0,
    ):
        super().__init__(2 * features, outputs, seeds, width, depth, self._embed)
        rates = [torch.randn(len(low), features, generator=draw) for draw in generators(seeds, stream=3)]
        stretch = torch.tensor([2 / (b - a) for a, b in zip(low, high, strict=True)])[:, None]
        self.register_buffer("frequencies", scale * stretch * torch.stack(rates))

    def _embed(self, points: Tensor, orders: Sequence[int]) -> Jet:
        return jets.fourier(points, orders, self.frequencies)


def single(network: nn.Module, number: int) -> nn.Module:
    """One network of a stack, as a stack of its own.

    Args:
        network: parameters and buffers have the seeds as their leading dimension.
        number: position in the stack.

    Returns:
        a copy that shares nothing with the stack.
    """
    alone = copy.deepcopy(network)
    for tensors in (alone.parameters(), alone.buffers()):
        for tensor in tensors:
            tensor.data = tensor.data[number : number + 1].clone()
    return alone
