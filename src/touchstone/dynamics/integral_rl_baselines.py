"""What integral reinforcement learning is compared with: classical quadrature, and policy iteration with a known model."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import solve_continuous_lyapunov

from touchstone.checks import finite, shaped


def trapezoidal(points: int, length: float) -> Float[ndarray, "points"]:
    """Weights of the trapezoidal rule.

    Args:
        points: number of equally spaced points, at least 2.
        length: of the interval.

    Raises:
        ValueError: if there are fewer than two points.
    """
    if points < 2:
        raise ValueError(f"points is {points}: the trapezoidal rule needs at least 2")
    weights = np.full(points, length / (points - 1))
    weights[[0, -1]] /= 2
    return weights


def simpson(points: int, length: float) -> Float[ndarray, "points"]:
    """Weights of Simpson's composite rule.

    Args:
        points: number of equally spaced points, odd.
        length: of the interval.

    Raises:
        ValueError: if the number of points is even or below three.
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points is {points}: Simpson's rule needs an odd number, at least 3")
    weights = np.full(points, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return weights * length / (3 * (points - 1))


def kleinman(
    A: Float[ndarray, "dim dim"],
    B: Float[ndarray, "dim inputs"],
    Q: Float[ndarray, "dim dim"],
    R: Float[ndarray, "inputs inputs"],
    K: Float[ndarray, "inputs dim"],
    iterations: int,
) -> Float[ndarray, "iterations dim dim"]:
    """Newton's method for the algebraic Riccati equation: a Lyapunov equation an iteration (Kleinman 1968).

    Args:
        A: drift matrix.
        B: input matrix.
        Q: cost of states.
        R: cost of controls.
        K: gain of the first policy u = -Kx, which must hold the plant.
        iterations: number of Lyapunov equations to solve.

    Returns:
        the value matrix of each policy.

    Raises:
        ValueError: if the gain has a wrong shape or leaves the plant unstable.
    """
    shaped("K", K, (B.shape[1], len(A)))
    finite(A=A, B=B, Q=Q, R=R, K=K)
    values = []
    for _ in range(iterations):
        closed = A - B @ K
        if np.linalg.eigvals(closed).real.max() >= 0:
            raise ValueError(
                "K leaves the plant unstable, so that its cost is infinite: start with a gain that holds it"
            )
        values.append(solve_continuous_lyapunov(closed.T, -(Q + K.T @ R @ K)))
        K = np.linalg.solve(R, B.T @ values[-1])
    return np.stack(values)
