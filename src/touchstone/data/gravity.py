r"""The exact gravity field of an irregular body: a homogeneous ellipsoid with denser and lighter spheres inside.

Outside and inside a homogeneous ellipsoid with semi-axes :math:`a_i` and gravitational parameter :math:`\mu`,

.. math::
    U=-\tfrac32\mu R_F+\tfrac12\mu\sum_ix_i^2R_D^{(i)},\qquad a_i=-\partial_iU=-\mu\,x_iR_D^{(i)},

with Carlson's integrals at :math:`a_j^2+\lambda` (in :math:`R_D^{(i)}` axis i comes last) and :math:`\lambda` the largest
root of :math:`\sum_ix_i^2/(a_i^2+\lambda)=1` outside, 0 inside (Chandrasekhar, *Ellipsoidal Figures of Equilibrium*,
chapter 3, in Carlson's notation). Units: lengths in body radii :math:`R` (the longest semi-axis), total :math:`\mu` = 1;
the origin is the centre of mass. The potential is negative, and accelerations point inwards.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import elliprd, elliprf
from torch import Tensor

from touchstone.checks import finite, shaped

SPHERES = (  # centre in the ellipsoid's frame, radius, density contrast to the ellipsoid; none overlaps another
    ((0.55, 0.05, 0.0), 0.2, 1.0),
    ((-0.5, 0.1, 0.1), 0.22, 0.5),
    ((0.05, -0.15, -0.05), 0.25, -0.7),
)


@dataclass(frozen=True)
class Body:
    """A homogeneous ellipsoid with spheres of another density inside.

    Args:
        axes: semi-axes of the ellipsoid along x, y and z, in body radii.
        spheres: centre (in the ellipsoid's frame), radius and density contrast of each, in ellipsoid densities.
    """

    axes: tuple[float, float, float] = (1.0, 0.6, 0.5)
    spheres: tuple[tuple[tuple[float, float, float], float, float], ...] = SPHERES

    @property
    def shares(self) -> Float[np.ndarray, "bodies"]:
        """Gravitational parameter of the ellipsoid and of each sphere (a lighter one is negative); they add up to 1."""
        masses = np.array([np.prod(self.axes), *(contrast * radius**3 for _, radius, contrast in self.spheres)])
        return masses / masses.sum()

    @property
    def origin(self) -> Float[np.ndarray, "3"]:
        """Centre of mass in the ellipsoid's frame: the origin of all coordinates."""
        return sum(
            (share * np.array(centre) for share, (centre, _, _) in zip(self.shares[1:], self.spheres, strict=True)),
            np.zeros(3),
        )

    @property
    def c20(self) -> float:
        r"""Normalised zonal harmonic :math:`\bar C_{20}` for the reference radius 1, from the second moments of mass."""
        square = self.shares[0] * (np.array(self.axes) ** 2 / 5 + self.origin**2)
        for share, (centre, radius, _) in zip(self.shares[1:], self.spheres, strict=True):
            square = square + share * (radius**2 / 5 + (np.array(centre) - self.origin) ** 2)
        return float(square[2] - (square[0] + square[1]) / 2) / 5**0.5

    def outside(self, points: Float[np.ndarray, "*batch 3"]) -> np.ndarray:
        """Which points lie outside the ellipsoid."""
        return (((points + self.origin) / np.array(self.axes)) ** 2).sum(-1) > 1


def confocal(points: Float[np.ndarray, "*batch 3"], axes: tuple[float, float, float]) -> Float[np.ndarray, "*batch"]:
    r"""The :math:`\lambda` of the confocal ellipsoid through each point, 0 for points inside.

    The cubic's largest root is taken from Viete's formula and refined by Newton steps, which converge from there because the
    sum decreases and is convex in :math:`\lambda`.

    Args:
        points: in the ellipsoid's frame.
        axes: semi-axes.

    Returns:
        largest root, or 0.
    """
    squares, x2 = np.array(axes) ** 2, points**2
    p = squares.sum() - x2.sum(-1)
    q = (squares[0] * squares[1] + squares[0] * squares[2] + squares[1] * squares[2]) - (
        x2 * (squares.sum() - squares)
    ).sum(-1)
    r = squares.prod() - (x2 * (squares.prod() / squares)).sum(-1)
    depth = np.maximum((p / 3) ** 2 - q / 3, 1e-300)
    angle = (p * q / 6 - (p / 3) ** 3 - r / 2) / depth**1.5
    root = 2 * np.sqrt(depth) * np.cos(np.arccos(np.clip(angle, -1, 1)) / 3) - p / 3
    root = np.maximum(root, 0.0)
    for _ in range(3):
        sums = squares + root[..., None]
        root = root + ((x2 / sums).sum(-1) - 1) / (x2 / sums**2).sum(-1).clip(1e-300)
        root = np.maximum(root, 0.0)
    return np.where((x2 / squares).sum(-1) > 1, root, 0.0)


def _ellipsoid(points: np.ndarray, axes: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Potential and acceleration of an ellipsoid with gravitational parameter 1."""
    arguments = np.array(axes) ** 2 + confocal(points, axes)[..., None]
    x, y, z = np.moveaxis(arguments, -1, 0)
    rd = np.stack([elliprd(y, z, x), elliprd(z, x, y), elliprd(x, y, z)], -1)
    return -1.5 * elliprf(x, y, z) + 0.5 * (points**2 * rd).sum(-1), -points * rd


def _sphere(points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Potential and acceleration of a homogeneous sphere with gravitational parameter 1."""
    squared = (points**2).sum(-1)
    inside = squared < radius**2
    distance = np.sqrt(np.where(inside, radius**2, squared))
    potential = np.where(inside, (squared - 3 * radius**2) / (2 * radius**3), -1 / distance)
    return potential, -points / distance[..., None] ** 3


def gravity(
    points: Float[np.ndarray, "*batch 3"], body: Body
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch 3"]]:
    """Potential and acceleration of a body, outside and inside of it.

    Args:
        points: coordinates from the centre of mass, in body radii.
        body: the masses.

    Returns:
        potential (negative, zero far away), and acceleration.

    Raises:
        ValueError: if the points are empty, not finite, or do not have three coordinates.
    """
    shaped("points", points, (*(f"axis {i}" for i in range(points.ndim - 1)), 3))
    finite(points=points)
    points = np.asarray(points, dtype=np.float64) + body.origin
    share, *others = body.shares
    potential, acceleration = (share * part for part in _ellipsoid(points, body.axes))
    for share, (centre, radius, _) in zip(others, body.spheres, strict=True):
        one, pull = _sphere(points - np.array(centre), radius)
        potential, acceleration = potential + share * one, acceleration + share * pull
    return potential, acceleration


def directions(count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 3"]:
    """Uniformly distributed unit vectors."""
    normal = rng.standard_normal((count, 3))
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def shell(body: Body, count: int, low: float, high: float, rng: np.random.Generator) -> Float[np.ndarray, "count 3"]:
    """Points outside the body with a uniform direction and a uniform radius.

    Args:
        body: what the points must not lie in.
        count: how many.
        low: smallest radius.
        high: largest radius, larger than ``low``.
        rng: source of chance.

    Returns:
        coordinates.

    Raises:
        ValueError: if ``count`` is below 1, or the radii do not increase or leave no room outside the body.
    """
    if count < 1 or not 0 <= low < high or high <= max(body.axes) + np.linalg.norm(body.origin):
        raise ValueError(f"count is {count}, low {low} and high {high}: need count >= 1 and low < high beyond the body")
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < count:
        points = directions(2 * count, rng) * rng.uniform(low, high, (2 * count, 1))
        kept.append(points[body.outside(points)])
    return np.concatenate(kept)[:count]


def above_surface(body: Body, count: int, height: float, rng: np.random.Generator) -> Float[np.ndarray, "count 3"]:
    """Points up to a height above the surface, measured along its normal (for a convex body the distance to it).

    Args:
        body: the body.
        count: how many.
        height: largest height; heights are uniform from 0.
        rng: source of chance.

    Returns:
        coordinates.

    Raises:
        ValueError: if ``count`` is below 1 or ``height`` is not positive.
    """
    if count < 1 or not height > 0:
        raise ValueError(f"count is {count} and height {height}: both must be positive")
    axes = np.array(body.axes)
    on_sphere = directions(count, rng)
    normal = on_sphere / axes
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return on_sphere * axes - body.origin + rng.uniform(0, height, (count, 1)) * normal


def samples(
    body: Body, seeds: list[int] | tuple[int, ...] | range, count: int, noise: float = 0.0, high: float = 3.0
) -> tuple[Float[Tensor, "seeds count 3"], Float[Tensor, "seeds count 3"]]:
    """Measured accelerations at random points between the surface and a radius, each seed its own.

    Args:
        body: the body.
        seeds: one set for each.
        count: samples of a set.
        noise: length of the error, as a share of the true acceleration's; its direction is random.
        high: largest radius.

    Returns:
        points and accelerations, in float32.

    Raises:
        ValueError: if there is no seed or no sample, or the noise is negative.
    """
    if not len(seeds) or count < 1 or noise < 0:
        raise ValueError(
            f"seeds {list(seeds)}, count {count}, noise {noise}: need a seed, a sample and no negative noise"
        )
    places, pulls = [], []
    for seed in seeds:
        rng = np.random.default_rng([int(seed), 20])
        points = shell(body, count, 0.0, high, rng)
        pull = gravity(points, body)[1]
        pull = pull + noise * np.linalg.norm(pull, axis=-1, keepdims=True) * directions(count, rng)
        places.append(points)
        pulls.append(pull)
    return tuple(torch.tensor(np.stack(part), dtype=torch.float32) for part in (places, pulls))
