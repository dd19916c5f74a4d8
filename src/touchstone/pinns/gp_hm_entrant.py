r"""GP-HM in the ring: Poisson's equation, with or without a reaction on an interval, and on a rectangle.

The method's own module does not know the ring, so that the ring can grow without touching its record. Settings are those of
the method's page; only the number of steps follows the budget, from the time that a few of them take.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.pinns import gp_hm
from touchstone.pinns.equation_parts import (
    check_scalar,
    declined,
    factor,
    failing,
    given_values,
    hand_back,
    residual_of,
)
from touchstone.pinns.gp_hm import Fit, Mixture, nyquist
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution

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
        raise declined(
            problem, "is not u'' + r(u) = f on an interval: the method knows no other equation in one dimension"
        )
    places, values = given_values(problem)
    if set(places.flatten().tolist()) != {0.0, 1.0}:
        raise declined(problem, "does not give both end values: the method needs them")
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
        raise declined(problem, "is not u_xx + u_yy = f: the method's solver on rectangles knows that equation alone")
    places, values = given_values(problem)
    if problem.period is not None or not all({0.0, 1.0} <= set(axis.tolist()) for axis in places.T):
        raise declined(problem, "does not give values on all four sides: the method needs them")
    points = torch.cartesian_prod(*(grid.double() for grid in grids))
    source = -residual_of(problem, torch.zeros(5, len(points), 1, dtype=torch.float64), points) / lead
    shape = tuple(len(grid) for grid in grids)
    return source.view(shape), values(points).view(shape)


@entrant("pinns", "gp-hm")
def solve_by_spectral_peaks(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with GP-HM: Poisson with or without reaction on an interval, Poisson on a rectangle.

    Grids have 200 points, or 100 by 100; Adam takes as many steps as the budget allows.
    """
    check_scalar(problem, (1, 2), "GP-HM")
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

    with failing():
        run(1)  # what the linear algebra loads at its first use is no part of a step
        begin = budget.spent()
        trial = run(10)
        cost, begin = (budget.spent() - begin) / 10, budget.spent()
        predict(problem.scale(torch.linspace(0, 1, 160, dtype=torch.float64)[:, None].expand(-1, dims)), trial)
        # on an interval a prediction at 2000 places takes as long as a hundred steps: that much is kept for it
        kept = 2000 / 160 * (budget.spent() - begin) if dims == 1 else 0.0
        steps = max(1, int((0.93 * budget.seconds - kept - budget.spent()) / cost))
        fit = run(steps)
    return hand_back(problem, lambda points: predict(points, fit), steps)
