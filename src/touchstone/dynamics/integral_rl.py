r"""Integral reinforcement learning: policy iteration from samples of the running cost, and Bayesian quadrature for them.

A policy is evaluated on short intervals of its own trajectory,

.. math:: (\phi(x(t)) - \phi(x(t+T)))^\top w = \int_t^{t+T} x^\top Q x + u^\top R u \;d\tau \approx \sum_i c_i\, l(x(t_i)),

by least squares over the intervals, and improved to :math:`u = -\tfrac12 R^{-1} g(x)^\top \nabla\phi(x)^\top w`. The drift of
the plant is not needed for either. With exact integrals this is Newton's method for the Hamilton-Jacobi-Bellman equation;
the error of the quadrature rule c disturbs every step.

Source: Cao and Pan (2024), arXiv:2402.17375; Vrabie and Lewis (2009) for the algorithm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from touchstone.checks import finite, shaped

POLYNOMIALS = {
    0.5: (1,),
    1.5: (1, 1),
    2.5: (1, 1, "1/3"),
    3.5: (1, 1, "2/5", "1/15"),
}  # of a Matern kernel, in sqrt(2 nu) r


@dataclass(frozen=True)
class Quadrature:
    """A rule on equally spaced points, both ends included.

    Args:
        weights: one a point, in units of time.
        variance: posterior variance of the integral for a kernel of amplitude 1.
    """

    weights: Float[ndarray, "points"]
    variance: float


def matern(smoothness: float, length_scale: float, distance: mpmath.mpf) -> mpmath.mpf:
    r"""The Matern kernel :math:`k(r)` of half-integer :math:`\nu`, amplitude 1.

    Args:
        smoothness: the :math:`\nu`, one of 0.5, 1.5, 2.5, 3.5.
        length_scale: in units of time.
        distance: the r >= 0.
    """
    s = mpmath.sqrt(2 * mpmath.mpf(smoothness)) * distance / length_scale
    return mpmath.exp(-s) * sum(mpmath.mpf(c) * s**j for j, c in enumerate(POLYNOMIALS[smoothness]))


def bayesian_quadrature(points: int, length: float, smoothness: float = 3.5, length_scale: float = 0.3) -> Quadrature:
    r"""Bayesian quadrature with a Matern kernel, :math:`c = K^{-1} z` with :math:`z_i = \int_0^T k(t_i, \tau) d\tau`.

    The kernel matrix of close points is ill-conditioned; it is solved with 60 digits, so that no nugget is needed.

    Args:
        points: number of equally spaced points, at least 2.
        length: of the interval, T.
        smoothness: the kernel's :math:`\nu`, one of 0.5, 1.5, 2.5, 3.5; the rate is :math:`b = \nu + 1/2`.
        length_scale: of the kernel, in the same unit of time.

    Returns:
        weights, and the posterior variance :math:`\iint k - z^\top K^{-1} z`.

    Raises:
        ValueError: if an argument is out of range.
    """
    if points < 2:
        raise ValueError(f"points is {points}: a rule with both ends needs at least 2")
    if not (0 < length < np.inf and 0 < length_scale < np.inf):
        raise ValueError(f"length and length_scale must be positive and finite, got {length} and {length_scale}")
    if smoothness not in POLYNOMIALS:
        raise ValueError(f"smoothness is {smoothness}: use one of {', '.join(map(str, POLYNOMIALS))}")
    with mpmath.workdps(60):
        rate = mpmath.sqrt(2 * mpmath.mpf(smoothness)) / mpmath.mpf(length_scale)

        def moment(x: mpmath.mpf, power: int) -> mpmath.mpf:
            """The integral of r^power k(r) from 0 to x, by incomplete gamma functions."""
            terms = enumerate(POLYNOMIALS[smoothness])
            total = sum(mpmath.mpf(c) * mpmath.gammainc(j + power + 1, 0, rate * x) for j, c in terms)
            return total / rate ** (power + 1)

        end = mpmath.mpf(length)
        nodes = [end * i / (points - 1) for i in range(points)]
        kernel = mpmath.matrix(points)
        for i in range(points):
            for j in range(points):
                kernel[i, j] = matern(smoothness, length_scale, abs(nodes[i] - nodes[j]))
        mean = mpmath.matrix([moment(t, 0) + moment(end - t, 0) for t in nodes])
        weights = mpmath.lu_solve(kernel, mean)
        variance = 2 * (end * moment(end, 0) - moment(end, 1)) - sum(c * z for c, z in zip(weights, mean, strict=True))
        return Quadrature(np.array([float(c) for c in weights]), float(variance))


@dataclass(frozen=True)
class Samples:
    """What is recorded while a policy acts: intervals that follow one another, each with its end points.

    Args:
        states: at the points of each interval.
        controls: at the same points.
        costs: running cost at the same points.
        integrals: of the running cost over each interval, exact; known only to the simulator.
    """

    states: Float[ndarray, "intervals points dim"]
    controls: Float[ndarray, "intervals points inputs"]
    costs: Float[ndarray, "intervals points"]
    integrals: Float[ndarray, "intervals"]


def running_cost(
    states: Float[ndarray, "*batch dim"],
    controls: Float[ndarray, "*batch inputs"],
    Q: Float[ndarray, "dim dim"],
    R: Float[ndarray, "inputs inputs"],
) -> Float[ndarray, "*batch"]:
    """The cost a unit of time, x'Qx + u'Ru."""
    cost = np.einsum("...i,ij,...j->...", states, Q, states) + np.einsum("...i,ij,...j->...", controls, R, controls)
    return np.asarray(cost)


def _windows(series: ndarray, intervals: int) -> ndarray:
    """Cut a series into intervals that share their end points."""
    stride = (len(series) - 1) // intervals
    return series[stride * np.arange(intervals)[:, None] + np.arange(stride + 1)]


@dataclass(frozen=True)
class LinearPlant:
    """The plant x' = Ax + Bu with the value x'Px; the weights are the upper triangle of P, row by row.

    Args:
        A: drift matrix.
        B: input matrix.
        Q: cost of states.
        R: cost of controls.
        start: state at which every policy evaluation begins.
    """

    A: Float[ndarray, "dim dim"]
    B: Float[ndarray, "dim inputs"]
    Q: Float[ndarray, "dim dim"]
    R: Float[ndarray, "inputs inputs"]
    start: Float[ndarray, "dim"]

    def features(self, states: Float[ndarray, "*batch dim"]) -> Float[ndarray, "*batch features"]:
        """The products of two states, those of different states doubled."""
        i, j = np.triu_indices(len(self.start))
        return states[..., i] * states[..., j] * np.where(i == j, 1.0, 2.0)

    def matrix(self, weights: Float[ndarray, "features"]) -> Float[ndarray, "dim dim"]:
        """The symmetric P of weights."""
        P = np.zeros_like(self.A)
        P[np.triu_indices(len(P))] = weights
        return P + np.triu(P, 1).T

    def feedback(self, weights: Float[ndarray, "features"]) -> Float[ndarray, "inputs dim"]:
        """The gain K of the improved policy u = -Kx."""
        return np.linalg.solve(self.R, self.B.T @ self.matrix(weights))

    def sample(self, weights: Float[ndarray, "features"], points: int, intervals: int, length: float) -> Samples:
        """Run the policy of the weights, by matrix exponentials."""
        K = self.feedback(weights)
        closed, M, dim = self.A - self.B @ K, self.Q + K.T @ self.R @ K, len(self.start)
        times = np.arange(intervals * (points - 1) + 1) * (length / (points - 1))
        states = _windows(expm(times[:, None, None] * closed) @ self.start, intervals)
        # the integral of exp(A's) M exp(As) over an interval sits in the exponential of an augmented matrix
        augmented = expm(length * np.block([[-closed.T, M], [np.zeros_like(M), closed]]))
        gramian = augmented[dim:, dim:].T @ augmented[:dim, dim:]
        integrals = np.einsum("ti,ij,tj->t", states[:, 0], gramian, states[:, 0])
        controls = -states @ K.T
        return Samples(states, controls, running_cost(states, controls, self.Q, self.R), integrals)


@dataclass(frozen=True)
class AffinePlant:
    """The plant x' = f(x) + g(x) u with the value w . phi(x).

    Args:
        drift: f, for any number of leading axes; the learner does not use it.
        gain: g, a matrix (states by inputs) for every state.
        features: phi.
        slope: derivative of the features (rows) by the state (columns).
        Q: cost of states.
        R: cost of controls.
        start: state at which every policy evaluation begins.
        tolerance: relative and absolute, of a step of DOP853.
    """

    drift: Callable[[ndarray], ndarray]
    gain: Callable[[ndarray], ndarray]
    features: Callable[[ndarray], ndarray]
    slope: Callable[[ndarray], ndarray]
    Q: Float[ndarray, "dim dim"]
    R: Float[ndarray, "inputs inputs"]
    start: Float[ndarray, "dim"]
    tolerance: float = 1e-12

    def policy(
        self, weights: Float[ndarray, "features"], states: Float[ndarray, "*batch dim"]
    ) -> Float[ndarray, "*batch inputs"]:
        """The improved policy's controls."""
        pull = np.einsum("...ni,...pn,p->...i", self.gain(states), self.slope(states), weights)
        return -0.5 * pull @ np.linalg.inv(self.R)

    def sample(self, weights: Float[ndarray, "features"], points: int, intervals: int, length: float) -> Samples:
        """Run the policy of the weights, with the running cost integrated along."""

        def rate(_: float, augmented: ndarray) -> ndarray:
            x = augmented[:-1]
            u = self.policy(weights, x)
            return np.append(self.drift(x) + self.gain(x) @ u, running_cost(x, u, self.Q, self.R))

        times = np.linspace(0, intervals * length, intervals * (points - 1) + 1)
        # steps no longer than an interval keep the interpolant between steps as accurate as the steps
        solution = solve_ivp(
            rate, (0.0, times[-1]), np.append(self.start, 0.0), "DOP853", times, rtol=self.tolerance,
            atol=self.tolerance, max_step=length,
        )  # fmt: skip
        if not solution.success:
            raise RuntimeError(f"the policy with weights {weights} does not hold the plant: {solution.message}")
        series = _windows(solution.y.T, intervals)
        states = series[..., :-1]
        controls = self.policy(weights, states)
        return Samples(
            states, controls, running_cost(states, controls, self.Q, self.R), series[:, -1, -1] - series[:, 0, -1]
        )


def evaluate(
    plant: LinearPlant | AffinePlant, samples: Samples, rule: Float[ndarray, "points"] | None
) -> Float[ndarray, "features"]:
    """Policy evaluation: the weights of the value function that fit the cost of all intervals best.

    Args:
        plant: its features are used, not its drift.
        samples: recorded under the policy.
        rule: quadrature weights, one a point; None for the exact integrals.

    Returns:
        weights of the value function.

    Raises:
        ValueError: if the samples are not finite, the rule does not fit them, or the intervals do not determine the
            weights.
    """
    finite(states=samples.states, costs=samples.costs)
    if rule is not None:
        shaped("rule", rule, (samples.costs.shape[1],))
        finite(rule=rule)
    fall = plant.features(samples.states[:, 0]) - plant.features(samples.states[:, -1])
    if np.linalg.matrix_rank(fall) < fall.shape[1]:
        raise ValueError(
            f"samples of {len(fall)} intervals do not determine {fall.shape[1]} weights: "
            "use more intervals, or a start that excites all states"
        )
    return np.linalg.lstsq(fall, samples.integrals if rule is None else samples.costs @ rule, rcond=None)[0]


def policy_iteration(
    plant: LinearPlant | AffinePlant,
    first: Float[ndarray, "features"],
    rule: Float[ndarray, "points"] | None,
    intervals: int,
    length: float,
    iterations: int,
    observe: Callable[[Samples], Samples] = lambda samples: samples,
) -> Float[ndarray, "iterations features"]:
    """Evaluate and improve a policy in turn; every evaluation records new data from the plant's start.

    Args:
        plant: what is controlled.
        first: weights whose policy is evaluated first; it must hold the plant.
        rule: quadrature weights, one a point of an interval; None for exact integrals.
        intervals: number of intervals of an evaluation.
        length: of an interval, in time units of the plant.
        iterations: number of evaluations.
        observe: what the sensors make of the samples.

    Returns:
        weights after each evaluation.

    Raises:
        ValueError: if a size is not positive or the first weights are not finite.
    """
    finite(first=first)
    if min(intervals, iterations) < 1 or not length > 0:
        raise ValueError(f"intervals, iterations and length must be positive: {intervals}, {iterations}, {length}")
    points, weights = 2 if rule is None else len(rule), [first]
    for _ in range(iterations):
        weights.append(evaluate(plant, observe(plant.sample(weights[-1], points, intervals, length)), rule))
    return np.stack(weights[1:])
