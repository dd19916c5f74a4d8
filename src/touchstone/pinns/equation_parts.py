"""The parts of a problem's equation, for methods that want more than its residual.

A :class:`Problem` hides its equation in a function of jets, while some methods want a right side, a source, or the factor of
the highest derivative. The parts are recovered by evaluating the equation on chosen jets.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.nn.jets import Jet
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution

Predict = Callable[[Tensor], Tensor]


def residual_of(
    problem: Problem, streams: Float[Tensor, "streams points outputs"], points: Float[Tensor, "points dims"]
) -> Float[Tensor, "points equations"]:
    """The residual of a function that is known by its value and derivatives.

    Args:
        problem: gives the equation.
        streams: the value first, then for each coordinate its derivatives, as the problem's orders say.
        points: where they were taken.

    Returns:
        one column an equation.
    """
    return problem.equation(Jet(streams[None], problem.orders), points[None])[0]


def factor(problem: Problem, stream: int) -> float | None:
    """The constant factor with which a stream enters the residual of a scalar equation.

    Args:
        problem: gives the equation.
        stream: 0 for the value, then the derivatives in the order of a jet.

    Returns:
        the factor, 0 for a stream that does not enter; ``None`` where it depends on the place or on the solution.
    """
    draw = torch.Generator().manual_seed(1)  # the same probes for every seed: what an equation is does not depend on it
    found = []
    for step in (1.0, -3.0):  # two sizes at two places and two functions tell a constant from everything else
        points = problem.scale(torch.rand(16, len(problem.low), generator=draw, dtype=torch.float64))
        streams = torch.rand(1 + sum(problem.orders), 16, 1, generator=draw, dtype=torch.float64)
        moved = streams.clone()
        moved[stream] += step
        found.append((residual_of(problem, moved, points) - residual_of(problem, streams, points)) / step)
    found = torch.cat(found)
    if not (found - found.mean()).abs().max() <= 1e-8 * max(1.0, float(found.abs().max())):
        return None
    value = float(found.mean())
    return float(round(value)) if abs(value - round(value)) <= 1e-9 else value  # a whole number, but for rounding


def given_values(problem: Problem) -> tuple[Float[Tensor, "n dims"], Predict]:
    """Where a problem's only condition holds, and the values that it prescribes.

    Args:
        problem: a scalar one.

    Returns:
        its places in the unit cube, and a function from points ``[points, dims]`` to values ``[points, 1]``.

    Raises:
        ValueError: if there is not exactly one condition, or it prescribes something else than values.
    """
    if len(problem.conditions) != 1 or any(problem.conditions[0].orders):
        names = [condition.name for condition in problem.conditions]
        raise declined(problem, f"has the conditions {names}: the method takes values on one edge, and nothing else")
    (condition,) = problem.conditions
    places = condition.place(64).double()

    def misfit(points: Tensor, value: float) -> Tensor:
        streams = torch.full((1, 1, len(points), 1), value, dtype=torch.float64)
        return condition.misfit(Jet(streams, condition.orders), points[None])[0]

    points = problem.scale(places)
    if not torch.allclose(misfit(points, 2.0) - misfit(points, 0.0), torch.tensor(2.0, dtype=torch.float64)):
        raise declined(problem, "prescribes something else than values on its edge: the method takes values")
    return places, lambda points: -misfit(points.double(), 0.0)


def declined(problem: Problem, reason: str) -> ValueError:
    """The error with which a contestant declines a problem.

    Args:
        problem: what it declines.
        reason: what follows the problem's name.
    """
    return ValueError(f"problem {problem.name!r} {reason}")


def check_scalar(problem: Problem, dims: tuple[int, ...], method: str) -> None:
    """Decline systems, other numbers of coordinates and conditions that are built in.

    Args:
        problem: what a contestant met.
        dims: numbers of coordinates that its method takes.
        method: how the reason calls it.

    Raises:
        ValueError: saying why.
    """
    if len(problem.low) not in dims:
        count = "1 coordinate" if len(problem.low) == 1 else f"{len(problem.low)} coordinates"
        raise declined(problem, f"has {count}: {method} takes {' or '.join(map(str, dims))}")
    if problem.outputs != 1:
        raise declined(problem, f"has {problem.outputs} components: {method} solves for one")
    if problem.ansatz is not None or problem.ball:
        raise declined(problem, f"builds its known values into an ansatz: {method} has none")


@contextmanager
def failing() -> Iterator[None]:
    """Numbers that run away are a failure of the run; only the checks before it decline a problem."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise FloatingPointError(str(error)) from error


def hand_back(problem: Problem, predict: Predict, steps: int) -> Solution:
    """The solution that a contestant returns, with its error.

    Args:
        problem: what it solved.
        predict: from float64 points ``[points, dims]`` to values ``[points, 1]``.
        steps: what it took.

    Returns:
        a solution that refuses points outside the domain.

    Raises:
        FloatingPointError: if it is NaN or infinite somewhere on the test points.
    """

    def checked(points: Tensor) -> Tensor:
        problem.check(points)
        with torch.no_grad():
            return predict(points.double())

    error = float(problem.error(lambda points: checked(points)[None])[0])
    if not error < torch.inf:
        raise FloatingPointError("the solution is NaN or infinite somewhere")
    return Solution(checked, error, steps)
