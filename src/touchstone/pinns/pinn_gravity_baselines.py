r"""Analytic gravity models fitted to accelerations by least squares: spherical harmonics and mascons.

Both are linear in their coefficients. The fit weighs every sample by the inverse of its acceleration, so that it minimises
percent errors, and chooses the ridge by the samples it holds back.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from touchstone.checks import finite, shaped
from touchstone.data.gravity import Body

RIDGES = 10.0 ** np.arange(-20.0, 0.0)  # as a share of the largest squared singular value


def harmonic_design(points: Float[np.ndarray, "points 3"], degree: int) -> Float[np.ndarray, "points 3 coefficients"]:
    r"""Accelerations of the exterior spherical harmonics with reference radius 1, degree 0 to ``degree``.

    The potential of a column is :math:`-V_{nm}` or :math:`-W_{nm}`, the solid harmonics of Cunningham's recursion (Montenbruck
    and Gill, *Satellite Orbits*, section 3.2), not normalised: the fit scales its columns.

    Args:
        points: coordinates from the centre of mass.
        degree: highest degree.

    Returns:
        one column for each of the :math:`(L+1)^2` coefficients.

    Raises:
        ValueError: if the points are empty, not finite, or do not have three coordinates, or the degree is negative.
    """
    shaped("points", points, ("points", 3))
    finite(points=points)
    if degree < 0:
        raise ValueError(f"degree is {degree}: it cannot be negative")
    r2 = (points**2).sum(-1)
    x, y, z = (points / r2[:, None]).T
    v = np.zeros((degree + 2, degree + 2, len(points)))
    w = np.zeros_like(v)
    v[0, 0] = r2**-0.5
    for m in range(degree + 2):
        if m:
            v[m, m] = (2 * m - 1) * (x * v[m - 1, m - 1] - y * w[m - 1, m - 1])
            w[m, m] = (2 * m - 1) * (x * w[m - 1, m - 1] + y * v[m - 1, m - 1])
        for n in range(m + 1, degree + 2):
            for table in (v, w):
                older = (n + m - 1) * table[n - 2, m] / r2 if n > m + 1 else 0.0
                table[n, m] = ((2 * n - 1) * z * table[n - 1, m] - older) / (n - m)
    columns = []
    for n in range(degree + 1):
        columns.append(np.stack([-v[n + 1, 1], -w[n + 1, 1], -(n + 1) * v[n + 1, 0]], -1))
        for m in range(1, n + 1):
            back = (n - m + 2) * (n - m + 1)
            up, left = (v[n + 1, m + 1], w[n + 1, m + 1]), (v[n + 1, m - 1], w[n + 1, m - 1])
            cosine = [0.5 * (-up[0] + back * left[0]), 0.5 * (-up[1] - back * left[1]), -(n - m + 1) * v[n + 1, m]]
            sine = [0.5 * (-up[1] + back * left[1]), 0.5 * (up[0] + back * left[0]), -(n - m + 1) * w[n + 1, m]]
            columns += [np.stack(cosine, -1), np.stack(sine, -1)]
    return np.stack(columns, -1)


def mascon_places(body: Body, count: int) -> Float[np.ndarray, "count 3"]:
    """Places spread evenly inside the ellipsoid: a golden spiral in the unit ball, stretched by the semi-axes.

    Args:
        body: the body.
        count: number of mascons.

    Returns:
        coordinates from the centre of mass.
    """
    k = np.arange(count) + 0.5
    radius = (k / count) ** (1 / 3)
    height = 2 * ((k * math.sqrt(2)) % 1) - 1  # two irrational rotations fill sphere and radius evenly
    angle = 2 * np.pi * k * (math.sqrt(5) - 1) / 2
    flat = np.sqrt(1 - height**2)
    ball = radius[:, None] * np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)
    return ball * np.array(body.axes) - body.origin


def mascon_design(
    points: Float[np.ndarray, "points 3"], places: Float[np.ndarray, "count 3"]
) -> Float[np.ndarray, "points 3 count"]:
    """Accelerations of point masses with gravitational parameter 1.

    Args:
        points: where.
        places: the masses' coordinates.

    Returns:
        one column a mass.

    Raises:
        ValueError: if an argument is empty, not finite, or does not have three coordinates.
    """
    shaped("points", points, ("points", 3))
    shaped("places", places, ("count", 3))
    finite(points=points, places=places)
    apart = points[:, None] - places
    return -np.moveaxis(apart / np.linalg.norm(apart, axis=-1, keepdims=True) ** 3, 1, 2)


@dataclass(frozen=True)
class LinearField:
    """A fitted linear model of the acceleration.

    Args:
        design: turns points into the accelerations of the columns.
        coefficients: of the columns.
    """

    design: object
    coefficients: Float[np.ndarray, "columns"]

    def __call__(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Acceleration at the points, in pieces that fit into memory."""
        pieces = np.array_split(points, max(1, len(points) // 500))
        return np.concatenate([self.design(piece) @ self.coefficients for piece in pieces])


def fit_linear(
    design, points: Float[np.ndarray, "points 3"], accelerations: Float[np.ndarray, "points 3"]
) -> LinearField:
    """Weighted least squares with the ridge that gives the smallest percent error on a fifth of the samples.

    Args:
        design: turns points into the accelerations of the columns.
        points: where accelerations were measured.
        accelerations: what was measured.

    Returns:
        the model, fitted to all samples with that ridge.

    Raises:
        ValueError: if the samples are fewer than five, not finite, or do not fit together, or an acceleration is zero.
    """
    shaped("points", points, ("points", 3))
    shaped("accelerations", accelerations, points.shape)
    finite(points=points, accelerations=accelerations)
    size = np.linalg.norm(accelerations, axis=-1)
    if len(points) < 5 or not size.all():
        raise ValueError(
            f"accelerations: {len(size)} samples, {int((size == 0).sum())} of them zero; need 5 and none zero"
        )
    matrix = design(points) / size[:, None, None]
    scale = np.sqrt((matrix**2).sum((0, 1)))
    matrix, target = matrix / scale, accelerations / size[:, None]
    held = np.arange(len(points)) % 5 == 0

    def reduced(rows: np.ndarray) -> np.ndarray:
        """Triangular factor of matrix and target together: the normal equations without their loss of digits."""
        return scipy.linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)[0][: rows.shape[1]]

    def ridge_path(rows: np.ndarray) -> np.ndarray:
        """Coefficients for every ridge."""
        left, values, right = scipy.linalg.svd(rows[:, :-1], full_matrices=False)
        return (values / (values**2 + RIDGES[:, None] * values[0] ** 2) * (left.T @ rows[:, -1])) @ right

    both = np.concatenate([matrix, target[..., None]], -1)
    kept = reduced(both[~held].reshape(-1, both.shape[-1]))
    everything = reduced(np.concatenate([kept, both[held].reshape(-1, both.shape[-1])]))
    errors = [np.linalg.norm(matrix[held] @ c - target[held], axis=-1).mean() for c in ridge_path(kept)]
    return LinearField(design, ridge_path(everything)[int(np.argmin(errors))] / scale)
