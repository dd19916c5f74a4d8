r"""Methods whose own modules do not know the ring, entered here so that it can grow without touching their records.

A :class:`Problem` hides its equation in a function of jets, while these methods want the equation's parts: a right
side, a source, the factor of the highest derivative. The parts are recovered by evaluating the equation on chosen jets.
What a method's public functions cannot take is declined. Settings are those of the methods' own pages; only the
number of steps or iterations follows the budget, from the time that a few of them take.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.nn.jets import Jet
from touchstone.pinns import gp_hm, multistage_nn
from touchstone.pinns.gp_hm import Fit, Mixture, nyquist
from touchstone.pinns.insr_pde import Field, Rows, Siren, jittered, levenberg_marquardt, pointwise_rows, time_step
from touchstone.pinns.multistage_nn import Equation, Sum
from touchstone.pinns.problems import Condition, Problem
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
        raise _declined(problem, f"has the conditions {names}: the method takes values on one edge, and nothing else")
    (condition,) = problem.conditions
    places = condition.place(64).double()

    def misfit(points: Tensor, value: float) -> Tensor:
        streams = torch.full((1, 1, len(points), 1), value, dtype=torch.float64)
        return condition.misfit(Jet(streams, condition.orders), points[None])[0]

    points = problem.scale(places)
    if not torch.allclose(misfit(points, 2.0) - misfit(points, 0.0), torch.tensor(2.0, dtype=torch.float64)):
        raise _declined(problem, "prescribes something else than values on its edge: the method takes values")
    return places, lambda points: -misfit(points.double(), 0.0)


def _declined(problem: Problem, reason: str) -> ValueError:
    return ValueError(f"problem {problem.name!r} {reason}")


def _scalar(problem: Problem, dims: tuple[int, ...], method: str) -> None:
    """Decline systems, other numbers of coordinates and conditions that are built in."""
    if len(problem.low) not in dims:
        count = "1 coordinate" if len(problem.low) == 1 else f"{len(problem.low)} coordinates"
        raise _declined(problem, f"has {count}: {method} takes {' or '.join(map(str, dims))}")
    if problem.outputs != 1:
        raise _declined(problem, f"has {problem.outputs} components: {method} solves for one")
    if problem.ansatz is not None or problem.ball:
        raise _declined(problem, f"builds its known values into an ansatz: {method} has none")


@contextmanager
def _failing() -> Iterator[None]:
    """Numbers that run away are a failure of the run; only the checks before it decline a problem."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise FloatingPointError(str(error)) from error


def _hand_back(problem: Problem, predict: Predict, steps: int) -> Solution:
    def checked(points: Tensor) -> Tensor:
        problem.check(points)
        with torch.no_grad():
            return predict(points.double())

    error = float(problem.error(lambda points: checked(points)[None])[0])
    if not error < torch.inf:
        raise FloatingPointError("the solution is NaN or infinite somewhere")
    return Solution(checked, error, steps)


# --- GP-HM ------------------------------------------------------------------------------------------------------------

LINE, PLANE = 200, 100  # grid points on an interval, and on each side of a rectangle


def kernel(grid: Float[Tensor, " n"], seed: int) -> Mixture:
    """Thirty Student-t peaks with frequencies up to 95 % of what the grid can tell apart.

    The method has no random numbers: seeds stand for starts near the published one, drawn as on the method's page.

    Args:
        grid: ascending uniform grid.
        seed: 0 for the published initial values.

    Returns:
        the covariance at its start.
    """
    highest = 0.95 * nyquist(grid)
    mixture = Mixture(highest)
    if seed:
        draw, count = torch.Generator().manual_seed(seed), len(mixture.log_scales)
        shift = 0.2 * torch.rand(count, generator=draw, dtype=torch.float64) - 0.1
        scales, weights = 0.2 * torch.randn(2, count, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            mixture.frequencies.add_(shift * highest / (count - 1))
            mixture.log_scales.add_(scales)
            mixture.free_weights.add_(weights)
    return mixture


def line_parts(
    problem: Problem, grid: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "2"], Callable[[Tensor], Tensor] | None]:
    r"""Source, end values and reaction of a problem :math:`a(u''+\rho(u,x)-f(x))=0` on an interval.

    Args:
        problem: one of a single coordinate.
        grid: where the source is wanted.

    Returns:
        the :math:`f` on the grid, the values at both ends, and :math:`\rho` for values there, or ``None``.

    Raises:
        ValueError: if the equation or what is known on its ends is of another kind.
    """
    lead = factor(problem, 2) if problem.orders == (2,) else None
    if not lead or factor(problem, 1) != 0:
        raise _declined(
            problem, "is not u'' + r(u) = f on an interval: the method knows no other equation in one dimension"
        )
    places, values = given_values(problem)
    if set(places.flatten().tolist()) != {0.0, 1.0}:
        raise _declined(problem, "does not give both end values: the method needs them")
    points = grid[:, None].double()

    def rest(u: Tensor) -> Tensor:
        zero = torch.zeros_like(u)
        return residual_of(problem, torch.stack([u, zero, zero])[..., None], points)[:, 0] / lead

    source = -rest(torch.zeros(len(grid), dtype=torch.float64))
    reaction = None if factor(problem, 0) == 0 else lambda u: rest(u) + source
    return source, values(points[[0, -1]])[:, 0], reaction


def plane_parts(
    problem: Problem, grids: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"]]
) -> tuple[Float[Tensor, "n1 n2"], Float[Tensor, "n1 n2"]]:
    r"""Source and edge values of a problem :math:`a(\Delta u-f)=0` on a rectangle.

    Args:
        problem: one of two coordinates.
        grids: where they are wanted.

    Returns:
        the :math:`f` and the known values on the grid; of the latter only those on the four sides mean something.

    Raises:
        ValueError: if the equation or what is known on its edge is of another kind.
    """
    factors = [factor(problem, stream) for stream in range(5)] if problem.orders == (2, 2) else [None]
    lead = factors[-1]
    if not lead or factors != [0, 0, lead, 0, lead]:
        raise _declined(problem, "is not u_xx + u_yy = f: the method's solver on rectangles knows that equation alone")
    places, values = given_values(problem)
    if problem.period is not None or not all({0.0, 1.0} <= set(axis.tolist()) for axis in places.T):
        raise _declined(problem, "does not give values on all four sides: the method needs them")
    points = torch.cartesian_prod(*(grid.double() for grid in grids))
    source = -residual_of(problem, torch.zeros(5, len(points), 1, dtype=torch.float64), points) / lead
    shape = tuple(len(grid) for grid in grids)
    return source.view(shape), values(points).view(shape)


@entrant("pinns", "gp-hm")
def solve_by_spectral_peaks(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with GP-HM: Poisson with or without reaction on an interval, Poisson on a rectangle.

    Grids have 200 points, or 100 by 100; Adam takes as many steps as the budget allows.
    """
    _scalar(problem, (1, 2), "GP-HM")
    dims = len(problem.low)
    grids = tuple(
        torch.linspace(a, b, LINE if dims == 1 else PLANE, dtype=torch.float64)
        for a, b in zip(problem.low, problem.high, strict=True)
    )
    if dims == 1:
        source, ends, reaction = line_parts(problem, grids[0])
    else:
        source, edges = plane_parts(problem, grids)

    def run(steps: int) -> Fit:
        if dims == 1:
            return gp_hm.solve_line(grids[0], source, ends, kernel(grids[0], seed), steps, reaction)
        kernels = kernel(grids[0], 2 * seed), kernel(grids[1], 2 * seed + 1 if seed else 0)
        return gp_hm.solve_plane(grids, source, edges, kernels, steps)

    def predict(points: Tensor, fit: Fit) -> Tensor:
        found = []
        for block in points.split(
            16 if dims == 1 else 2048
        ):  # at all pairs of a block's coordinates; small blocks stay in cache
            axes = [axis.unique(return_inverse=True) for axis in block.T]
            found.append(fit.predict(*(axis for axis, _ in axes))[tuple(index for _, index in axes)])
        return torch.cat(found)[:, None]

    with _failing():
        run(1)  # what the linear algebra loads at its first use is no part of a step
        begin = budget.spent()
        trial = run(10)
        cost, begin = (budget.spent() - begin) / 10, budget.spent()
        predict(problem.scale(torch.linspace(0, 1, 160, dtype=torch.float64)[:, None].expand(-1, dims)), trial)
        # on an interval a prediction at 2000 places takes as long as a hundred steps: that much is kept for it
        kept = 2000 / 160 * (budget.spent() - begin) if dims == 1 else 0.0
        steps = max(1, int((0.93 * budget.seconds - kept - budget.spent()) / cost))
        fit = run(steps)
    return _hand_back(problem, lambda points: predict(points, fit), steps)


# --- Implicit neural spatial representations --------------------------------------------------------------------------

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
    _scalar(problem, (2,), "the time stepper")
    if problem.orders[0] != 1 or factor(problem, 1) != 1:
        raise _declined(problem, "is not of the form u_t = F[u]: only that is stepped in time")
    if problem.orders[1] > 2:
        raise _declined(
            problem,
            f"needs a derivative of order {problem.orders[1]} in space: the sine network carries orders up to 2",
        )
    first = [condition for condition in problem.conditions if condition.name == "initial"]
    others = [condition for condition in problem.conditions if condition.name != "initial"]
    if len(first) != 1 or any(condition.orders[0] or condition.orders[1] > 2 for condition in problem.conditions):
        raise _declined(problem, "needs one initial condition, and none with a derivative in time, to be stepped")
    if any(not set(condition.place(8)[:, 1].tolist()) <= {0.0, 1.0} for condition in others):
        raise _declined(problem, "has conditions away from both ends: the time stepper takes conditions at the ends")
    if not others and problem.period is None and problem.orders[1]:
        raise _declined(problem, "has neither a period nor conditions at its ends: a step in time needs them")
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

    with _failing():
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

    return _hand_back(problem, predict, taken + ITERATIONS * (len(times) - 1))


# --- Multi-stage networks ---------------------------------------------------------------------------------------------

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
    _scalar(problem, (1,), "a multi-stage network")
    (order,), (low,), (high,) = problem.orders, problem.low, problem.high
    lead, rate = factor(problem, order), 2 / (high - low)
    if order not in (1, 2) or not lead:
        raise _declined(
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

    with _failing():
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

    return _hand_back(problem, predict, taken)
