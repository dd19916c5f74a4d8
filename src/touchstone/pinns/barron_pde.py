r"""How complex is the solution of a nonlinear elliptic equation? Preconditioned descent in an exact Fourier algebra.

The solution minimises a convex energy :math:`E(u) = \int L(u, \nabla u) - f u`. Descent on it, preconditioned with
:math:`(I - \Delta)^{-1}`, converges at a rate that convexity and smoothness of the energy set, and each step raises the
Barron norm by a bounded amount. So an approximate solution has a bounded Barron norm, and a function of Barron norm b is
within :math:`b / \sqrt m` of a two-layer network with m units.

Everything lives on the torus :math:`[0, 2\pi)^d` with normalised measure, where functions are sparse Fourier
polynomials: sums, products, norms, energies and the preconditioner are exact in any dimension, up to the terms that a
product is told to drop, whose Barron norm is counted.

Source: Marwah, Lipton, Lu and Risteski (2022), arXiv:2210.12101; Barron (1993) for the network. The paper works on the
unit cube with zero boundary values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Complex, Float, Integer, Num
from numpy import ndarray

from touchstone.checks import finite, shaped

NEGLIGIBLE = (
    1e-14  # share of the product's largest possible Barron norm that all untouched pairs of terms make up at most
)


@dataclass(frozen=True)
class Polynomial:
    r"""A real trigonometric polynomial :math:`u(x) = \mathrm{Re} \sum_j c_j e^{i \omega_j \cdot x}`; see :func:`polynomial`.

    Attributes:
        frequencies: integer vectors, one of every pair :math:`\pm\omega`.
        coefficients: complex amplitudes; that of the zero frequency is real.
        keys: the frequencies' hashes, all different, not negative, zero for the zero frequency.
    """

    frequencies: Integer[ndarray, "terms dims"]
    coefficients: Complex[ndarray, "terms"]
    keys: Integer[ndarray, "terms"]

    @property
    def squared_frequency(self) -> Float[ndarray, "terms"]:
        r"""The :math:`|\omega|^2` of every term."""
        return (self.frequencies.astype(float) ** 2).sum(axis=1)

    @property
    def weights(self) -> Float[ndarray, "terms"]:
        r"""What every term adds to the Barron norm: :math:`(1 + |\omega|) |c|`."""
        return (1 + np.sqrt(self.squared_frequency)) * np.abs(self.coefficients)

    @property
    def wiener(self) -> float:
        r"""The sum of moduli :math:`\sum_\omega |\hat u(\omega)|`, an upper bound on :math:`\sup |u|`."""
        return float(np.abs(self.coefficients).sum())

    @property
    def barron(self) -> float:
        r"""The Barron norm :math:`\sum_\omega (1 + |\omega|) |\hat u(\omega)|`."""
        return float(self.weights.sum())

    def __call__(self, points: Float[ndarray, "points dims"]) -> Float[ndarray, "points"]:
        """Values at points."""
        return (np.exp(1j * points @ self.frequencies.T) @ self.coefficients).real

    def scaled(self, factors: Num[ndarray, "terms"] | float) -> "Polynomial":
        """The coefficients times factors, one a term or one for all."""
        return Polynomial(self.frequencies, self.coefficients * factors, self.keys)

    def derivative(self, axis: int) -> "Polynomial":
        """The partial derivative along an axis, without its zero terms."""
        some = self.frequencies[:, axis] != 0
        slope = 1j * self.frequencies[some, axis]
        return Polynomial(self.frequencies[some], self.coefficients[some] * slope, self.keys[some])

    def smoothed(self) -> "Polynomial":
        r"""The preconditioner :math:`(I - \Delta)^{-1} u`."""
        return self.scaled(1 / (1 + self.squared_frequency))

    def largest(self, keep: int | None) -> tuple["Polynomial", "Polynomial"]:
        """The ``keep`` terms of largest Barron weight (None: all), and the rest."""
        order = np.argsort(-self.weights)
        return tuple(
            Polynomial(self.frequencies[part], self.coefficients[part], self.keys[part])
            for part in (order[:keep], order[len(order) if keep is None else keep :])
        )


def polynomial(frequencies: Integer[ndarray, "terms dims"], coefficients: Num[ndarray, "terms"]) -> Polynomial:
    r"""The polynomial with the terms :math:`\mathrm{Re}\, c\, e^{i\omega\cdot x}`; equal and opposite frequencies are merged.

    Args:
        frequencies: integer vectors.
        coefficients: real or complex amplitudes.

    Raises:
        ValueError: if an argument is empty, not finite, of a wrong shape, or frequencies are not integers.
    """
    sizes = shaped("frequencies", frequencies, ("terms", "dims"))
    shaped("coefficients", coefficients, (sizes["terms"],))
    finite(frequencies=frequencies, coefficients=coefficients)
    if not np.issubdtype(frequencies.dtype, np.integer):
        raise ValueError("frequencies must be integers: functions with other frequencies are not periodic on the torus")
    # A linear hash: the key of a sum is the wrapping sum of keys, so a product need not build its n^2 frequencies. Two of
    # n frequencies share a key with a probability of about n^2 / 2^64.
    multipliers = np.random.default_rng(2210).integers(-(2**63), 2**63 - 1, size=frequencies.shape[1])
    keys, first, values = _merged(frequencies.astype(np.int64) @ multipliers, coefficients.astype(complex))
    signs = np.sign(frequencies[first].astype(np.int64) @ multipliers)
    return Polynomial(frequencies[first] * signs[:, None], values, keys)


def _merged(keys: ndarray, values: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Sum the values of equal keys, and of opposite keys conjugated: keys, where each occurs first, sums."""
    codes, unique = pd.factorize(np.abs(keys))
    first = np.empty(len(unique), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(keys))[::-1]
    imaginary = np.where(keys == 0, 0.0, np.sign(keys) * values.imag)
    return unique, first, np.bincount(codes, values.real) + 1j * np.bincount(codes, imaginary)


def total(*terms: Polynomial) -> Polynomial:
    """The sum of polynomials."""
    keys, first, values = _merged(
        np.concatenate([u.keys for u in terms]), np.concatenate([u.coefficients for u in terms])
    )
    return Polynomial(np.concatenate([u.frequencies for u in terms])[first], values, keys)


def inner(u: Polynomial, v: Polynomial) -> float:
    """The mean of u v over the torus, by Parseval."""
    shared, i, j = np.intersect1d(u.keys, v.keys, assume_unique=True, return_indices=True)
    return float(((u.coefficients[i] * v.coefficients[j].conj()).real * np.where(shared == 0, 1.0, 0.5)).sum())


def product(u: Polynomial, v: Polynomial, keep: int | None = None) -> tuple[Polynomial, Polynomial, float]:
    """Multiply two polynomials.

    Args:
        u: a polynomial.
        v: another one.
        keep: the number of terms to keep, those of largest Barron weight; None keeps all.

    Returns:
        the product, the terms that were dropped from it, and the mean square of both together.
    """
    order_u, order_v = np.argsort(-u.weights), np.argsort(-v.weights)
    heavy_u, heavy_v = u.weights[order_u], v.weights[order_v]
    # Pairs of light terms are not even formed; together they weigh less than `ignored`.
    ignored = NEGLIGIBLE * u.barron * v.barron
    reach = np.searchsorted(-heavy_v * (len(heavy_u) * len(heavy_v)), -ignored / np.maximum(heavy_u, 1e-300))
    i = order_u[np.repeat(np.arange(len(reach)), reach)]
    j = order_v[np.arange(reach.sum()) - np.repeat(np.cumsum(reach) - reach, reach)]
    a, b = u.coefficients[i] / 2, v.coefficients[j]
    with np.errstate(over="ignore"):
        raw = np.concatenate([u.keys[i] + v.keys[j], u.keys[i] - v.keys[j]])
    keys, first, values = _merged(raw, np.concatenate([a * b, a * b.conj()]))
    i, j, side = i[first % len(i)], j[first % len(j)], np.where(first < len(i), 1, -1)
    frequencies = (u.frequencies[i] + side[:, None] * v.frequencies[j]) * np.where(raw[first] < 0, -1, 1)[:, None]
    whole = Polynomial(frequencies, values, keys)
    return *whole.largest(keep), inner(whole, whole)


def _cube(u: Polynomial, keep: int | None) -> tuple[Polynomial, float, Polynomial, float]:
    """The cube, the mean fourth power, the terms dropped from the cube, and a bound on what the square's lost terms add.

    The bound is on the smoothed cube or its smoothed derivative: (1 + r) max(1, r) / (1 + r^2) < 1.2072 for all r >= 0,
    and sums of moduli are submultiplicative.
    """
    square, lost, fourth = product(u, u, keep)
    cube, rest, _ = product(square, u, keep)
    return cube, fourth, rest, 1.2072 * lost.wiener * u.wiener


def reaction(u: Polynomial, strength: float, keep: int | None = None) -> tuple[Polynomial, float, float]:
    r"""The nonlinearity :math:`L = \tfrac g4 u^4` beyond the quadratic part.

    Args:
        u: the function.
        strength: the :math:`g`.
        keep: terms to keep in every product.

    Returns:
        its derivative :math:`g u^3`, its energy, and a bound on the Barron norm that the smoothed derivative lacks because
        terms were dropped.
    """
    cube, fourth, rest, bound = _cube(u, keep)
    return cube.scaled(strength), strength / 4 * fourth, strength * (rest.smoothed().barron + bound)


def gradient_reaction(u: Polynomial, strength: float, keep: int | None = None) -> tuple[Polynomial, float, float]:
    r"""The nonlinearity :math:`L = \tfrac g{4d} \sum_i (\partial_i u)^4` beyond the quadratic part.

    Args:
        u: the function.
        strength: the :math:`g`.
        keep: terms to keep in every product.

    Returns:
        its derivative :math:`-\tfrac gd \sum_i \partial_i (\partial_i u)^3`, its energy, and a bound as in :func:`reaction`.
    """
    dims = u.frequencies.shape[1]
    parts, energy, dropped = [u.scaled(0.0)], 0.0, 0.0
    for axis in range(dims):
        slope = u.derivative(axis)
        if len(slope.keys):
            cube, fourth, rest, bound = _cube(slope, keep)
            parts.append(cube.derivative(axis).scaled(-strength / dims))
            energy += strength / (4 * dims) * fourth
            dropped += strength / dims * (rest.derivative(axis).smoothed().barron + bound)
    return total(*parts), energy, dropped


Nonlinearity = Callable[[Polynomial, float, int | None], tuple[Polynomial, float, float]]


@dataclass(frozen=True)
class Iterate:
    """One step of the descent.

    Attributes:
        solution: the iterate.
        energy: its energy.
        gradient: the derivative of the energy there, not preconditioned.
        dropped: bound on the Barron norm that pruning has taken from the iterate so far.
    """

    solution: Polynomial
    energy: float
    gradient: Polynomial
    dropped: float


def descend(
    forcing: Polynomial,
    strength: float,
    step: float,
    nonlinearity: Nonlinearity = reaction,
    keep: int | None = None,
    preconditioned: bool = True,
) -> Iterator[Iterate]:
    r"""Descend on the energy of :math:`L = \tfrac12 |\nabla u|^2 + \tfrac12 u^2 + \text{nonlinearity}`, starting at zero.

    .. math:: u_{t+1} = u_t - \eta (I - \Delta)^{-1} DE(u_t), \qquad DE(u) = -\Delta u + u + g u^3 - f

    Args:
        forcing: the right-hand side :math:`f`.
        strength: the :math:`g`; zero makes the equation linear, and one step with :math:`\eta = 1` solves it.
        step: the :math:`\eta`.
        nonlinearity: :func:`reaction` or :func:`gradient_reaction`.
        keep: terms to keep in every product and in the iterate; None keeps all.
        preconditioned: False for plain descent in :math:`L^2`.

    Yields:
        the iterates, without end, the first one zero.

    Raises:
        ValueError: if the step is not positive or the strength is negative, so that the energy need not be convex.
    """
    if not step > 0:
        raise ValueError(f"step is {step}: it must be positive")
    if not strength >= 0:
        raise ValueError(f"strength is {strength}: below zero the energy is not convex and need not have a minimum")
    u, dropped = forcing.scaled(0.0), 0.0
    while True:
        force, energy, lost = nonlinearity(u, strength, keep)
        linear = u.scaled(1 + u.squared_frequency)
        gradient = total(linear, force, forcing.scaled(-1.0))
        yield Iterate(u, inner(u, linear) / 2 + energy - inner(forcing, u), gradient, dropped)
        direction = gradient.smoothed() if preconditioned else gradient
        u, rest = total(u, direction.scaled(-step)).largest(keep)
        dropped = (1 - step) * dropped + step * lost + rest.barron


def barron_recursion(barron: float, forcing: float, strength: float, step: float) -> float:
    r"""The largest Barron norm after one preconditioned step with the cubic nonlinearity.

    .. math:: b_{t+1} \le (1 - \eta) b_t + \eta (g b_t^3 + \|f\|_B)

    Args:
        barron: the Barron norm of the iterate.
        forcing: the Barron norm of the forcing.
        strength: the :math:`g`.
        step: the :math:`\eta`, at most 1.

    Raises:
        ValueError: if the step is outside (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"step is {step}: the recursion holds for steps in (0, 1]")
    return (1 - step) * barron + step * (strength * barron**3 + forcing)


def sampled_network(u: Polynomial, units: int, generator: np.random.Generator) -> Polynomial:
    r"""A two-layer network of cosine units that approximates a polynomial (Maurey's sampling argument).

    Units :math:`\cos(\omega \cdot x + \phi)` are drawn with probability proportional to their share of the Barron norm
    and averaged with weights that make the mean exact, so that the mean square error is at most
    :math:`\|u\|_B^2 / m`.

    Args:
        u: the function.
        units: the number :math:`m` of units; equal draws are merged.
        generator: source of randomness.

    Raises:
        ValueError: if units is not positive or u is zero.
    """
    if units < 1:
        raise ValueError(f"units is {units}: a network needs at least one")
    if u.barron == 0:
        raise ValueError("u is zero: there is nothing to draw units from")
    probability = u.weights / u.barron
    counts = generator.multinomial(units, probability)
    drawn = counts > 0
    factors = counts[drawn] / (units * probability[drawn])
    return Polynomial(u.frequencies[drawn], u.coefficients[drawn] * factors, u.keys[drawn])
