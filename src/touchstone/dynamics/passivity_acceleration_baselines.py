r"""Gradient descent, heavy ball and triple momentum as one two-step method, and functions with known constants.

Every method here reads

.. math:: \xi_{k+1} = (1 + \beta) \xi_k - \beta \xi_{k-1} - \alpha \nabla f(y_k), \qquad y_k = (1 + \gamma) \xi_k - \gamma \xi_{k-1},

with output :math:`(1 + \delta) \xi_k - \delta \xi_{k-1}`; Nesterov's method is :math:`\gamma = \beta`.

Sources: Lessard, Recht and Packard (2016), arXiv:1408.3595, for the form and the function on which heavy ball cycles; Van Scoy,
Freeman and Lynch (2018), *The fastest known globally convergent first-order method for minimizing strongly convex functions*,
for triple momentum; Nesterov (2004), *Introductory lectures on convex optimization*, for the chain.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from touchstone.checks import finite, shaped
from touchstone.dynamics.passivity_acceleration import Objective, checked


class TwoStep(NamedTuple):
    """The four numbers of a two-step method: step, momentum, extrapolation of the gradient's point and of the output."""

    alpha: float
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0


def gradient_descent(smoothness: float, convexity: float) -> TwoStep:
    """The step 2/(L + mu), the best for quadratics."""
    return TwoStep(2 / (smoothness + convexity))


def heavy_ball(smoothness: float, convexity: float) -> TwoStep:
    """Polyak's step and momentum, the best for quadratics."""
    high, low = smoothness**0.5, convexity**0.5
    return TwoStep(4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2)


def nesterov(smoothness: float, convexity: float) -> TwoStep:
    """Nesterov's method with step 1/L."""
    beta = (smoothness**0.5 - convexity**0.5) / (smoothness**0.5 + convexity**0.5)
    return TwoStep(1 / smoothness, beta, beta, beta)


def triple_momentum(smoothness: float, convexity: float) -> TwoStep:
    r"""Van Scoy's method, whose rate :math:`1 - \sqrt{\mu/L}` holds for all strongly convex functions."""
    rho = 1 - (convexity / smoothness) ** 0.5
    return TwoStep((1 + rho) / smoothness, rho**2 / (2 - rho), rho**2 / ((1 + rho) * (2 - rho)), rho**2 / (1 - rho**2))


def run(
    method: TwoStep, objective: Objective, start: Float[np.ndarray, "dim"], steps: int
) -> Float[np.ndarray, "iterates dim"]:
    """Iterate a two-step method from rest.

    Args:
        method: its numbers.
        objective: what is minimised.
        start: both first points.
        steps: number of gradients.

    Returns:
        outputs, the start first.

    Raises:
        ValueError: if the start does not fit the objective or a size is not positive.
    """
    checked(objective, start, steps=steps, alpha=method.alpha)
    alpha, beta, gamma, delta = method
    points, before = [start], start
    now = start
    for _ in range(steps):
        change = now - before
        before, now = now, now + beta * change - alpha * objective.gradient(now + gamma * change)
        points.append(now + delta * (now - before))
    return np.stack(points)


def spectral_radius(method: TwoStep, eigenvalues: Float[np.ndarray, "values"]) -> float:
    r"""The largest modulus of the roots of :math:`z^2 - (1 + \beta - \alpha\lambda(1 + \gamma)) z + \beta - \alpha\gamma\lambda`.

    Args:
        method: its numbers.
        eigenvalues: of the Hessian of a quadratic.

    Returns:
        the rate of the method on that quadratic.

    Raises:
        ValueError: if the eigenvalues are empty or not finite.
    """
    finite(eigenvalues=eigenvalues)
    alpha, beta, gamma, _ = method
    middle, last = 1 + beta - alpha * eigenvalues * (1 + gamma), beta - alpha * gamma * eigenvalues
    spread = np.sqrt(middle.astype(complex) ** 2 - 4 * last)
    return float(np.abs(np.stack([middle + spread, middle - spread]) / 2).max())


def quadratic(eigenvalues: Float[np.ndarray, "dim"]) -> Objective:
    """Half the sum of eigenvalues times squared coordinates; all methods commute with rotations, so axes are no loss.

    Args:
        eigenvalues: of the Hessian.

    Raises:
        ValueError: if they are not positive and finite.
    """
    shaped("eigenvalues", eigenvalues, ("dim",))
    finite(eigenvalues=eigenvalues)
    if not (eigenvalues > 0).all():
        raise ValueError("eigenvalues must be positive")
    return Objective(
        value=lambda x: float(eigenvalues @ x**2 / 2),
        gradient=lambda x: eigenvalues * x,
        hessian_product=lambda x, v: eigenvalues * v,
        smoothness=float(eigenvalues.max()),
        convexity=float(eigenvalues.min()),
        minimiser=np.zeros(len(eigenvalues)),
    )


def random_spectrum(dim: int, condition: float, seed: int) -> Float[np.ndarray, "dim"]:
    """Eigenvalues from 1/condition to 1: both ends, and the others drawn uniformly on the logarithmic scale."""
    inner = np.random.default_rng([seed, 0]).uniform(-np.log(condition), 0, dim - 2)
    return np.exp(np.sort(np.concatenate([[-np.log(condition), 0.0], inner])))


def three_pieces() -> Objective:
    """The scalar function with curvatures 25, 1 and 25 (from 1 and from 2) on which the tuned heavy ball cycles."""

    def slope(x: np.ndarray) -> np.ndarray:
        return np.where(x < 1, 25 * x, np.where(x < 2, x + 24, 25 * x - 24))

    def value(x: np.ndarray) -> float:
        pieces = np.where(x < 1, 12.5 * x**2, np.where(x < 2, x**2 / 2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36))
        return float(pieces.sum())

    return Objective(value, slope, lambda x, v: np.where((x < 1) | (x >= 2), 25.0, 1.0) * v, 25.0, 1.0, np.zeros(1))


def logistic(
    features: Float[np.ndarray, "samples dim"], labels: Float[np.ndarray, "samples"], condition: float
) -> Objective:
    r"""Mean logistic loss with a quadratic penalty whose weight makes the known constants L and mu have a given ratio.

    Args:
        features: inputs.
        labels: 1 and -1.
        condition: the L/mu, with L the largest eigenvalue of :math:`X^T X / 4n` plus mu, and mu the weight.

    Raises:
        ValueError: if the data are empty, not finite or do not fit, or the condition is not above 1.
    """
    sizes = shaped("features", features, ("samples", "dim"))
    shaped("labels", labels, (sizes["samples"],))
    finite(features=features, labels=labels)
    if not condition > 1:
        raise ValueError(f"condition is {condition}: it must be above 1")
    signed, count = features * labels[:, None], len(features)
    curvature = float(np.linalg.norm(features, 2) ** 2 / (4 * count))
    weight = curvature / (condition - 1)

    def gradient(x: np.ndarray) -> np.ndarray:
        return weight * x - signed.T @ expit(-(signed @ x)) / count

    def hessian_product(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        share = expit(signed @ x)
        return weight * v + signed.T @ (share * (1 - share) * (signed @ v)) / count

    def value(x: np.ndarray) -> float:
        return float(np.logaddexp(0, -(signed @ x)).mean() + weight * x @ x / 2)

    found = np.zeros(sizes["dim"])
    for _ in range(100):  # Newton's method, halved while the loss would rise
        hessian = np.stack([hessian_product(found, axis) for axis in np.eye(len(found))])
        move, size = np.linalg.solve(hessian, gradient(found)), 1.0
        while value(found - size * move) > value(found) and size > 1e-3:
            size /= 2
        found = found - size * move
        if np.abs(gradient(found)).max() < 1e-15:
            break
    return Objective(value, gradient, hessian_product, curvature + weight, weight, found)


def chain(dim: int) -> Objective:
    """Nesterov's worst case for convex functions: springs between neighbours, pulled at one end, with L = 1.

    Args:
        dim: number of links.

    Raises:
        ValueError: if dim is not positive.
    """
    if dim < 1:
        raise ValueError(f"dim is {dim}: the chain needs at least one link")
    pull = np.zeros(dim)
    pull[0] = 1.0

    def spring(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, 1)
        return 2 * x - padded[:-2] - padded[2:]

    return Objective(
        value=lambda x: float(x @ spring(x) / 2 - x[0]) / 4,
        gradient=lambda x: (spring(x) - pull) / 4,
        hessian_product=lambda x, v: spring(v) / 4,
        smoothness=1.0,
        convexity=0.0,
        minimiser=1 - np.arange(1, dim + 1) / (dim + 1),
    )
