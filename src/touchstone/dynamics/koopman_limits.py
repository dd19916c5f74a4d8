r"""What can be learnt about the spectrum of a Koopman operator :math:`Kg = g \circ F`, and in how many limits.

Functions :math:`\psi_1, \dots, \psi_N` are evaluated at points x and at their images y = F(x), with quadrature weights:

.. math:: G = \Psi_X^* W \Psi_X, \qquad A = \Psi_X^* W \Psi_Y, \qquad L = \Psi_Y^* W \Psi_Y .

EDMD takes eigenpairs of :math:`G^+ A`. The third matrix tells which of them to believe:

.. math:: \mathrm{res}(\lambda, g)^2 = \frac{g^* (L - \lambda A^* - \bar\lambda A + |\lambda|^2 G) g}{g^* G g}

is the relative error of :math:`Kg = \lambda g` in :math:`L^2`, not of its projection. For a unitary K (an invertible map that
preserves the measure) spectrum lies within :math:`\tau_N(z) = \min_g \mathrm{res}(z, g)` of every z. Eigenvalues are told from continuous
spectrum by averages over time.

Sources: Colbrook, Mezic and Stepanenko (2024), arXiv:2407.06312; the matrix L and the residual: Colbrook and Townsend (2024),
arXiv:2111.14889.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float, Int

from touchstone.checks import finite, shaped

Map = Callable[[np.ndarray], np.ndarray]  # points [m, dims] to points
Observable = Callable[[np.ndarray], np.ndarray]  # points [m, dims] to values [m]
Dictionary = Callable[[np.ndarray], np.ndarray]  # points [m, dims] to values [m, functions]


def box(largest: int, dims: int = 2, constant: bool = True) -> Int[np.ndarray, "functions dims"]:
    """All integer frequencies with entries up to a largest size.

    Args:
        largest: the K.
        dims: of the torus.
        constant: whether the frequency zero is among them.

    Raises:
        ValueError: if largest or dims is not positive.
    """
    if min(largest, dims) < 1:
        raise ValueError(f"largest is {largest} and dims is {dims}: both must be positive")
    axes = np.meshgrid(*[np.arange(-largest, largest + 1)] * dims, indexing="ij")
    every = np.stack([axis.ravel() for axis in axes], axis=1)
    return every if constant else every[(every != 0).any(1)]


def fourier(
    points: Float[np.ndarray, "points dims"], frequencies: Int[np.ndarray, "functions dims"]
) -> Complex[np.ndarray, "points functions"]:
    r"""The functions :math:`e^{2 \pi i k \cdot x}` on the torus of side 1.

    Args:
        points: where.
        frequencies: the k.
    """
    return np.exp(2j * np.pi * (points @ frequencies.T))


def torus_grid(side: int, dims: int = 2) -> Float[np.ndarray, "points dims"]:
    """A uniform grid of side**dims points; with equal weights it integrates Fourier functions below ``side`` exactly."""
    axes = np.meshgrid(*[np.arange(side) / side] * dims, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def edmd(
    before: Complex[np.ndarray, "points functions"],
    after: Complex[np.ndarray, "points functions"],
    weights: Float[np.ndarray, "points"],
) -> tuple[Complex[np.ndarray, "functions"], Complex[np.ndarray, "functions functions"]]:
    r"""Eigenpairs of :math:`G^+ A`, by least squares from the data; forming G would square its condition number.

    Args:
        before: dictionary at the points.
        after: dictionary at their images.
        weights: quadrature weights.

    Returns:
        eigenvalues, and coefficients of the eigenfunctions in columns.

    Raises:
        ValueError: if an argument is empty, not finite or has the wrong shape.
    """
    _checked(before, after, weights)
    root = np.sqrt(weights)[:, None]
    return np.linalg.eig(scipy.linalg.lstsq(root * before, root * after, lapack_driver="gelsy")[0])


def residuals(
    before: Complex[np.ndarray, "points functions"],
    after: Complex[np.ndarray, "points functions"],
    weights: Float[np.ndarray, "points"],
    values: Complex[np.ndarray, "pairs"],
    vectors: Complex[np.ndarray, "functions pairs"],
) -> Float[np.ndarray, "pairs"]:
    r"""Residuals :math:`|\Psi_Y g - \lambda \Psi_X g| / |\Psi_X g|` from the data, exact to rounding also where they are tiny.

    Args:
        before: dictionary at the points.
        after: dictionary at their images.
        weights: quadrature weights.
        values: candidate eigenvalues.
        vectors: coefficients of candidate eigenfunctions.

    Raises:
        ValueError: if an argument is empty, not finite or has the wrong shape.
    """
    _checked(before, after, weights)
    finite(values=values, vectors=vectors)
    size, root = before @ vectors, np.sqrt(weights)[:, None]
    return np.linalg.norm(root * (after @ vectors - values * size), axis=0) / np.linalg.norm(root * size, axis=0)


def _checked(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> None:
    sizes = shaped("before", before, ("points", "functions"))
    shaped("after", after, (sizes["points"], sizes["functions"]))
    shaped("weights", weights, (sizes["points"],))
    finite(before=before, after=after, weights=weights)
    if not (weights > 0).all():
        raise ValueError("weights must be positive")


@dataclass(frozen=True)
class Galerkin:
    """The three matrices of a dictionary; all that residuals need of the data.

    Attributes:
        G: inner products of the functions.
        A: of the functions with their images.
        L: of the images.
    """

    G: Complex[np.ndarray, "functions functions"]
    A: Complex[np.ndarray, "functions functions"]
    L: Complex[np.ndarray, "functions functions"]

    def edmd(self) -> tuple[Complex[np.ndarray, "functions"], Complex[np.ndarray, "functions functions"]]:
        """Eigenvalues and coefficients of eigenfunctions of the projected operator."""
        return np.linalg.eig(np.linalg.pinv(self.G, hermitian=True) @ self.A)

    def residuals(
        self, values: Complex[np.ndarray, "pairs"], vectors: Complex[np.ndarray, "functions pairs"]
    ) -> Float[np.ndarray, "pairs"]:
        """Residuals of candidate eigenpairs; below about 1e-8 rounding takes over, as they are roots of differences.

        Args:
            values: candidate eigenvalues.
            vectors: coefficients of candidate eigenfunctions.
        """

        def form(matrix: np.ndarray) -> np.ndarray:
            return np.einsum("jp,jk,kp->p", vectors.conj(), matrix, vectors, optimize=True)

        size = form(self.G).real
        square = form(self.L).real - 2 * (values.conj() * form(self.A)).real + np.abs(values) ** 2 * size
        return np.sqrt(np.maximum(square, 0) / size)

    def pseudospectrum(self, z: Complex[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        r"""The smallest residual :math:`\tau_N(z)` that any function in the span has; a Lipschitz function with constant 1.

        Args:
            z: complex numbers.

        Returns:
            an upper bound on the distance to the spectrum of a unitary K, at each z.

        Raises:
            ValueError: if z is empty or not finite, or the functions are linearly dependent on the data.
        """
        finite(z=z)
        scale = np.linalg.eigvalsh(self.G)
        if scale[0] <= 1e-13 * scale[-1]:
            raise ValueError("G is singular: the functions are linearly dependent on these points; take more points")
        inverse = scipy.linalg.solve_triangular(np.linalg.cholesky(self.G), np.eye(len(self.G)), lower=True)
        A, L = inverse @ self.A @ inverse.conj().T, inverse @ self.L @ inverse.conj().T

        def smallest(one: complex) -> float:
            square = L - one * A.conj().T - np.conj(one) * A + abs(one) ** 2 * np.eye(len(A))
            return scipy.linalg.eigh(square, eigvals_only=True, subset_by_index=[0, 0], check_finite=False)[0]

        return np.sqrt(np.maximum([smallest(one) for one in z], 0))


def galerkin(
    dictionary: Dictionary,
    points: Float[np.ndarray, "points dims"],
    images: Float[np.ndarray, "points dims"],
    weights: Float[np.ndarray, "points"],
    chunk: int = 4096,
) -> Galerkin:
    """Assemble the three matrices, some points at a time, so that the data need not be held at once.

    Args:
        dictionary: points to values of the functions.
        points: snapshots.
        images: snapshots a step later.
        weights: quadrature weights.
        chunk: points held at a time.

    Raises:
        ValueError: if an argument is empty, not finite or has the wrong shape.
    """
    shaped("points", points, ("points", "dims"))
    shaped("images", images, points.shape)
    shaped("weights", weights, points.shape[:1])
    finite(points=points, images=images, weights=weights)
    sums = [0, 0, 0]
    for first in range(0, len(points), chunk):
        part = slice(first, first + chunk)
        before, after, share = dictionary(points[part]), dictionary(images[part]), weights[part, None]
        for i, (left, right) in enumerate([(before, before), (before, after), (after, after)]):
            sums[i] = sums[i] + left.conj().T @ (share * right)
    return Galerkin(*[matrix.astype(complex) for matrix in sums])


def wiener_sums(
    advance: Map, observable: Observable, points: Float[np.ndarray, "points dims"], steps: int
) -> Float[np.ndarray, "steps"]:
    r"""Wiener sums :math:`w_n = \frac1n \sum_{j<n} |\langle K^j g, g \rangle|^2 / \|g\|^4` for n = 1 to ``steps``.

    Their limit is the sum of squared shares of g on eigenvalues: 1 for an eigenfunction, 0 for continuous spectrum.

    Args:
        advance: the map F.
        observable: the g.
        points: a sample of the invariant measure, followed in time.
        steps: largest n.

    Raises:
        ValueError: if points are empty or not finite, or steps is not positive.
    """
    finite(points=points)
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least one is needed")
    first, squares = observable(points), np.empty(steps)
    for j in range(steps):
        squares[j] = abs(np.vdot(first, observable(points))) ** 2
        points = advance(points)
    return np.cumsum(squares) / np.arange(1, steps + 1) / np.vdot(first, first).real ** 2


def ergodic_projections(
    advance: Map,
    observable: Observable,
    points: Float[np.ndarray, "points dims"],
    lengths: Iterable[int],
    eigenvalue: complex = 1.0,
) -> Complex[np.ndarray, "lengths points"]:
    r"""Mean-ergodic estimates :math:`P_n g = \frac1n \sum_{j<n} \lambda^{-j} K^j g` of the part of g with eigenvalue lambda.

    Args:
        advance: the map F.
        observable: the g.
        points: where the estimate is wanted; each is followed in time.
        lengths: increasing numbers n.
        eigenvalue: the lambda, of modulus 1.

    Returns:
        values of the estimate at the points, one row a length.

    Raises:
        ValueError: if points are empty or not finite, or the lengths are not positive and increasing.
    """
    finite(points=points)
    ends = list(lengths)
    if not ends or ends[0] < 1 or any(b <= a for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(f"lengths is {ends}: positive increasing numbers are needed")
    total, found = np.zeros(len(points), dtype=complex), []
    for j in range(ends[-1]):
        total += eigenvalue ** (-j) * observable(points)
        points = advance(points)
        if j + 1 == ends[len(found)]:
            found.append(total / (j + 1))
    return np.stack(found)


def overlap(estimate: Complex[np.ndarray, "points"], truth: Complex[np.ndarray, "points"]) -> float:
    """Absolute cosine of two functions given at the same points; 1 if they agree up to a factor."""
    return float(abs(np.vdot(truth, estimate)) / (np.linalg.norm(truth) * np.linalg.norm(estimate)))
