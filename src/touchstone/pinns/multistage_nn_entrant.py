r"""Multi-stage networks in the ring: scalar equations in one coordinate.

The method's own module does not know the ring, so that the ring can grow without touching its record. Settings are those of
the method's page; only the number of steps follows the budget, from the time that a few of them take.
"""

import torch
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.pinns import multistage_nn
from touchstone.pinns.equation_parts import (
    check_scalar,
    declined,
    factor,
    failing,
    given_values,
    hand_back,
    residual_of,
)
from touchstone.pinns.multistage_nn import Equation, Sum
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution

STAGES = 3


def _unknown(x: Tensor) -> Tensor:
    """In place of the exact solution, which contestants do not see."""
    return torch.full_like(x, torch.nan)


def line_equation(problem: Problem) -> Equation:
    """A problem of one coordinate as the method takes it: on [-1, 1], with known values at some points.

    Args:
        problem: of first or second order, with a constant factor of the highest derivative.

    Returns:
        the equation for the solution as a function of the rescaled coordinate.

    Raises:
        ValueError: if the problem is of another kind.
    """
    check_scalar(problem, (1,), "a multi-stage network")
    (order,), (low,), (high,) = problem.orders, problem.low, problem.high
    lead, rate = factor(problem, order), 2 / (high - low)
    if order not in (1, 2) or not lead:
        raise declined(
            problem,
            "needs order 1 or 2 and a constant factor of its highest derivative, by which stages are scaled",
        )
    places, values = given_values(problem)
    places = places.unique(dim=0)
    scale = rate ** torch.arange(order + 1, dtype=torch.float64)[:, None]

    def residual(u: Tensor, x: Tensor) -> Tensor:
        return residual_of(problem, (scale * u)[..., None], low + (x[:, None] + 1) / rate)[:, 0]

    known = values(problem.scale(places))[:, 0].tolist()
    return Equation(residual, order, lead * rate**order, tuple((2 * places[:, 0] - 1).tolist()), tuple(known), _unknown)


def remainder(equation: Equation, answer: Sum) -> Equation:
    r"""The equation that a correction solves: :math:`\mathcal N[u+\cdot]=0` with the values that :math:`u` misses.

    Its first stage is the next stage of the equation itself, which lets a clock look in between.

    Args:
        equation: the equation.
        answer: what has been found, :math:`u`.

    Returns:
        the equation of what is missing.
    """
    kept: list[Tensor] = []

    def residual(u: Tensor, x: Tensor) -> Tensor:
        if not kept or kept[0] is not x:
            kept[:] = [x, answer(x, equation.order)]
        return equation.residual(kept[1] + u, x)

    places = torch.tensor(equation.places, dtype=torch.float64)
    values = torch.tensor(equation.values, dtype=torch.float64) - answer(places)[0]
    return Equation(residual, equation.order, equation.leading, equation.places, tuple(values.tolist()), equation.exact)


@entrant("pinns", "multistage-nn")
def solve_in_stages(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with three stages, for scalar equations in one coordinate: its networks know one variable.

    Stages share the budget evenly; in each, Adam takes as many steps as L-BFGS takes iterations.
    """
    equation, answer, clock, taken = line_equation(problem), Sum(), [], 0

    def timed(rest: Equation) -> Equation:
        def residual(u: Tensor, x: Tensor) -> Tensor:
            clock.append(budget.spent())
            return rest.residual(u, x)

        return Equation(residual, rest.order, rest.leading, rest.places, rest.values, rest.exact)

    with failing():
        for number in range(STAGES):
            rest, fewest = remainder(equation, answer), 300 * (number + 1)
            clock.clear()
            multistage_nn.solve(timed(rest), 10 * seed + number, 1, 6, 12, fewest=fewest)
            cost = (clock[-1] - clock[2]) / (
                len(clock) - 3
            )  # without the look at the residue, and what is loaded after it
            share = (0.93 * budget.seconds - budget.spent()) / (STAGES - number)
            steps = max(1, int(share / (2.2 * cost)))  # a line search takes more than one evaluation now and then
            found, _ = multistage_nn.solve(rest, 10 * seed + number, 1, steps, steps, fewest=fewest)
            answer.stages += found.stages
            taken += 2 * steps
    (low,), (high,) = problem.low, problem.high

    def predict(points: Tensor) -> Tensor:
        return answer(2 * (points[:, 0] - low) / (high - low) - 1)[0][:, None]

    return hand_back(problem, predict, taken)
