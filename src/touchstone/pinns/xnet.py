r"""XNet: one hidden layer of units shaped like a pair of complex poles, with trainable residues and distances.

By Cauchy's integral formula an analytic function is a contour integral of simple poles; the trapezoidal rule turns the
integral into a finite sum, and on the real line each conjugate pair of poles is a real bump and its slope. A unit takes that
shape, so that a layer of them is a rational function whose poles training moves through the complex plane.

Source: Li, Xia and Zhang (2024), arXiv:2409.19221. The complex form of the unit and of its derivatives is derived here.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import Embedding, generators, uniform
from touchstone.pinns.plain import adam_lbfgs_pinn
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, hand_back

FLOOR = 1e-4  # smallest squared distance of a pole from the real line: nearer ones are spikes between the points


def cauchy_sum(
    z: Complex[Tensor, "points"], nodes: Complex[Tensor, "nodes"], values: Complex[Tensor, "nodes"]
) -> Complex[Tensor, "points"]:
    r"""Cauchy's formula on a circle about 0 by the trapezoidal rule: :math:`f(z)\approx\frac1n\sum_j\frac{f(\zeta_j)\,\zeta_j}{\zeta_j-z}`.

    Args:
        z: where to evaluate, inside the circle.
        nodes: :math:`\zeta_j`, evenly spaced on the circle.
        values: :math:`f(\zeta_j)`.

    Returns:
        the sum of simple poles, which converges to :math:`f` geometrically in the number of nodes.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit, or a point is not inside.
    """
    shaped("z", z, ("points",))
    sizes = shaped("nodes", nodes, ("nodes",))
    shaped("values", values, (sizes["nodes"],))
    finite(z=z, nodes=nodes, values=values)
    if z.abs().max() >= nodes.abs().min():
        raise ValueError(f"z reaches |z| = {float(z.abs().max()):g}: give points inside the circle of the nodes")
    return (values * nodes / (nodes - z[:, None])).mean(1)


def cauchy_derivatives(
    x: Float[Tensor, "*batch"],
    odd: Float[Tensor, "*units"],
    even: Float[Tensor, "*units"],
    squared: Float[Tensor, "*units"],
    highest: int = 0,
) -> list[Float[Tensor, "*batch"]]:
    r"""The unit :math:`\phi(x)=\frac{\lambda_1x+\lambda_2}{x^2+d^2}` and its derivatives in closed form.

    With :math:`P_k+i\,d\,S_k=(x-id)^{-k}`, so that :math:`P_1=x/(x^2+d^2)` and :math:`S_1=1/(x^2+d^2)`,

    .. math:: \phi^{(n)}=(-1)^n\,n!\,(\lambda_1P_{n+1}+\lambda_2S_{n+1}),\quad
              P_{k+1}=P_1P_k-d^2S_1S_k,\quad S_{k+1}=P_1S_k+S_1P_k .

    Args:
        x: pre-activations.
        odd: :math:`\lambda_1`, in a shape that broadcasts with ``x``.
        even: :math:`\lambda_2`, likewise.
        squared: :math:`d^2`, likewise.
        highest: order of the last derivative.

    Returns:
        value, first derivative, ... up to order ``highest``.

    Raises:
        ValueError: if an argument is empty or not finite, ``squared`` is not above zero, or ``highest`` is negative.
    """
    finite(x=x, odd=odd, even=even, squared=squared)
    if squared.min() <= 0:
        raise ValueError(
            f"squared is {float(squared.min()):g} somewhere: a pole on the real line makes the unit infinite"
        )
    if highest < 0:
        raise ValueError(f"highest is {highest}: give 0 for the value alone")
    return _derivatives(x, odd, even, squared, highest)


def _derivatives(x: Tensor, odd: Tensor, even: Tensor, squared: Tensor, highest: int) -> list[Tensor]:
    """The recurrence itself; the training loop, which stops at a loss that is not finite, needs no second check."""
    s1 = 1 / (x * x + squared)
    p1 = x * s1
    drop = squared * s1
    found, p, s = [odd * p1 + even * s1], p1, s1
    for order in range(1, highest + 1):
        p, s = p1 * p - drop * s, p1 * s + s1 * p
        factor = (-1) ** order * math.factorial(order)
        found.append(factor * (odd * p + even * s))
    return found


class CauchyUnits(nn.Module):
    r"""The activation :math:`\phi`, each seed and each unit with its own :math:`\lambda_1,\lambda_2` and :math:`d`.

    Args:
        seeds: size of the stack.
        units: features that it is applied to.
        start: :math:`\lambda_1=\lambda_2` at the start; 0.01 where the units are summed up, 1 where a layer follows.
    """

    def __init__(self, seeds: int, units: int, start: float = 0.01):
        super().__init__()
        self.odd = nn.Parameter(torch.full((seeds, 1, units), start))
        self.even = nn.Parameter(torch.full((seeds, 1, units), start))
        self.raw = nn.Parameter(torch.full((seeds, 1, units), math.log(math.expm1(1 - FLOOR))))

    @property
    def squared(self) -> Float[Tensor, "seeds 1 units"]:
        r"""The :math:`d^2=10^{-4}+\mathrm{softplus}` of a trainable number; 1 at the start."""
        return FLOOR + nn.functional.softplus(self.raw)

    def forward(self, jet: Jet) -> Jet:
        """Apply the unit to each feature, and its derivatives to the other streams."""
        highest = max(jet.orders, default=0)
        return jets.compose(jet, _derivatives(jet.value, self.odd, self.even, self.squared, highest))


class XNet(nn.Module):
    r"""A stack of single-layer networks :math:`u(x)=\sum_k\phi_k(w_k\cdot x+b_k)`, one a seed.

    Args:
        inputs: features that the embedding delivers (the number of coordinates without one).
        outputs: components of the solution; each has its own units.
        seeds: one network for each.
        units: number of units of an output; each costs ``inputs`` + 4 parameters.
        embedding: turns points into a jet of features; the coordinates themselves by default.
    """

    def __init__(
        self, inputs: int, outputs: int, seeds: Sequence[int], units: int = 200, embedding: Embedding = jets.coordinates
    ):
        super().__init__()
        self.outputs, self.embedding = outputs, embedding
        draws, reach = generators(seeds), inputs**-0.5
        self.weight = nn.Parameter(reach * (2 * uniform(draws, inputs, units * outputs) - 1))
        self.bias = nn.Parameter(reach * (2 * uniform(draws, 1, units * outputs) - 1))
        self.activation = CauchyUnits(len(draws), units * outputs)

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points.

        Args:
            points: coordinates, each seed its own.
            orders: highest derivative wanted along each coordinate.

        Returns:
            the networks' jet, with ``outputs`` features.
        """
        units = self.activation(jets.linear(self.embedding(points, orders), self.weight, self.bias))
        return Jet(units.streams.unflatten(-1, (self.outputs, -1)).sum(-1), units.orders)


@entrant("pinns", "xnet")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with 200 units, trained like the house baseline: Adam, then L-BFGS."""
    network = XNet(problem.inputs, problem.outputs, [seed], embedding=problem.embed)
    return hand_back(problem, adam_lbfgs_pinn(problem, [seed], Recipe(), budget, network=network))
