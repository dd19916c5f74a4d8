r"""What PIG is measured against at equal parameters: perceptrons with tanh and sine, and features on a fixed grid."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, generators, uniform
from touchstone.pinns.pig import PIG, Gaussians
from touchstone.pinns.problems import Problem


def cosine_hats(
    places: Float[Tensor, "*batch"], vertices: int, order: int, wrap: bool
) -> Float[Tensor, "*batch vertices"]:
    r"""Weights of cosine interpolation, :math:`\tfrac12(1+\cos\pi s)` for a distance :math:`|s|<1` to a vertex, or a derivative.

    Args:
        places: positions in units of the spacing; vertex j lies at j.
        vertices: their number.
        order: of the derivative, 0 to 2; the second jumps at vertices.
        wrap: vertex 0 follows the last one.

    Returns:
        one weight a vertex.

    Raises:
        ValueError: if ``places`` is empty or not finite, or ``order`` is not 0, 1 or 2.
    """
    finite(places=places)
    if order not in (0, 1, 2):
        raise ValueError(f"order is {order}: cosine interpolation has derivatives up to 2")
    gap = places[..., None] - torch.arange(vertices, dtype=places.dtype)
    if wrap:
        gap = gap - vertices * (gap / vertices).round()
    wave = [1 + torch.cos(math.pi * gap), -math.pi * torch.sin(math.pi * gap), -(math.pi**2) * torch.cos(math.pi * gap)]
    return torch.where(gap.abs() < 1, 0.5 * wave[order], torch.zeros_like(gap))


class GridFeatures(nn.Module):
    """Trainable features on a regular grid in two dimensions with cosine interpolation (PIXEL, Kang et al., 2022, arXiv:2207.12800).

    Args:
        problem: gives the domain, and the period of the second coordinate where there is one.
        seeds: one grid for each.
        vertices: along each axis.
        channels: length of a feature vector.
    """

    def __init__(self, problem: Problem, seeds: Sequence[int], vertices: int, channels: int = 4):
        super().__init__()
        self.low, self.high = problem.low, problem.high
        self.vertices, self.wrap = vertices, (False, problem.period is not None)
        draws = generators(seeds)
        noise = torch.stack([torch.randn(vertices, vertices, channels, generator=draw) for draw in draws])
        self.features = nn.Parameter(0.01 * noise)

    def forward(self, points: Float[Tensor, "seeds points 2"], orders: Sequence[int]) -> Jet:
        """The jet of the interpolated features."""
        shaped("points", points, ("seeds", "points", 2))
        hats = []
        for axis, (a, b, wrap) in enumerate(zip(self.low, self.high, self.wrap, strict=True)):
            rate = (self.vertices if wrap else self.vertices - 1) / (b - a)
            place = (points[..., axis] - a) * rate
            hats.append([rate**n * cosine_hats(place, self.vertices, n, wrap) for n in range(orders[axis] + 1)])
        pairs = [(hats[0][0], hats[1][0])]
        pairs += [(hats[0][n], hats[1][0]) for n in range(1, orders[0] + 1)]
        pairs += [(hats[0][0], hats[1][n]) for n in range(1, orders[1] + 1)]
        streams = [
            (torch.bmm(left, self.features.flatten(2)).unflatten(-1, self.features.shape[2:]) * right[..., None]).sum(2)
            for left, right in pairs
        ]
        return Jet(torch.stack(streams, 1), tuple(orders))


class Siren(MLP):
    r"""A stack of sine networks with the initialisation of Sitzmann et al. (2020, arXiv:2006.09661) and :math:`\omega_0=10`."""

    def __init__(self, problem: Problem, seeds: Sequence[int], width: int):
        super().__init__(problem.inputs, problem.outputs, seeds, width, 3, problem.embed, jets.sine)
        draws = generators(seeds)
        with torch.no_grad():
            for layer, weight in enumerate(self.weights):
                reach = 10 / weight.shape[1] if layer == 0 else math.sqrt(6 / weight.shape[1])
                weight.copy_(reach * (2 * uniform(draws, *weight.shape[1:]) - 1))


def count(network: nn.Module) -> int:
    """Trainable numbers of one seed's network."""
    return sum(weight[0].numel() for weight in network.parameters() if weight.requires_grad)


def _gaussians(problem: Problem, seeds: Sequence[int], size: int, frozen: Sequence[str] = (), **options) -> PIG:
    embedding = Gaussians(problem, seeds, size, **options)
    for name in frozen:
        getattr(embedding, name).requires_grad_(False)
    return PIG(embedding, problem.outputs, seeds)


MODELS = {
    "PIG": _gaussians,
    "tanh": lambda problem, seeds, size: MLP(problem.inputs, problem.outputs, seeds, size, 3, problem.embed),
    "sine": Siren,
    "grid": lambda problem, seeds, size: PIG(GridFeatures(problem, seeds, size), problem.outputs, seeds),
    "frozen": lambda problem, seeds, size: _gaussians(problem, seeds, size, ("means", "widths")),
    "frozen means": lambda problem, seeds, size: _gaussians(problem, seeds, size, ("means",)),
    "frozen widths": lambda problem, seeds, size: _gaussians(problem, seeds, size, ("widths",)),
    "no network": lambda problem, seeds, size: PIG(
        Gaussians(problem, seeds, size, problem.outputs), problem.outputs, seeds, problem.outputs, hidden=0
    ),
    "full covariance": lambda problem, seeds, size: _gaussians(problem, seeds, size, full=True),
    "own Gaussians": lambda problem, seeds, size: _gaussians(problem, seeds, size, own=True),
}


def build(model: str, problem: Problem, seed: int, parameters: int) -> nn.Module:
    """The network of a model whose size comes nearest to a number of trainable parameters.

    Args:
        model: a key of ``MODELS``.
        problem: gives domain, inputs and outputs.
        seed: of the initial values.
        parameters: the number wanted.

    Returns:
        a stack of one network.

    Raises:
        ValueError: for an unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"model is {model!r}: choose one of {', '.join(MODELS)}")
    gap, size = math.inf, 2
    while (now := abs(count(MODELS[model](problem, [seed], size)) - parameters)) < gap:
        gap, size = now, size + 1
    return MODELS[model](problem, [seed], size - 1)
