r"""Sparse identification of a vector field (SINDy): regress rates on monomials, and drop small coefficients in turn.

.. math:: \dot x = \Theta(x)\,\Xi, \qquad \Xi \leftarrow \arg\min_\Xi \|\dot X - \Theta(X)\Xi\|^2 + \lambda\|\Xi\|^2

over the coefficients that are left; those below a threshold are set to zero and the rest is fitted again, until the set
does not change (sequentially thresholded least squares, STLSQ).

Source: S. L. Brunton, J. L. Proctor, J. N. Kutz, PNAS 113, 2016, arXiv:1509.03580.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from touchstone.checks import finite, shaped
from touchstone.dynamics.protocol import check_past, check_series


def monomial_exponents(dim: int, degree: int) -> Int[np.ndarray, "terms dim"]:
    """Exponents of all monomials up to a degree, the constant first.

    Args:
        dim: number of states.
        degree: largest total degree.

    Returns:
        one row a monomial, by rising degree.

    Raises:
        ValueError: if dim is not positive or the degree negative.
    """
    if dim < 1 or degree < 0:
        raise ValueError(f"dim is {dim} and degree {degree}: give at least one state and degree 0")
    chosen = (c for total in range(degree + 1) for c in itertools.combinations_with_replacement(range(dim), total))
    return np.array([np.bincount(np.array(factors, dtype=int), minlength=dim) for factors in chosen])


def monomials(
    states: Float[np.ndarray, "*batch dim"], exponents: Int[np.ndarray, "terms dim"]
) -> Float[np.ndarray, "*batch terms"]:
    """Values of monomials.

    Args:
        states: where.
        exponents: one row a monomial.

    Returns:
        one value a monomial.
    """
    powers = np.stack([states**power for power in range(exponents.max() + 1)])  # power 0 is 1, also at 0
    return np.stack([np.prod([powers[e, ..., i] for i, e in enumerate(row)], 0) for row in exponents], -1)


def rates(
    series: Float[np.ndarray, "time dim"], dt: float
) -> tuple[Float[np.ndarray, "inner dim"], Float[np.ndarray, "inner dim"]]:
    """States and their time derivatives by central differences of fourth order; two samples are lost at either end.

    Args:
        series: states at a constant interval.
        dt: the interval.

    Returns:
        the inner states, and their rates per unit time.

    Raises:
        ValueError: if the series is not finite or has fewer than five states, or the interval is not positive.
    """
    check_series(series, 5)
    if not dt > 0:
        raise ValueError(f"dt is {dt}: it must be positive")
    slope = (series[:-4] - series[4:] + 8 * (series[3:-1] - series[1:-3])) / (12 * dt)
    return series[2:-2], slope


def stlsq(
    features: Float[np.ndarray, "samples terms"],
    targets: Float[np.ndarray, "samples outputs"],
    threshold: float,
    ridge: float = 1e-8,
    rounds: int = 20,
) -> Float[np.ndarray, "terms outputs"]:
    """Sequentially thresholded least squares.

    Args:
        features: values of the candidate terms.
        targets: what they shall add up to.
        threshold: coefficients smaller than it in size are dropped.
        ridge: penalty on the squared coefficients, for each sample.
        rounds: most fits; it stops when no coefficient is dropped.

    Returns:
        coefficients, zero for dropped terms.

    Raises:
        ValueError: if an argument is empty, not finite or has the wrong shape, or the threshold is negative.
    """
    shaped("features", features, ("samples", "terms"))
    shaped("targets", targets, (len(features), "outputs"))
    finite(features=features, targets=targets)
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}: it must be 0 or more")
    gram, moments = features.T @ features / len(features), features.T @ targets / len(features)
    kept = np.ones_like(moments, dtype=bool)
    coefficients = np.zeros_like(moments)
    for _ in range(rounds):
        before = kept.copy()
        for output in range(targets.shape[1]):
            active = np.flatnonzero(kept[:, output])
            block = gram[np.ix_(active, active)] + ridge * np.eye(len(active))
            coefficients[:, output] = 0.0
            coefficients[active, output] = np.linalg.solve(block, moments[active, output])
        kept &= np.abs(coefficients) >= threshold
        if (kept == before).all():
            break
    return np.where(kept, coefficients, 0.0)


@dataclass(frozen=True)
class SparseField:
    """An identified vector field, a simulator of this part.

    Attributes:
        exponents: of the monomials.
        coefficients: rate of each state per unit time, one column a state.
        dt: sampling interval.
        substeps: Runge-Kutta steps an interval.
    """

    exponents: Int[np.ndarray, "terms dim"]
    coefficients: Float[np.ndarray, "terms dim"]
    dt: float
    substeps: int = 2

    @property
    def terms(self) -> int:
        """Number of coefficients that are not zero."""
        return int(np.count_nonzero(self.coefficients))

    def field(self, states: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
        """Rates of states, per unit time."""
        return monomials(states, self.exponents) @ self.coefficients

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once with the classical Runge-Kutta method.

        Args:
            past: states up to the start; only the last of each is used.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps; not finite where a run has left all bounds.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        state, step, orbit = past[:, -1], self.dt / self.substeps, []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                for _ in range(self.substeps):
                    a = self.field(state)
                    b = self.field(state + step / 2 * a)
                    c = self.field(state + step / 2 * b)
                    d = self.field(state + step * c)
                    state = state + step / 6 * (a + 2 * b + 2 * c + d)
                orbit.append(state)
        return np.stack(orbit, 1)


def fit_sindy(
    series: Float[np.ndarray, "time dim"], dt: float, degree: int = 2, threshold: float = 0.05, ridge: float = 1e-8
) -> SparseField:
    """Identify a polynomial vector field from a series.

    Args:
        series: states at a constant interval, each of order one.
        dt: the interval.
        degree: of the monomials.
        threshold: coefficients smaller than it (per unit time) are dropped.
        ridge: penalty on the squared coefficients, for each sample.

    Returns:
        the field, a simulator.

    Raises:
        ValueError: if the series is not finite or too short, or the interval is not positive.
    """
    states, slope = rates(series, dt)
    exponents = monomial_exponents(series.shape[1], degree)
    return SparseField(exponents, stlsq(monomials(states, exponents), slope, threshold, ridge), dt)
