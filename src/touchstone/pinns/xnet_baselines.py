r"""What XNet is measured against: other activations at equal parameters, and the problems that need only values.

Regression is written as an equation of order zero, :math:`u-f=0`, so that one training loop serves everything. In a
hundred dimensions the Laplacian is estimated from second derivatives along a few random directions (Hutchinson's
estimator; Hu, Shi, Karniadakis and Kawaguchi, 2023, arXiv:2312.14499).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, Embedding, generators, glorot, uniform
from touchstone.pinns.problems import Problem, pois_hd, two_body, zero_on_sphere
from touchstone.pinns.references import formula
from touchstone.pinns.xnet import CauchyUnits, XNet


def value_only(function: Callable[[Tensor], Tensor]) -> Callable[[Jet], Jet]:
    """An activation for jets that carry no derivatives."""
    return lambda jet: jets.compose(jet, [function(jet.value)])


class Siren(MLP):
    r"""A stack of sine networks with the initialisation of Sitzmann et al. (2020, arXiv:2006.09661).

    Args:
        inputs: features that the embedding delivers.
        outputs: components of the solution.
        seeds: one network for each.
        width: units of a hidden layer.
        depth: number of hidden layers.
        embedding: turns points into a jet of features.
        frequency: :math:`\omega_0` of the first layer. Sitzmann et al. use 30 for images; the smooth functions here need less.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        seeds: Sequence[int],
        width: int,
        depth: int = 3,
        embedding: Embedding = jets.coordinates,
        frequency: float = 10.0,
    ):
        super().__init__(inputs, outputs, seeds, width, depth, embedding, jets.sine)
        draws = generators(seeds)
        with torch.no_grad():
            for layer, weight in enumerate(self.weights):
                fan = weight.shape[1]
                weight.copy_(
                    (frequency / fan if layer == 0 else math.sqrt(6 / fan))
                    * (2 * uniform(draws, *weight.shape[1:]) - 1)
                )


class Rational(nn.Module):
    """The rational activation of type (3, 2) of Boullé, Nakatsukasa and Townsend (2020, arXiv:2004.01902), near ReLU at the start.

    Args:
        seeds: size of the stack; each seed has one function for all units.
    """

    def __init__(self, seeds: int):
        super().__init__()
        self.above = nn.Parameter(torch.tensor([1.1915, 1.5957, 0.5, 0.0218]).repeat(seeds, 1)[:, :, None, None])
        self.below = nn.Parameter(torch.tensor([2.383, 0.0, 1.0]).repeat(seeds, 1)[:, :, None, None])

    def forward(self, jet: Jet) -> Jet:
        """Apply it to a jet without derivatives."""
        x, a, b = jet.value, self.above.unbind(1), self.below.unbind(1)
        return jets.compose(jet, [(((a[0] * x + a[1]) * x + a[2]) * x + a[3]) / ((b[0] * x + b[1]) * x + b[2])])


class SplineKAN(nn.Module):
    """A stack of two-layer Kolmogorov-Arnold networks (Liu et al., 2024, arXiv:2404.19756), values only.

    Every edge is a cubic B-spline on [-1, 1] plus a multiple of SiLU; there are 2 d + 1 hidden nodes for d inputs.

    Args:
        inputs: features that the embedding delivers.
        outputs: components of the solution.
        seeds: one network for each.
        grid: intervals of a spline.
        embedding: turns points into a jet of features.
    """

    def __init__(
        self, inputs: int, outputs: int, seeds: Sequence[int], grid: int, embedding: Embedding = jets.coordinates
    ):
        super().__init__()
        self.embedding, draws = embedding, generators(seeds)
        sizes = [inputs, 2 * inputs + 1, outputs]
        self.splines, self.bases = nn.ParameterList(), nn.ParameterList()
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            self.bases.append(glorot(draws, a, b))
            noise = torch.stack([torch.randn(a * (grid + 3), b, generator=draw) for draw in draws])
            self.splines.append(0.1 * noise)
        knots = -1 + 2 / grid * torch.arange(-3, grid + 4, dtype=torch.float64)
        self.register_buffer("knots", knots.repeat(len(draws), 1))  # a leading axis, as all tensors of a stack have

    def _splines(self, x: Tensor) -> Tensor:
        """Values of the cubic B-splines by Cox and de Boor's recursion, ``[seeds, points, features * splines]``."""
        t = self.knots[0].to(x.dtype)
        y = x[..., None]
        basis = ((y >= t[:-1]) & (y < t[1:])).to(x.dtype)
        for k in range(1, 4):
            left = (y - t[: -k - 1]) / (t[k:-1] - t[: -k - 1])
            right = (t[k + 1 :] - y) / (t[k + 1 :] - t[1:-k])
            basis = left * basis[..., :-1] + right * basis[..., 1:]
        return basis.flatten(-2)

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Values at the points, as a jet without derivatives."""
        hidden = self.embedding(points, orders)
        x = hidden.value
        for spline, base in zip(self.splines, self.bases, strict=True):
            x = torch.bmm(nn.functional.silu(x), base) + torch.bmm(self._splines(x), spline)
        return Jet(x[:, None], hidden.orders)


def _mlp(depth: int, activation: Callable[[Jet], Jet]) -> Callable[..., nn.Module]:
    return lambda inputs, outputs, seeds, size, embedding: MLP(
        inputs, outputs, seeds, size, depth, embedding, activation
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "XNet": lambda i, o, seeds, size, embedding: XNet(i, o, seeds, size, embedding),
    "tanh, 1 layer": _mlp(1, jets.tanh),
    "tanh, 3 layers": _mlp(3, jets.tanh),
    "sine": lambda i, o, seeds, size, embedding: Siren(i, o, seeds, size, embedding=embedding),
    "ReLU": _mlp(3, value_only(torch.relu)),
    "GELU": _mlp(3, value_only(nn.functional.gelu)),
    "rational": lambda i, o, seeds, size, embedding: MLP(i, o, seeds, size, 3, embedding, Rational(len(seeds))),
    "KAN": lambda i, o, seeds, size, embedding: SplineKAN(i, o, seeds, size, embedding),
}


def count(network: nn.Module) -> int:
    """Trainable numbers of one seed's network."""
    return sum(weight[0].numel() for weight in network.parameters())


def build(
    model: str, problem: Problem, seeds: Sequence[int], parameters: int, embedding: Embedding | None = None
) -> nn.Module:
    """The network of a model whose size comes nearest to a number of parameters, those of the activations included.

    Args:
        model: a key of ``MODELS``.
        problem: gives inputs and outputs.
        seeds: one network for each.
        parameters: the number wanted.
        embedding: the problem's by default.

    Returns:
        the stack.

    Raises:
        ValueError: for an unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"model is {model!r}: choose one of {', '.join(MODELS)}")
    make = partial(MODELS[model], problem.inputs, problem.outputs)
    size, gap = 1, math.inf
    while True:
        found = count(make([0], size, problem.embed))
        if abs(found - parameters) >= gap:
            return make(seeds, size - 1, problem.embed if embedding is None else embedding)
        size, gap = size + 1, abs(found - parameters)


def regression(name: str, function: Callable[[Float[Tensor, "*batch dims"]], Tensor], dims: int, side: int) -> Problem:
    r"""A function on :math:`[-1,1]^d` as an equation of order zero.

    Args:
        name: how tables call it.
        function: maps points ``[..., dims]`` to values ``[..., 1]``.
        dims: :math:`d`.
        side: test points along each coordinate.

    Returns:
        the problem, which has no edges.
    """
    axis = np.linspace(-1, 1, side)

    def truth(*columns: np.ndarray) -> np.ndarray:
        return function(torch.as_tensor(np.stack(columns, -1)))[..., 0].numpy()

    return Problem(
        name=name,
        low=(-1.0,) * dims,
        high=(1.0,) * dims,
        orders=(0,) * dims,
        outputs=1,
        equation=lambda u, points: 1000 * (u.value - function(points)),  # above the absolute tolerances of L-BFGS
        ansatz=lambda jet, points: jet,
        solve=lambda: formula(truth, *[axis] * dims),
    )


TARGETS: dict[str, Callable[[], Problem]] = {
    "exp(sin(pi x))": lambda: regression("exp(sin(pi x))", lambda p: torch.exp(torch.sin(math.pi * p)), 1, 2561),
    "tanh(50 x)": lambda: regression("tanh(50 x)", lambda p: torch.tanh(50 * p), 1, 2561),
    "exp(sin(pi x) + y^2)": lambda: regression(
        "exp(sin(pi x) + y^2)", lambda p: torch.exp(torch.sin(math.pi * p[..., :1]) + p[..., 1:] ** 2), 2, 101
    ),
}


class Probes:
    r"""The high-dimensional Poisson problem with an estimated Laplacian.

    For random signs :math:`v` the mean of :math:`v^\top H v` is the trace of :math:`H`. The networks carry first and second
    derivatives along ``directions`` such vectors, new ones at every evaluation, in place of those along all coordinates.

    Args:
        dims: dimension of the ball.
        directions: number of random directions.
        seed: of the directions.

    Attributes:
        problem: the problem, for networks behind :meth:`embed`.
    """

    def __init__(self, dims: int, directions: int = 16, seed: int = 0):
        exact = pois_hd(dims)
        self.draw = torch.Generator().manual_seed(seed)
        self.directions = directions
        self.signs = torch.ones(directions, dims)
        weights = torch.randn(dims - 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def equation(u: Jet, points: Tensor) -> Tensor:
            laplacian = sum(u.d(axis, 2) for axis in range(directions)) / directions
            return laplacian - two_body(points, weights.to(points.dtype))[1]

        self.problem = replace(exact, equation=equation, ansatz=self.ansatz)

    def _along(self, points: Tensor, slopes: Tensor, bends: Tensor | float, value: Tensor) -> Jet:
        streams = value.new_zeros(points.shape[0], 1 + 2 * self.directions, *value.shape[1:])
        streams[:, 0], streams[:, 1::2], streams[:, 2::2] = value, slopes, bends
        return Jet(streams, (2,) * self.directions)

    def embed(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The coordinates, with derivatives along newly drawn directions where derivatives are wanted."""
        if not any(orders):
            return jets.coordinates(points, orders)
        signs = torch.randint(0, 2, (self.directions, points.shape[-1]), generator=self.draw)
        self.signs = 2 * signs.to(points.dtype) - 1
        return self._along(points, self.signs[None, :, None], 0.0, points)

    def ansatz(self, jet: Jet, points: Tensor) -> Jet:
        r"""The factor :math:`1-\lVert x\rVert^2`, zero on the sphere, along the present directions."""
        if not any(jet.orders):
            return zero_on_sphere(jet, points)
        inside = 1 - points.square().sum(-1, keepdim=True)
        slopes = -2 * torch.einsum("spd,vd->svp", points, self.signs)[..., None]
        return jets.product(self._along(points, slopes, -2.0 * points.shape[-1], inside), jet)


class Classifier(nn.Module):
    """A stack of networks with one hidden layer for flattened images.

    Args:
        seeds: one network for each.
        width: hidden units.
        activation: ``Cauchy``, ``ReLU``, ``GELU`` or ``tanh``.
        inputs: pixels.
        classes: number of classes.
    """

    def __init__(self, seeds: Sequence[int], width: int, activation: str, inputs: int = 64, classes: int = 10):
        super().__init__()
        draws = generators(seeds)
        self.weights = nn.ParameterList([glorot(draws, inputs, width), glorot(draws, width, classes)])
        self.biases = nn.ParameterList([torch.zeros(len(draws), 1, width), torch.zeros(len(draws), 1, classes)])
        plain = {"ReLU": torch.relu, "GELU": nn.functional.gelu, "tanh": torch.tanh}
        self.units = CauchyUnits(len(draws), width, start=1.0) if activation == "Cauchy" else None
        self.activation = plain.get(activation)

    def forward(self, images: Float[Tensor, "seeds images pixels"]) -> Float[Tensor, "seeds images classes"]:
        """Logits of every image."""
        hidden = torch.baddbmm(self.biases[0], images, self.weights[0])
        hidden = self.activation(hidden) if self.units is None else self.units(Jet(hidden[:, None], ())).value
        return torch.baddbmm(self.biases[1], hidden, self.weights[1])


def fixed_pole_error(nodes: int, points: Float[np.ndarray, " points"], rho: float = 1.15) -> float:
    r"""Fit :math:`1/(1+25x^2)` on [-1, 1] by least squares with poles fixed on the Bernstein ellipse of parameter :math:`\rho`.

    Args:
        nodes: number of poles, even; one Cauchy unit stands for two conjugate ones.
        points: where the function is sampled.
        rho: sum of the half-axes of the ellipse; the function's own poles have 1.22.

    Returns:
        largest error on 5001 other points, dense near the ends.

    Raises:
        ValueError: if ``points`` is empty or not finite, or ``nodes`` is odd or below 2.
    """
    finite(points=points)
    if nodes < 2 or nodes % 2:
        raise ValueError(f"nodes is {nodes}: poles come in conjugate pairs, give an even number")
    circle = rho * np.exp(1j * np.pi * (np.arange(nodes // 2) + 0.5) / (nodes // 2))
    poles = (circle + 1 / circle) / 2

    def units(x: np.ndarray) -> np.ndarray:
        kernels = 1 / (x[:, None] - poles)
        return np.concatenate([kernels.real, kernels.imag], 1)

    def truth(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + 25 * x**2)

    matrix = units(points)
    size = np.linalg.norm(matrix, axis=0)
    weights = np.linalg.lstsq(matrix / size, truth(points), rcond=None)[0] / size
    fine = np.cos(np.linspace(0, np.pi, 5001))
    return float(np.abs(units(fine) @ weights - truth(fine)).max())
