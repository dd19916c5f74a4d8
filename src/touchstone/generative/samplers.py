r"""Solvers of :math:`\dot z = v(z, t)` that count every call of :math:`v` (number of function evaluations, NFE)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

from touchstone.checks import finite

Velocity = Callable[[Tensor, Tensor], Tensor]


class Flow(NamedTuple):
    """Where a flow ends, what it cost and which way it went.

    Attributes:
        end: the state at the end of the time span.
        nfe: number of calls of the velocity.
        path: the states at all step boundaries, the start included (of the adaptive solver only start and end).
    """

    end: Float[Tensor, "*state"]
    nfe: int
    path: Float[Tensor, "times *state"]


@torch.no_grad()
def euler(
    velocity: Velocity, start: Float[Tensor, "*state"], steps: int, span: tuple[float, float] = (0.0, 1.0)
) -> Flow:
    """Explicit Euler with equal steps; one call of the velocity a step.

    Args:
        velocity: from a state and a scalar time to a tensor of the state's shape.
        start: the state at the first time.
        steps: number of steps.
        span: first and last time; the last may come first, to run backwards.

    Returns:
        the flow.

    Raises:
        ValueError: if ``start`` is empty or holds NaN, or ``steps`` is not positive.
    """
    path, times, step = _prepare(start, steps, span)
    for time in times[:-1]:
        path.append(path[-1] + step * velocity(path[-1], time))
    return Flow(path[-1], steps, torch.stack(path))


@torch.no_grad()
def heun(
    velocity: Velocity, start: Float[Tensor, "*state"], steps: int, span: tuple[float, float] = (0.0, 1.0)
) -> Flow:
    """Heun's second-order method with equal steps; two calls of the velocity a step.

    Args:
        velocity: from a state and a scalar time to a tensor of the state's shape.
        start: the state at the first time.
        steps: number of steps.
        span: first and last time.

    Returns:
        the flow.

    Raises:
        ValueError: if ``start`` is empty or holds NaN, or ``steps`` is not positive.
    """
    path, times, step = _prepare(start, steps, span)
    for time, following in zip(times[:-1], times[1:], strict=True):
        slope = velocity(path[-1], time)
        path.append(path[-1] + step / 2 * (slope + velocity(path[-1] + step * slope, following)))
    return Flow(path[-1], 2 * steps, torch.stack(path))


@torch.no_grad()
def rk45(
    velocity: Velocity, start: Float[Tensor, "*state"], tolerance: float = 1e-5, span: tuple[float, float] = (0.0, 1.0)
) -> Flow:
    """Dormand and Prince's adaptive method of order 5(4), from torchdiffeq; all points share one step size.

    Args:
        velocity: from a state and a scalar time to a tensor of the state's shape.
        start: the state at the first time.
        tolerance: absolute and relative, on the root mean square over all points.
        span: first and last time.

    Returns:
        the flow; its NFE varies with the velocity.

    Raises:
        ValueError: if ``start`` is empty or holds NaN, or ``tolerance`` is not positive.
    """
    finite(start=start)
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}: it must be positive")
    calls = 0

    def counted(time: Tensor, state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return velocity(state, time)

    times = torch.tensor(span, dtype=start.dtype, device=start.device)
    path = odeint(counted, start, times, rtol=tolerance, atol=tolerance, method="dopri5")
    return Flow(path[-1], calls, path)


def _prepare(start: Tensor, steps: int, span: tuple[float, float]) -> tuple[list[Tensor], Tensor, float]:
    finite(start=start)
    if steps < 1:
        raise ValueError(f"steps is {steps}: it must be positive")
    times = torch.linspace(span[0], span[1], steps + 1, dtype=start.dtype, device=start.device)
    return [start], times, (span[1] - span[0]) / steps
