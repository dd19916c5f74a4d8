r"""Accelerated gradient methods as motions that are driven onto, and held off, a manifold.

A double integrator :math:`\dot x = y, \dot y = u` is asked to move like gradient flow, :math:`\phi(x, y) = y + \kappa \nabla f(x) = 0`.
The control that makes :math:`\dot\phi = -\phi / \epsilon` dissipates the storage :math:`S = \frac12 |\phi|^2` at the rate
:math:`2 / \epsilon` for any f; in it stands a damping by the Hessian. Contraction alone ends in gradient flow. Nesterov's method keeps
the same off-manifold variable and forces it by the gradient,

.. math:: \phi_{k+1} = \beta (\phi_k - s \nabla f(y_k)), \qquad y_{k+1} = y_k - s \nabla f(y_k) + \phi_{k+1},

in continuous time :math:`\dot x = \phi - \sqrt s \nabla f, \; \dot\phi = -2 \sqrt\mu \phi - (1 - \sqrt{\mu s}) \nabla f`.

Sources: Parimi, Mehra, Wagh, Yerudkar and Singh (2025), arXiv:2509.18346, for passivity and immersion; Shi, Du, Jordan and Su (2018),
arXiv:1810.08907, for the differential equation that resolves the step. The recursion in :math:`\phi` is this project's reading.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from touchstone.checks import finite, shaped

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Objective:
    """A smooth convex function, its derivatives and the constants that step sizes are made of.

    Attributes:
        value: point [dim] to number.
        gradient: point to gradient.
        hessian_product: point and direction to the Hessian times the direction.
        smoothness: L, a Lipschitz constant of the gradient.
        convexity: mu, a lower bound of the curvature; 0 if the function is only convex.
        minimiser: where the minimum is.
    """

    value: Callable[[np.ndarray], float]
    gradient: Field
    hessian_product: Callable[[np.ndarray, np.ndarray], np.ndarray]
    smoothness: float
    convexity: float
    minimiser: Float[np.ndarray, "dim"]


def checked(objective: Objective, start: Float[np.ndarray, "dim"], **positive: float | int) -> None:
    """Reject starts that do not fit the objective, and sizes that are not positive.

    Args:
        objective: what is minimised.
        start: first point.
        **positive: numbers under the names that users know.

    Raises:
        ValueError: naming the argument.
    """
    shaped("start", start, objective.minimiser.shape)
    finite(start=start)
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: it must be positive")


def integrate(
    rate: Field, start: Float[np.ndarray, "size"], times: Float[np.ndarray, "time"], tolerance: float
) -> Float[np.ndarray, "time size"]:
    """A trajectory by DOP853 from time 0, at increasing times.

    Raises:
        RuntimeError: if the step size falls to zero.
    """
    found = solve_ivp(
        lambda _, z: rate(z),
        (0.0, times[-1]),
        start,
        method="DOP853",
        t_eval=times,
        rtol=tolerance,
        atol=tolerance * 1e-3,
    )
    if not found.success:
        raise RuntimeError(f"integration failed: {found.message}")
    return found.y.T


def off_manifold(
    objective: Objective, point: Float[np.ndarray, "dim"], velocity: Float[np.ndarray, "dim"], gain: float
) -> Float[np.ndarray, "dim"]:
    r"""The passive output :math:`\phi = y + \kappa \nabla f(x)`, zero where the motion is gradient flow.

    Args:
        objective: the f.
        point: the x.
        velocity: the y.
        gain: the :math:`\kappa`, time per curvature.
    """
    return velocity + gain * objective.gradient(point)


def control(
    objective: Objective,
    point: Float[np.ndarray, "dim"],
    velocity: Float[np.ndarray, "dim"],
    gain: float,
    epsilon: float,
) -> Float[np.ndarray, "dim"]:
    r"""The acceleration :math:`u = -\kappa \nabla^2 f \, y - \phi / \epsilon` for which :math:`\dot\phi = -\phi / \epsilon`.

    Args:
        objective: the f.
        point: the x.
        velocity: the y.
        gain: the :math:`\kappa`.
        epsilon: time in which the distance to the manifold falls by a factor e.
    """
    damping = gain * objective.hessian_product(point, velocity)
    return -damping - off_manifold(objective, point, velocity, gain) / epsilon


def controlled_flow(
    objective: Objective,
    start: Float[np.ndarray, "dim"],
    velocity: Float[np.ndarray, "dim"],
    times: Float[np.ndarray, "time"],
    gain: float,
    epsilon: float,
    tolerance: float = 1e-12,
) -> tuple[Float[np.ndarray, "time dim"], Float[np.ndarray, "time dim"]]:
    r"""The double integrator under :func:`control`; its storage is :math:`S(0) e^{-2t/\epsilon}` for any f.

    Args:
        objective: the f.
        start: position at time 0.
        velocity: velocity at time 0.
        times: increasing times.
        gain: the :math:`\kappa`.
        epsilon: contraction time; small values approach gradient flow.
        tolerance: of a step of the integrator, relative.

    Returns:
        positions and velocities.

    Raises:
        ValueError: if a vector does not fit the objective or a number is not positive.
    """
    checked(objective, start, gain=gain, epsilon=epsilon, tolerance=tolerance)
    shaped("velocity", velocity, start.shape)
    finite(velocity=velocity, times=times)
    dim = len(start)

    def rate(z: np.ndarray) -> np.ndarray:
        return np.concatenate([z[dim:], control(objective, z[:dim], z[dim:], gain, epsilon)])

    path = integrate(rate, np.concatenate([start, velocity]), times, tolerance)
    return path[:, :dim], path[:, dim:]


def forced_flow(
    objective: Objective,
    start: Float[np.ndarray, "dim"],
    times: Float[np.ndarray, "time"],
    step: float = 0.0,
    tolerance: float = 1e-10,
) -> Float[np.ndarray, "time dim"]:
    r"""Nesterov's method in continuous time, :math:`t = k \sqrt s`, for a strongly convex function.

    .. math:: \ddot x + 2 \sqrt\mu \dot x + \sqrt s \nabla^2 f \dot x + (1 + \sqrt{\mu s}) \nabla f = 0,
        \qquad \dot x(0) = -2 \sqrt s \nabla f(x_0) / (1 + \sqrt{\mu s}),

    in the variables x and :math:`\phi = \dot x + \sqrt s \nabla f`, which need no Hessian. Step 0 gives the equation
    without its damping, which heavy ball has as well and which starts at rest.

    Args:
        objective: the f; its convexity enters.
        start: position at time 0.
        times: increasing times.
        step: the s that the equation resolves.
        tolerance: of a step of the integrator, relative.

    Returns:
        positions.

    Raises:
        ValueError: if the start does not fit, the step is negative or the function is not strongly convex.
    """
    checked(objective, start, tolerance=tolerance, convexity=objective.convexity)
    finite(times=times)
    if not step >= 0:
        raise ValueError(f"step is {step}: it must be 0 or positive")
    dim, root, resolved = len(start), objective.convexity**0.5, step**0.5

    def rate(z: np.ndarray) -> np.ndarray:
        slope, off = objective.gradient(z[:dim]), z[dim:]
        return np.concatenate([off - resolved * slope, -2 * root * off - (1 - root * resolved) * slope])

    off = -momentum(objective, step) * resolved * objective.gradient(start)
    return integrate(rate, np.concatenate([start, off]), times, tolerance)[:, :dim]


def momentum(objective: Objective, step: float) -> float:
    r"""Nesterov's :math:`\beta = (1 - \sqrt{\mu s}) / (1 + \sqrt{\mu s})`."""
    q = (objective.convexity * step) ** 0.5
    return (1 - q) / (1 + q)


def nesterov(
    objective: Objective,
    start: Float[np.ndarray, "dim"],
    steps: int,
    step: float | None = None,
    forced: bool = True,
    beta: float | Callable[[int], float] | None = None,
) -> Float[np.ndarray, "iterates dim"]:
    r"""Nesterov's method as a contracted and forced off-manifold variable, :math:`\phi_{k+1} = \beta(\phi_k - s \nabla f(y_k))`.

    Args:
        objective: the f.
        start: the :math:`y_0`; :math:`\phi_0 = 0`.
        steps: number of gradients.
        step: the s, 1/L by default.
        forced: False leaves out the gradient after the first step: pure contraction onto the manifold.
        beta: momentum, or a function of the number of the new iterate; by default from the convexity. The rule
            :math:`(k - 1) / (k + 2)` is the one for functions that are only convex.

    Returns:
        points at which gradients are taken, the start first.

    Raises:
        ValueError: if the start does not fit the objective or a size is not positive.
    """
    step = 1 / objective.smoothness if step is None else step
    checked(objective, start, steps=steps, step=step)
    beta = momentum(objective, step) if beta is None else beta
    points, off = np.empty((steps + 1, len(start))), np.zeros_like(start)
    points[0] = start
    for k in range(steps):
        descent = step * objective.gradient(points[k])
        now = beta(k + 1) if callable(beta) else beta
        off = now * (off - descent) if forced or k == 0 else now * off
        points[k + 1] = points[k] - descent + off
    return points


def nesterov_by_differences(
    objective: Objective, start: Float[np.ndarray, "dim"], steps: int, step: float, corrected: bool = True
) -> Float[np.ndarray, "iterates dim"]:
    r"""The same method with the discrete Hessian damping in sight,

    .. math:: y_{k+1} = y_k - s g_k + \beta (y_k - y_{k-1}) - \beta s (g_k - g_{k-1}), \qquad y_{-1} = y_0, \; g_{-1} = 0.

    Args:
        objective: the f.
        start: the :math:`y_0`.
        steps: number of gradients.
        step: the s.
        corrected: False drops the difference of gradients, which leaves heavy ball.

    Returns:
        points, the start first.

    Raises:
        ValueError: if the start does not fit the objective or a size is not positive.
    """
    checked(objective, start, steps=steps, step=step)
    beta = momentum(objective, step)
    points, before, slope_before = [start], start, np.zeros_like(start)
    for _ in range(steps):
        now, slope = points[-1], objective.gradient(points[-1])
        new = now - step * slope + beta * (now - before)
        points.append(new - beta * step * (slope - slope_before) if corrected else new)
        before, slope_before = now, slope
    return np.stack(points)


def nesterov_by_fast_variable(
    objective: Objective, start: Float[np.ndarray, "dim"], steps: int, step: float
) -> Float[np.ndarray, "iterates dim"]:
    r"""The same method with a second point v, the discrete form of :math:`\dot x = \sqrt\mu (v - x), \;
    \dot v = -\sqrt\mu (v - x + \nabla f / \mu)`.

    Args:
        objective: the f, strongly convex.
        start: the :math:`x_0 = v_0`.
        steps: number of gradients.
        step: the s.

    Returns:
        points at which gradients are taken, the start first.

    Raises:
        ValueError: if the start does not fit, a size is not positive or the function is not strongly convex.
    """
    checked(objective, start, steps=steps, step=step, convexity=objective.convexity)
    q = (objective.convexity * step) ** 0.5
    x = v = start
    points = []
    for _ in range(steps + 1):
        points.append((x + q * v) / (1 + q))
        slope = objective.gradient(points[-1])
        x, v = points[-1] - step * slope, (1 - q) * v + q * (points[-1] - slope / objective.convexity)
    return np.stack(points)


def fitted_rate(errors: Float[np.ndarray, "iterates"], floor: float = 1e-100) -> float:
    """The factor a step by which errors fall, from a straight line through the logarithms of the last half.

    Args:
        errors: distances, one an iterate; the first is positive.
        floor: iterates from the first error on that is below this share of the first error are left out, where
            rounding (or the smallest number that a float can hold) takes over.

    Returns:
        the rate; below 1 for a method that converges.

    Raises:
        ValueError: if errors are not finite, the first is zero, or fewer than four are left.
    """
    finite(errors=errors)
    low = errors <= floor * errors[0]
    kept = errors[: low.argmax()] if low.any() else errors
    if len(kept) < 4:
        raise ValueError(f"errors: {len(kept)} of {len(errors)} are above the floor, at least four are needed")
    last = np.log(kept[len(kept) // 2 :])
    return float(np.exp(np.polyfit(np.arange(len(last)), last, 1)[0]))
