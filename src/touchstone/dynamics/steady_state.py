r"""Adams-Bashforth-Moulton steps of :math:`\dot z=g(z)` up to a time or to a steady state, and Anderson's acceleration.

A step predicts with the rates of three past states, evaluates, corrects, evaluates again (PECE, order 3; first steps of
order 1 and 2). The difference between the two estimates the error. One step size serves the whole state.

Sources: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, III.5, 1993; D. G. Anderson,
J. ACM 12, 1965.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite
from touchstone.dynamics.odeint import Count


def _weights(nodes: Sequence[float], step: float) -> list[float]:
    """Weights that integrate the polynomial through values at the nodes from 0 to the step."""
    powers = np.arange(len(nodes))
    return np.linalg.solve(np.asarray(nodes)[None] ** powers[:, None], step ** (powers + 1) / (powers + 1)).tolist()


def _sum(state: Tensor, weights: Sequence[float], rates: Sequence[Tensor]) -> Tensor:
    for weight, rate in zip(weights, rates, strict=True):
        state = torch.add(state, rate, alpha=weight)
    return state


def adams(
    rate: Callable[[Tensor], Tensor],
    start: Float[Tensor, "*state"],
    span: float = math.inf,
    tolerance: float = 1e-3,
    steady: Callable[[Tensor, Tensor], bool] | None = None,
    most: int = 1000,
    count: Count | None = None,
    blocks: Sequence[int] | None = None,
) -> Float[Tensor, "*state"]:
    r"""The state after a time, or where a test of steadiness is passed.

    Args:
        rate: g, the time derivative.
        start: state at time 0.
        span: time to integrate over; without end for a steady state.
        tolerance: relative and absolute tolerance of a step; the rms of the error in its units is held at 1.
        steady: from a state and its rate, whether to stop; asked at the start and after every accepted step.
        most: accepted steps after which the state is returned as it is.
        count: is increased by what the solve costs.
        blocks: sizes of consecutive parts of a flat state, each with an rms of its own. One part by default.

    Returns:
        the state.

    Raises:
        ValueError: if the start is empty or not finite, the span or tolerance is not positive, or there is no end.
        FloatingPointError: if the step size underflows, or a span without a test of steadiness needs more steps.
    """
    finite(start=start)
    if not (span > 0 and tolerance > 0):
        raise ValueError(f"span and tolerance must be positive, got {span} and {tolerance}")
    if math.isinf(span) and steady is None:
        raise ValueError("span is infinite: give a test of steadiness")
    count = Count() if count is None else count

    def rms(error: Tensor, size: Tensor) -> float:
        scaled = error / (tolerance * (1 + size))
        parts = [scaled] if blocks is None else scaled.split(list(blocks))
        return max(part.square().mean().sqrt().item() for part in parts)

    time, state, past, ages = 0.0, start, [rate(start)], [0.0]
    count.forward += 1
    step = min(span, 0.05 / max(rms(past[0], state.abs()) * tolerance, 1e-3))
    accepted = 0
    while time < span * (1 - 1e-12) and accepted < most and not (steady and steady(state, past[0])):
        step = min(step, span - time)
        order = len(past)
        predicted = _sum(state, _weights(ages, step), past)
        corrector = [step, *ages[: max(order - 1, 1)]]
        new = _sum(state, _weights(corrector, step), [rate(predicted), *past[: len(corrector) - 1]])
        count.forward += 1
        # Milne's estimate on equal steps: a tenth of the difference at order 3, a sixth at 2; half at the start
        share = {1: 0.5, 2: 1 / 6, 3: 0.1}[order]
        ratio = share * rms(new - predicted, torch.maximum(state.abs(), new.abs()))
        factor = min(2.0, max(0.2, 0.9 * ratio ** (-1 / (order + 1)))) if ratio > 0 else 2.0
        if not ratio <= 1:
            count.rejected += 1
            step *= factor if math.isfinite(ratio) else 0.2
            if step < 1e-12:
                raise FloatingPointError(
                    f"step size underflows at time {time:.6g}: the rate is too stiff or not finite"
                )
            continue
        count.accepted += 1
        accepted += 1
        time += step
        state = new
        past, ages = [rate(state), *past][:3], [0.0, *(age - step for age in ages)][:3]
        count.forward += 1
        step *= factor
    if steady is None and time < span * (1 - 1e-12):
        raise FloatingPointError(f"{most} steps reach only time {time:.6g} of {span:.6g}")
    return state


def anderson(
    map_: Callable[[Tensor], Tensor],
    start: Float[Tensor, "batch n"],
    tolerance: float = 1e-2,
    most: int = 10,
    memory: int = 5,
) -> tuple[Float[Tensor, "batch n"], int]:
    r"""A fixed point by Anderson's acceleration, each row of the batch with its own mixing.

    Args:
        map_: F, whose fixed point is wanted.
        start: where to begin.
        tolerance: stop at :math:`\|F(z)-z\|\le` tolerance times :math:`\|F(z)\|`, over the whole batch.
        most: evaluations at most.
        memory: past values that are mixed.

    Returns:
        the last value of F, and how many evaluations it took.

    Raises:
        ValueError: if the start is empty or not finite, or ``most`` is below one.
    """
    finite(start=start)
    if most < 1:
        raise ValueError(f"most is {most}: allow at least one evaluation")
    point, values, residuals = start, [], []
    number = 0
    for number in range(1, most + 1):  # noqa: B007  (returned)
        value = map_(point)
        values, residuals = [*values, value][-memory:], [*residuals, value - point][-memory:]
        if residuals[-1].norm() <= tolerance * value.norm():
            break
        point = value
        if len(values) > 1:
            differences = torch.stack([r - residuals[-1] for r in residuals[:-1]], -1)  # (batch, n, m)
            gram = differences.mT @ differences
            ridge = 10 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-20
            gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1]).to(gram)
            mix = torch.linalg.solve(gram, -(differences.mT @ residuals[-1].unsqueeze(-1)))
            point = value + (torch.stack([v - value for v in values[:-1]], -1) @ mix).squeeze(-1)
    return value, number
