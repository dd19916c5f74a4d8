r"""Diffusion-sorption as a problem of the suite: one column, filled from one end, for networks that take points.

It stands apart from :mod:`touchstone.pinns.problems` so that the records of methods that never meet it do not depend on it.
Time is counted in units of :data:`~touchstone.pinns.diffusion_sorption.HORIZON`, so that the residual's terms are of order one.
"""

import numpy as np
import torch
from torch import Tensor

from touchstone.nn.jets import Jet
from touchstone.pinns.diffusion_sorption import DIFFUSION, HORIZON, reference, retardation
from touchstone.pinns.problems import Condition, Problem, end_values, initial_values
from touchstone.pinns.references import Reference, cached, grid

START = 0.1


@cached
def sorption_solution(start: float, cells: int) -> Reference:
    """Concentration in the column on 101 times by 256 places, times in units of the horizon.

    Args:
        start: initial concentration.
        cells: finite volumes.

    Returns:
        points ``[25856, 2]`` and values ``[25856, 1]``.
    """
    field = reference(torch.tensor([start], dtype=torch.float64), 101, 256, cells, 1e-10)
    return grid(np.linspace(0, 1, 101), np.linspace(0, 1, 256)), field.reshape(-1, 1).numpy()


def _ends(u: Jet, points: Tensor) -> Tensor:
    """Misfit of the inlet's value, and of the outlet's flux."""
    outflow = u.value + DIFFUSION * u.d(1)
    return torch.where(points[..., 1:] < 0.5, u.value - 1, outflow)


def dsorp() -> Problem:
    r"""Diffusion-sorption :math:`u_t = 500\,D\,u_{xx}/R(u)` on [0, 1] from :math:`u_0=0.1`, with :math:`u(0,t)=1` and :math:`u(1,t)=-D\,u_x(1,t)`."""
    return Problem(
        name="dsorp",
        low=(0.0, 0.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) - HORIZON * DIFFUSION / retardation(u.value) * u.d(1, 2),
        conditions=(
            initial_values(lambda x: torch.full_like(x, START)),
            Condition("boundary", end_values().place, _ends, (0, 1)),
        ),
        solve=lambda: sorption_solution(START, 2048),
    )
