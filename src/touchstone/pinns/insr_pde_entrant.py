r"""Implicit neural spatial representations in the ring: evolution equations up to second order in space.

The method's own module does not know the ring, so that the ring can grow without touching its record. Settings are those of
the method's page; only the number of steps follows the budget, from the time that a few of them take.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.nn.jets import Jet
from touchstone.pinns.equation_parts import check_scalar, declined, factor, failing, hand_back, residual_of
from touchstone.pinns.insr_pde import Field, Rows, Siren, jittered, levenberg_marquardt, pointwise_rows, time_step
from touchstone.pinns.problems import Condition, Problem
from touchstone.pinns.protocol import Solution

POINTS, ITERATIONS, FIT = 800, 8, 300  # points and iterations a step; most iterations for the initial values


def right_side(
    problem: Problem, streams: Float[Tensor, "streams points 1"], points: Float[Tensor, "points 2"]
) -> Float[Tensor, "points 1"]:
    r"""The :math:`F` of a problem :math:`u_t=F[u]`: minus its residual where the solution stands still.

    Args:
        problem: one in time and one place, of first order in time.
        streams: value and derivatives in space, as many as the problem's equation needs or more.
        points: time and place.

    Returns:
        the rate of change.
    """
    still = torch.zeros_like(streams[:1])
    jet = torch.cat([streams[:1], still, streams[1 : 1 + problem.orders[1]]])
    return -residual_of(problem, jet, points)


def _steppable(problem: Problem) -> tuple[Condition, list[Condition]]:
    """The initial condition and the others, after declining what cannot be stepped."""
    check_scalar(problem, (2,), "the time stepper")
    if problem.orders[0] != 1 or factor(problem, 1) != 1:
        raise declined(problem, "is not of the form u_t = F[u]: only that is stepped in time")
    if problem.orders[1] > 2:
        raise declined(
            problem,
            f"needs a derivative of order {problem.orders[1]} in space: the sine network carries orders up to 2",
        )
    first = [condition for condition in problem.conditions if condition.name == "initial"]
    others = [condition for condition in problem.conditions if condition.name != "initial"]
    if len(first) != 1 or any(condition.orders[0] or condition.orders[1] > 2 for condition in problem.conditions):
        raise declined(problem, "needs one initial condition, and none with a derivative in time, to be stepped")
    if any(not set(condition.place(8)[:, 1].tolist()) <= {0.0, 1.0} for condition in others):
        raise declined(problem, "has conditions away from both ends: the time stepper takes conditions at the ends")
    if not others and problem.period is None and problem.orders[1]:
        raise declined(problem, "has neither a period nor conditions at its ends: a step in time needs them")
    return first[0], others


def rescaled(siren: Siren, low: float, high: float) -> Field:
    """A network of one place on an interval, carried over from [-1, 1], where its frequencies are meant."""
    rate = 2 / (high - low)

    def field(weights: Tensor, points: Tensor, orders: int = 0) -> Tensor:
        streams = siren(weights, rate * (points - low) - 1, orders)
        return streams * rate ** torch.arange(1 + orders, dtype=points.dtype)[:, None, None]

    return field


def _misfit_rows(condition: Condition, field: Field, places: Tensor, time: float, weight: float = 1.0) -> Rows:
    """Rows of what is known at some places and a time."""

    def misfit(streams: Tensor, place: Tensor) -> Tensor:
        points = torch.cat([torch.full_like(place, time), place], 1)
        return condition.misfit(Jet(streams[None], condition.orders), points[None])[0]

    return pointwise_rows(field, places, misfit, (), condition.orders[1], weight)


def periodic_rows(field: Field, low: float, high: float, order: int) -> Rows:
    """Rows that ask for the same value at both ends, and for the same derivatives below an order.

    Args:
        field: a network of one place.
        low: one end.
        high: the other.
        order: of the equation; 1 asks for the value alone.

    Returns:
        rows for the optimiser, derivatives in units of half the interval.
    """

    def gap(weights: Tensor, ends: Tensor, orders: int) -> Tensor:
        return field(weights, ends[:, :1], orders) - field(weights, ends[:, 1:], orders)

    unit = ((high - low) / 2) ** torch.arange(order, dtype=torch.float64)
    ends = torch.tensor([[low, high]], dtype=torch.float64)
    return pointwise_rows(gap, ends, lambda streams, _: unit * streams[..., 0].T, (), order - 1)


@entrant("pinns", "insr-pde")
def solve_by_stepping(problem: Problem, budget: Budget, seed: int) -> Solution:
    r"""Enter the ring with a sine network 1-10-10-10-1 in midpoint steps: :math:`u_t=F[u]` up to second order in space.

    A fifth of the budget at most goes to the initial values, the rest to as many time steps as fit, each of eight
    iterations on 800 points. Conditions at the ends, or periodicity, are rows of each step's least squares. Between the
    steps the solution is a cubic spline in time.
    """
    initial, others = _steppable(problem)
    (start, low), (horizon, high) = problem.low, problem.high
    siren, generator = Siren((1, 10, 10, 10, 1), 10.0), torch.Generator().manual_seed(seed)
    field = rescaled(siren, low, high)

    optimise = partial(levenberg_marquardt, iterations=ITERATIONS)

    def fresh() -> Tensor:
        return jittered(POINTS, [low], [high], generator)

    def edges(time: float) -> list[Rows]:
        rows = []
        for condition in others:
            ends = low + (high - low) * condition.place(8)[:, 1:].unique().double()[:, None]
            rows.append(_misfit_rows(condition, field, ends, time, weight=float(len(ends))))
        if problem.period is not None and problem.orders[1]:
            rows.append(periodic_rows(field, low, high, problem.orders[1]))
        return rows

    def advance(weights: Tensor, time: float, dt: float) -> Tensor:
        def rate(streams: Tensor, place: Tensor) -> Tensor:
            return right_side(problem, streams, torch.cat([torch.full_like(place, time + dt / 2), place], 1))

        return time_step(field, weights, rate, fresh(), dt, "midpoint", problem.orders[1], edges(time + dt), optimise)

    with failing():
        weights, rows = siren.start(generator), [_misfit_rows(initial, field, fresh(), start)]
        levenberg_marquardt(weights, rows, 1, 1e-3)  # what is loaded at the first use is no part of an iteration
        begin = budget.spent()
        levenberg_marquardt(weights, rows, 4, 1e-3)
        cost = (budget.spent() - begin) / 5
        taken = min(FIT, max(4, int((0.2 * budget.seconds - budget.spent()) / cost)))
        weights = levenberg_marquardt(weights, rows, taken, 1e-3)

        times, states, begin = [start], [weights], budget.spent()
        advance(weights, start, (horizon - start) / 100)  # a trial step, for its cost
        trials = 1
        while times[-1] < horizon:
            cost = (budget.spent() - begin) / trials
            left = max(1, int((0.97 * budget.seconds - budget.spent()) / cost))
            dt = (horizon - times[-1]) / left
            states.append(advance(states[-1], times[-1], dt))
            times.append(horizon if left == 1 else times[-1] + dt)
            trials += 1

    def predict(points: Tensor) -> Tensor:
        places, at = points[:, 1].unique(return_inverse=True)
        table = torch.stack([field(weights, places[:, None])[0, :, 0] for weights in states]).numpy()
        pieces, t = CubicSpline(times, table).c, points[:, 0].numpy()
        step = np.clip(np.searchsorted(times, t, "right") - 1, 0, len(times) - 2)
        piece, past = pieces[:, step, at.numpy()], t - np.asarray(times)[step]
        return torch.as_tensor(np.polyval(piece, past))[:, None]

    return hand_back(problem, predict, taken + ITERATIONS * (len(times) - 1))
