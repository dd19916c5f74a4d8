"""What PINNsFormer is measured against at equal parameters: perceptrons on single points, and the transformer with parts taken out."""

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import generators
from touchstone.pinns.pinnsformer import Linear, PINNsFormer, Tanh, Wavelet, perceptron, pseudo_sequence
from touchstone.pinns.problems import Problem


class Sine(nn.Module):
    """The sine of every feature."""

    def forward(self, jet: Jet) -> Jet:
        """Apply it."""
        return jets.sine(jet)


class Quadratic(nn.Module):
    r"""A layer :math:`\sigma(W_2x\odot W_1x+W_1x)` with biases and the logistic :math:`\sigma` (QRes, Bu and Karpatne, 2021, arXiv:2101.08366)."""

    def __init__(self, draws: Sequence[torch.Generator], inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = Linear(draws, inputs, outputs), Linear(draws, inputs, outputs)

    def forward(self, jet: Jet) -> Jet:
        """Apply it to a jet."""
        linear = self.first(jet)
        bent = jets.product(linear, self.second(jet))
        half = jets.tanh(Jet(0.5 * (linear.streams + bent.streams), jet.orders))  # logistic(z) = (1 + tanh(z/2)) / 2
        return Jet(torch.cat([0.5 + 0.5 * half.streams[:, :1], 0.5 * half.streams[:, 1:]], 1), jet.orders)


class Pointwise(nn.Module):
    """A network of single points that answers for a sequence member by member.

    Args:
        layers: maps the jet of the coordinates to that of the solution.
        length: members of a sequence; 1 for the usual loss, more for the sequential one.
        step: between members, in the problem's unit of time.
    """

    def __init__(self, layers: nn.Module, length: int = 1, step: float = 0.0):
        super().__init__()
        self.layers, self.length, self.step = layers, length, step

    def members(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Values and derivatives of all members, in the order of ``pseudo_sequence``."""
        return self.layers(jets.coordinates(pseudo_sequence(points, self.length, self.step), orders))

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points."""
        return self.layers(jets.coordinates(points, orders))


def _mlp(draws, width: int, activation=Tanh) -> nn.Sequential:
    return perceptron(draws, [2, width, width, width, 1], activation)


def _first_sine(draws, width: int) -> nn.Sequential:
    """Sine behind the first layer, tanh behind the others (Wong et al., 2022, arXiv:2109.09338)."""
    layers = _mlp(draws, width)
    layers[1] = Sine()
    return layers


def _qres(draws, width: int) -> nn.Sequential:
    sizes = [2, width, width, width, width]
    blocks = [Quadratic(draws, a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(*blocks, Linear(draws, width, 1))


POINTWISE = {
    "MLP": _mlp,
    "Wavelet MLP": lambda draws, width: _mlp(draws, width, Wavelet),
    "first-layer sine": _first_sine,
    "QRes": _qres,
    "MLP, sequential loss": _mlp,
}
TRANSFORMERS = {
    "PINNsFormer": {},
    "k = 1": {"length": 1},
    "no mixing": {"mixing": False},
    "tanh": {"activation": Tanh},
}


def count(network: nn.Module) -> int:
    """Trainable numbers of one seed's network."""
    return sum(weight[0].numel() for weight in network.parameters())


def build(model: str, problem: Problem, seed: int, step: float, kind: str = "published") -> nn.Module:
    """A PINNsFormer, or a rival whose width brings it nearest to the same number of parameters.

    Args:
        model: a key of ``TRANSFORMERS`` or ``POINTWISE``.
        problem: in time and one coordinate, with one output.
        seed: of the initial values.
        step: of the pseudo-sequences.
        kind: of the derivatives, where members see one another; elsewhere the two kinds are the same number.

    Returns:
        a stack of one network.

    Raises:
        ValueError: for an unknown model.
    """
    if model in TRANSFORMERS:
        options = TRANSFORMERS[model]
        kind = kind if options.get("length", 5) > 1 and options.get("mixing", True) else "consistent"
        return PINNsFormer(problem.outputs, [seed], step=step, kind=kind, **options)
    if model not in POINTWISE:
        raise ValueError(f"model is {model!r}: choose one of {', '.join([*TRANSFORMERS, *POINTWISE])}")
    wanted, gap, width = count(PINNsFormer(problem.outputs, [seed])), math.inf, 8
    make = lambda size: POINTWISE[model](generators([seed]), size)  # noqa: E731
    while (now := abs(count(make(width)) - wanted)) < gap:
        gap, width = now, width + 1
    return Pointwise(make(width - 1), 5 if model == "MLP, sequential loss" else 1, step)


def alone(network: PINNsFormer) -> PINNsFormer:
    """A copy of a trained PINNsFormer that is shown each point without its later times, to see what they contribute."""
    shorter = copy.deepcopy(network)
    shorter.length = 1
    for layer in (shorter.encoder, shorter.decoder):
        layer.attention.length, layer.attention.mixing = 1, False
    return shorter
