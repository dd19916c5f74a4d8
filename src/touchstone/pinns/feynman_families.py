r"""Two families of one-loop Feynman integrals: their differential systems, and exact values to compare with.

The master integrals :math:`F` of a family, in dimension :math:`4-2\epsilon`, obey a linear first-order system in a
kinematic variable :math:`x`. Here it is multiplied by a polynomial :math:`m(x)` that takes out its singular points,

.. math:: m(x)\,\partial_xF(x,\epsilon)=\sum_kM^{(k)}(x)\,\epsilon^k\,F(x,\epsilon),\qquad F=\sum_wF^{(w)}\epsilon^w,

up to an overall power of :math:`\epsilon`. The arrays below hold the coefficients :math:`F^{(w)}` as ``[points, masters, orders]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import mpmath
import numpy as np
from jaxtyping import Float, Inexact
from scipy.special import spence
from torch import Tensor

from touchstone.checks import finite, shaped


@dataclass(frozen=True)
class Family:
    """A family of integrals on an interval of its kinematic variable.

    Attributes:
        name: for tables.
        masters: number of integrals that the system couples.
        orders: number of coefficients in epsilon that are wanted.
        low: lower end of the interval.
        high: upper end of the interval.
        edge: the singular point next to the interval; networks are given the logarithm of the distance to it.
        places: where boundary values are given.
        clear: the polynomial ``m(x)``.
        matrices: from points ``[...]`` to the cleared matrices ``[..., powers, masters, masters]``, one a power of epsilon.
        exact: from points ``[points]`` to the coefficients ``[points, masters, orders]``; complex above a threshold.
    """

    name: str
    masters: int
    orders: int
    low: float
    high: float
    edge: float
    places: tuple[float, ...]
    clear: Callable[[Tensor], Tensor]
    matrices: Callable[[Tensor], Tensor]
    exact: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}: the interval is empty")
        if self.low <= self.edge <= self.high:
            raise ValueError(f"edge is {self.edge}: the interval [{self.low}, {self.high}] must leave it out")
        outside = [place for place in self.places if not self.low <= place <= self.high]
        if outside or not self.places:
            raise ValueError(f"places are {self.places}: give at least one, all in [{self.low}, {self.high}]")


def _fill(like: Tensor, powers: int, masters: int, entries: dict[tuple[int, int, int], Tensor | float]) -> Tensor:
    """Matrices that are zero but for the entries ``(power, row, column)``."""
    matrices = like.new_zeros(*like.shape, powers, masters, masters)
    for (power, row, column), value in entries.items():
        matrices[..., power, row, column] = value
    return matrices


def _box_matrices(x: Tensor) -> Tensor:
    pole, shifted = 2 / (x * (1 + x)), 1 / (1 + x)
    entries = {(0, 2, 0): -pole, (0, 2, 1): 2 * shifted, (0, 2, 2): -1.0, (1, 0, 0): -1.0}
    return _fill(x, 2, 3, entries | {(1, 2, 0): 2 * pole, (1, 2, 1): -4 * shifted, (1, 2, 2): -shifted})


def _canonical_matrices(x: Tensor) -> Tensor:
    shifted = 1 / (1 + x)
    return _fill(x, 2, 3, {(1, 0, 0): -1.0, (1, 2, 0): 2 * shifted, (1, 2, 1): -2 * x * shifted, (1, 2, 2): -shifted})


def _below_matrices(s: Tensor) -> Tensor:
    return _fill(s, 2, 2, {(0, 1, 0): -2.0, (0, 1, 1): 2.0, (1, 1, 1): -s})


def _above_matrices(s: Tensor) -> Tensor:
    return _fill(s, 2, 2, {(0, 1, 0): -2 / s, (0, 1, 1): 2 / s, (1, 1, 1): -1.0})


def box_function(x: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 4"]:
    r"""The function :math:`g` of the massless box, :math:`F_3=g/(\epsilon^2x)`, from :math:`\epsilon^0` to :math:`\epsilon^3`.

    Args:
        x: ratio :math:`t/s>0` of the Mandelstam variables.

    Returns:
        the four coefficients at every point.

    Raises:
        ValueError: if ``x`` is empty, not a vector, not finite or not positive.
    """
    shaped("x", x, ("points",))
    finite(x=x)
    if np.min(x) <= 0:
        raise ValueError(f"x has the entry {np.min(x)}: the box is real for positive x only")
    log, dilog = np.log(x), spence(1 + x)  # scipy's spence(z) is Li2(1 - z)
    trilog = np.array([float(mpmath.polylog(3, -value).real) for value in x])
    third = log**3 / 3 + np.pi**2 * log - (log**2 + np.pi**2) * np.log1p(x) - 2 * log * dilog + 2 * trilog
    return np.stack([4 + 0 * log, -2 * log, -(np.pi**2) + 0 * log, third - 2 * float(mpmath.zeta(3))], -1)


def _canonical_values(x: np.ndarray) -> np.ndarray:
    """Coefficients of the canonical masters: x to the power -epsilon, one, and the box function."""
    power = np.stack([(-np.log(x)) ** w / factorial(w) for w in range(4)], -1)
    one = np.broadcast_to([1.0, 0.0, 0.0, 0.0], power.shape)
    return np.stack([power, one, box_function(x)], 1)


def from_canonical(values: Inexact[np.ndarray, "*stack points 3 orders"], x: np.ndarray) -> np.ndarray:
    r"""The masters (bubble in t, bubble in s, box) from the canonical ones.

    A canonical bubble :math:`f` belongs to :math:`-f/(\epsilon(1-2\epsilon))`, the box function to :math:`g/(\epsilon^2x)`.

    Args:
        values: coefficients of the canonical masters.
        x: the points.

    Returns:
        coefficients of the masters, with the factor :math:`\epsilon^{-2}` taken out.
    """
    orders = values.shape[-1]
    series = np.array([[-(2.0 ** (w - 1 - k)) if k < w else 0.0 for k in range(orders)] for w in range(orders)])
    bubbles = np.einsum("wk,...k->...w", series, values[..., :2, :])
    return np.concatenate([bubbles, values[..., 2:, :] / x[:, None, None]], -2)


def _box_values(x: np.ndarray) -> np.ndarray:
    return from_canonical(_canonical_values(x), x)


def bubble_values(s: Float[np.ndarray, " points"]) -> Inexact[np.ndarray, "points 2 3"]:
    r"""The massive bubble :math:`B=\int_0^1D^{-\epsilon}dy`, :math:`D=1-sy(1-y)-i0`, by Gauss quadrature, below the tadpole 1.

    Above the threshold :math:`s=4` the integral is cut where :math:`D` changes sign, and each logarithm is smoothed away by
    a power of the distance to that point.

    Args:
        s: squared momentum in units of the mass, all on one side of the threshold.

    Returns:
        coefficients of :math:`\epsilon^0,\epsilon^1,\epsilon^2` of tadpole and bubble; complex above the threshold.

    Raises:
        ValueError: if ``s`` is empty, not a vector, not finite, or on both sides of or at the threshold.
    """
    shaped("s", s, ("points",))
    finite(s=s)
    above = bool(np.min(s) > 4)
    if not above and np.max(s) >= 4:
        raise ValueError(f"s runs from {np.min(s)} to {np.max(s)}: keep to one side of the threshold 4")
    node, weight = np.polynomial.legendre.leggauss(80)
    node, weight = (node + 1) / 2, weight / 2
    s = s[:, None]
    if above:
        root = np.sqrt(1 - 4 / s)  # distance of the two zeros of D
        ends, smooth = [(1 - root) / 2, root / 2], 6
        pieces = [(end * node**smooth, end * smooth * node ** (smooth - 1) * weight) for end in ends]
        denominators = [s * pieces[0][0] * (pieces[0][0] + root), -s * pieces[1][0] * (root - pieces[1][0])]
    else:
        half = node / 2
        pieces, denominators = [(half, weight / 2)], [1 - s * half * (1 - half)]
    bubble = np.zeros((len(s), 3), dtype=complex if above else float)
    for (_, measure), denominator in zip(pieces, denominators, strict=True):
        log = np.log(np.abs(denominator)) - (1j * np.pi * (denominator < 0) if above else 0)
        for w in range(3):
            bubble[:, w] += 2 * ((-log) ** w * measure).sum(-1) / factorial(w)
    tadpole = np.broadcast_to(np.array([1.0, 0.0, 0.0]), bubble.shape)
    return np.stack([tadpole, bubble], 1)


_box = {"masters": 3, "orders": 4, "low": 0.1, "high": 5.0, "edge": 0.0, "places": (0.3, 3.0), "clear": lambda x: x}
_bubble = {"masters": 2, "orders": 3, "edge": 4.0, "exact": bubble_values}

BOX = Family(name="box", matrices=_box_matrices, exact=_box_values, **_box)
CANONICAL_BOX = Family(name="canonical box", matrices=_canonical_matrices, exact=_canonical_values, **_box)
BUBBLE_BELOW = Family(  # the factor s also takes out s = 0, where the equation is singular and its solution is not
    name="bubble below",
    low=-10.0,
    high=3.5,
    places=(-7.0, 1.0),
    clear=lambda s: s * (s - 4),
    matrices=_below_matrices,
    **_bubble,
)
BUBBLE_ABOVE = Family(
    name="bubble above",
    low=4.2,
    high=20.0,
    places=(7.0, 17.0),
    clear=lambda s: s - 4,
    matrices=_above_matrices,
    **_bubble,
)
FAMILIES = {family.name: family for family in (BOX, CANONICAL_BOX, BUBBLE_BELOW, BUBBLE_ABOVE)}
