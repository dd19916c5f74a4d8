r"""Families of equations on two subdomains, with the derivatives that their interface conditions need.

A family is an equation with a parameter :math:`\beta` in :math:`(x,y)`, or in :math:`(x,t)` with time as the second
coordinate, a domain cut in two, and a reference solution for every :math:`\beta`. The *context* of a play is its
:math:`\beta`, standardised over the range from which contexts are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dstn, idstn
from scipy.special import logsumexp
from torch import Tensor

from touchstone.nn.jets import Jet
from touchstone.pinns.references import Reference, grid

DIRECTIONS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, -1.0))
THIRD = (3, 3, 3, 3)  # three derivatives along each of the four directions


def features(low: Float[Tensor, "nets 1 2"], high: Float[Tensor, "nets 1 2"]) -> Callable[[Tensor, Sequence[int]], Jet]:
    r"""The coordinates rescaled to [-1, 1], as a jet along the axes, or along the axes and both diagonals.

    Args:
        low: smallest value of each coordinate, for every network.
        high: largest value of each coordinate.

    Returns:
        an embedding: from points and orders, one for each of the first ``len(orders)`` of ``DIRECTIONS``, to a jet.
    """

    def embed(points: Tensor, orders: Sequence[int]) -> Jet:
        slopes = 2 / (high - low).to(points)
        streams = points.new_zeros(points.shape[0], 1 + sum(orders), *points.shape[1:])
        streams[:, 0] = (points - low.to(points)) * slopes - 1
        for number, order in enumerate(orders):
            if order:
                streams[:, 1 + sum(orders[:number])] = slopes * points.new_tensor(DIRECTIONS[number])
        return Jet(streams, tuple(orders))

    return embed


def mixed(
    jet: Jet,
) -> tuple[Float[Tensor, "nets points 1"], Float[Tensor, "nets points 1"], Float[Tensor, "nets points 1"]]:
    r"""Mixed derivatives :math:`u_{xy}, u_{xxy}, u_{xyy}` from pure ones along the axes and the diagonals (polarisation).

    With :math:`D_\pm=\partial_x\pm\partial_y`: :math:`4u_{xy}=(D_+^2-D_-^2)u`, :math:`6u_{xxy}=(D_+^3-D_-^3-2\partial_y^3)u`,
    :math:`6u_{xyy}=(D_+^3+D_-^3-2\partial_x^3)u`.

    Args:
        jet: three derivatives along each of the four directions.

    Returns:
        the three derivatives.

    Raises:
        ValueError: if the jet does not carry them.
    """
    if jet.orders != THIRD:
        raise ValueError(f"jet has orders {jet.orders}, mixed derivatives need {THIRD}")
    total, difference = jet.d(2, 3) + jet.d(3, 3), jet.d(2, 3) - jet.d(3, 3)
    xy = (jet.d(2, 2) - jet.d(3, 2)) / 4
    return xy, (difference - 2 * jet.d(1, 3)) / 6, (total - 2 * jet.d(0, 3)) / 6


@dataclass(frozen=True)
class Family:
    r"""An equation with a parameter, on a domain cut in two.

    Points are ``[plays, points, 2]`` and parameters ``[plays, 1, 1]``. Sides are numbered 0 and 1.

    Attributes:
        name: for tables.
        low: smallest value of each coordinate, for each side.
        high: largest value of each coordinate, for each side.
        range: of the parameter.
        sides: for each side, carries uniform numbers of the unit square to points of that side.
        edges: for each side, ``count`` points on the part of the edge where the solution is known.
        interface: ``count`` points of the interface.
        side_one: which points belong to side 1.
        edge_value: the solution on the edges, from points and parameter.
        residual: of the equation, from jet, points and parameter.
        slopes: both derivatives of the residual, from a jet with three orders along four directions, points and parameter.
        flux: what the equation conserves across the interface, from jet and parameter.
        solve: test points and reference solution of one parameter.

    Raises:
        ValueError: if the range is empty.
    """

    name: str
    low: tuple[tuple[float, float], tuple[float, float]]
    high: tuple[tuple[float, float], tuple[float, float]]
    range: tuple[float, float]
    sides: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
    edges: tuple[Callable[[int], Tensor], Callable[[int], Tensor]]
    interface: Callable[[int], Tensor]
    side_one: Callable[[Tensor], Tensor]
    edge_value: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Jet, Tensor, Tensor], Tensor]
    slopes: Callable[[Jet, Tensor, Tensor], tuple[Tensor, Tensor]]
    flux: Callable[[Jet, Tensor], Tensor]
    solve: Callable[[float], Reference]

    def __post_init__(self):
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range is {self.range}: the first entry must be the smaller")

    def contexts(self, seed: int, count: int, stream: int = 0) -> Float[np.ndarray, " count"]:
        """Parameters drawn uniformly from the range, no two alike.

        Args:
            seed: of the draw.
            count: how many.
            stream: 0 for those to learn on; others never meet them.

        Returns:
            the parameters.
        """
        return np.random.default_rng([seed, stream, 20_221]).uniform(*self.range, count)

    def standardise(self, parameter: float) -> float:
        """A parameter minus the mean of its range, over the standard deviation of uniform draws from it."""
        low, high = self.range
        return (parameter - (low + high) / 2) / ((high - low) / 12**0.5)


def line(start: tuple[float, float], end: tuple[float, float], count: int) -> Float[Tensor, "count 2"]:
    """Evenly spaced points of a line, its ends left out."""
    share = (torch.arange(count)[:, None] + 0.5) / count
    return torch.tensor(start) + share * (torch.tensor(end) - torch.tensor(start))


def _bump(s: Tensor | np.ndarray, beta, tanh: Callable) -> Tensor | np.ndarray:
    """One on the middle half of [0, 1], with edges of sharpness beta."""
    return (tanh(beta * (s - 0.25)) - tanh(beta * (s - 0.75))) / (2 * tanh(0.25 * beta))


def _bump_slope(s: Tensor, beta: Tensor) -> Tensor:
    rise = (beta * (s - 0.25)).tanh().square() - (beta * (s - 0.75)).tanh().square()
    return -beta * rise / (2 * (0.25 * beta).tanh())


@lru_cache(maxsize=1024)
def poisson_solution(sharpness: float, cells: int = 256) -> Reference:
    """Second-order finite differences for the Poisson family, solved by sine transforms.

    Args:
        sharpness: of the source's edges.
        cells: of the grid along each axis; the interior points of a grid of 64 are reported.

    Returns:
        points and values.
    """
    s = np.arange(1, cells) / cells
    bump = _bump(s, sharpness, np.tanh)
    symbol = -4 * cells**2 * np.sin(np.pi * s / 2) ** 2
    values = idstn(dstn(np.outer(bump, bump), 1) / (symbol[:, None] + symbol), 1)
    kept = slice(cells // 64 - 1, None, cells // 64)
    return grid(s[kept], s[kept]), values[kept, kept].reshape(-1, 1)


def poisson() -> Family:
    r"""Poisson :math:`u_{xx}+u_{yy}=f_\beta` on the unit square, zero on its edge, cut at :math:`y=\tfrac12`.

    The source is 1 at the centre and falls to 0 outside the middle half of the square over tanh edges of sharpness
    :math:`\beta\in[1,50]`.
    """

    def edge(bottom: float, end: float) -> Callable[[int], Tensor]:
        def place(count: int) -> Tensor:
            half, quarter = count - 2 * (count // 4), count // 4
            walls = [line((x, bottom), (x, bottom + 0.5), quarter) for x in (0.0, 1.0)]
            return torch.cat([line((0.0, end), (1.0, end), half), *walls])

        return place

    def slopes(u: Jet, points: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        _, xxy, xyy = mixed(u)
        x, y = points[..., :1], points[..., 1:]
        along_x = u.d(0, 3) + xyy - _bump_slope(x, beta) * _bump(y, beta, torch.tanh)
        return along_x, xxy + u.d(1, 3) - _bump(x, beta, torch.tanh) * _bump_slope(y, beta)

    return Family(
        name="Poisson",
        low=((0.0, 0.0), (0.0, 0.5)),
        high=((1.0, 0.5), (1.0, 1.0)),
        range=(1.0, 50.0),
        sides=tuple(lambda unit, k=k: unit * unit.new_tensor([1.0, 0.5]) + unit.new_tensor([0, k / 2]) for k in (0, 1)),
        edges=(edge(0.0, 0.0), edge(0.5, 1.0)),
        interface=lambda count: line((0.0, 0.5), (1.0, 0.5), count),
        side_one=lambda points: points[..., 1:] > 0.5,
        edge_value=lambda points, beta: torch.zeros_like(points[..., :1]),
        residual=lambda u, points, beta: (
            u.d(0, 2) + u.d(1, 2) - _bump(points[..., :1], beta, torch.tanh) * _bump(points[..., 1:], beta, torch.tanh)
        ),
        slopes=slopes,
        flux=lambda u, beta: u.d(1),
        solve=poisson_solution,
    )


@lru_cache(maxsize=1024)
def burgers_solution(viscosity: float, spacing: float = 0.2) -> Reference:
    r"""Burgers' equation by the Cole-Hopf transform, its heat kernel integrated by the trapezoidal rule.

    Args:
        viscosity: :math:`\nu`.
        spacing: of the rule, in units of :math:`2\sqrt{\nu t}`; the integrand is entire, so the rule converges exponentially.

    Returns:
        points :math:`(x,t)`, 128 by 41, and values.
    """
    points = grid(np.linspace(-1, 1, 128), np.linspace(0, 1, 41))
    z = np.arange(-22, 22 + spacing / 2, spacing)
    foot = points[:, :1] - 2 * np.sqrt(viscosity * points[:, 1:]) * z
    exponent = -(z**2) - np.cos(np.pi * foot) / (2 * np.pi * viscosity)
    share = np.exp(exponent - logsumexp(exponent, axis=1, keepdims=True))
    return points, -(share * np.sin(np.pi * foot)).sum(1, keepdims=True)


def burgers() -> Family:
    r"""Burgers :math:`u_t+uu_x=\nu u_{xx}` on :math:`|x|\le1`, :math:`t\le1`, :math:`u_0=-\sin\pi x`, zero at the ends.

    Side 1 is the strip :math:`|x|<0.1`, in which the front forms, side 0 all the rest; the interface has two lines.
    Viscosities :math:`\nu\in[0.001,0.05]`.
    """

    def outside(unit: Tensor) -> Tensor:
        x = 1.8 * unit[..., :1] - 0.9
        return torch.cat([x + torch.where(x < 0, -0.1, 0.1), unit[..., 1:]], -1)

    def outer_edge(count: int) -> Tensor:
        start = [line((x, 0.0), (x + 0.9, 0.0), count // 4) for x in (-1.0, 0.1)]
        rest = count - 2 * (count // 4)
        return torch.cat(
            [*start, line((-1.0, 0.0), (-1.0, 1.0), rest // 2), line((1.0, 0.0), (1.0, 1.0), rest - rest // 2)]
        )

    def slopes(u: Jet, points: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        xt, xxt, _ = mixed(u)
        along_x = xt + u.d(0).square() + u.value * u.d(0, 2) - beta * u.d(0, 3)
        return along_x, u.d(1, 2) + u.d(1) * u.d(0) + u.value * xt - beta * xxt

    return Family(
        name="Burgers",
        low=((-1.0, 0.0), (-0.1, 0.0)),
        high=((1.0, 1.0), (0.1, 1.0)),
        range=(0.001, 0.05),
        sides=(outside, lambda unit: unit * unit.new_tensor([0.2, 1.0]) - unit.new_tensor([0.1, 0.0])),
        edges=(outer_edge, lambda count: line((-0.1, 0.0), (0.1, 0.0), count)),
        interface=lambda count: torch.cat(
            [line((x, 0.0), (x, 1.0), n) for x, n in ((-0.1, count // 2), (0.1, count - count // 2))]
        ),
        side_one=lambda points: points[..., :1].abs() < 0.1,
        edge_value=lambda points, beta: -torch.sin(torch.pi * points[..., :1]),  # also zero at the ends
        residual=lambda u, points, beta: u.d(1) + u.value * u.d(0) - beta * u.d(0, 2),
        slopes=slopes,
        flux=lambda u, beta: u.value.square() / 2 - beta * u.d(0),
        solve=burgers_solution,
    )
