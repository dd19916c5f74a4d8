r"""Diffusion-sorption in one dimension: the equation, its finite differences on a grid, and a finite-volume reference.

A solute diffuses through a porous column and sticks to its walls, the more the thinner it is:

.. math::

   \partial_t u = \frac{D}{R(u)}\,\partial_{xx}u, \qquad
   R(u) = 1 + \frac{1-\phi}{\phi}\,\rho_s\,k\,n_f\,\max(u, 10^{-6})^{n_f-1}, \qquad x\in[0,1],\ t\in(0,500],

from a constant :math:`u(x,0)=a`, with :math:`u(0,t)=1` and an outflow at the other end. The outflow is
:math:`u(1,t)=-D\,\partial_xu(1,t)`. With a plus sign, which is how the condition is often printed, the boundary would feed
the column: :math:`e^{x/D+t/(RD)}` would solve the linearised problem, and finer grids would blow up sooner. The data set
PDEBench (Takamoto et al., 2022, arXiv:2210.07182), where this problem comes from, was computed with the minus sign.

Everything here is in float64.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_array, diags_array, vstack
from scipy.sparse.linalg import spsolve
from torch import Tensor

from touchstone.checks import finite, shaped

DIFFUSION, POROSITY, DENSITY, SORPTION, EXPONENT, HORIZON = 5e-4, 0.29, 2880.0, 3.5e-4, 0.874, 500.0
_STICKING = (1 - POROSITY) / POROSITY * DENSITY * SORPTION * EXPONENT


def retardation(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How many times sorption slows the diffusion at concentration ``u``; below 1e-6 it no longer depends on it."""
    return 1 + _STICKING * u.clamp(min=1e-6) ** (EXPONENT - 1)


def equation(terms: Float[Tensor, "*batch 3 points"]) -> Float[Tensor, "*batch points"]:
    """Residual of the equation at points, each for itself.

    Args:
        terms: the solution, its time derivative and its second derivative in space.

    Returns:
        time derivative minus retarded diffusion, in units of 1/s.
    """
    u, rate, bend = terms.unbind(-2)
    return rate - DIFFUSION / retardation(u) * bend


def derivative_terms(
    field: Float[Tensor, "*batch times places"], duration: float = HORIZON, length: float = 1.0
) -> Float[Tensor, "*batch 3 later inner"]:
    """A field on the grid, and its derivatives by finite differences, at all times but the first and all inner places.

    In time the differences are central, at the last time backward; in space they are the compact ones. They are linear
    in the field, so those of basis functions are taken once and then recombined.

    Args:
        field: values on a uniform grid that includes both ends of the column and the initial time.
        duration: time between the first and the last row.
        length: distance between the first and the last column.

    Returns:
        value, time derivative and second derivative in space, ``[..., 3, times - 1, places - 2]``.

    Raises:
        ValueError: if the grid has fewer than three times or places.
    """
    times, places = field.shape[-2:]
    if times < 3 or places < 3:
        raise ValueError(f"field has {times} times and {places} places: differences need three of each")
    step, spacing = duration / (times - 1), length / (places - 1)
    inner = field[..., 1:-1]
    central = (inner[..., 2:, :] - inner[..., :-2, :]) / (2 * step)
    last = (inner[..., -1:, :] - inner[..., -2:-1, :]) / step
    bend = (field[..., 2:] - 2 * inner + field[..., :-2])[..., 1:, :] / spacing**2
    return torch.stack([inner[..., 1:, :], torch.cat([central, last], -2), bend], -3)


def edge_rows(field: Float[Tensor, "*batch times places"]) -> Float[Tensor, "*batch rows"]:
    r"""What the initial and boundary conditions are about: linear in the field, to be compared with :func:`edge_values`.

    Args:
        field: values on a uniform grid that includes both ends of the column and the initial time.

    Returns:
        the field at the first time without the two ends, where initial and boundary values contradict each other and no
        difference looks; then at the later times the inlet's value and the outlet's
        :math:`u + D\,\partial_x u` (one-sided difference).
    """
    places = field.shape[-1]
    later = field[..., 1:, :]
    outflow = later[..., -1] + DIFFUSION * (later[..., -1] - later[..., -2]) * (places - 1)
    return torch.cat([field[..., 0, 1:-1], later[..., 0], outflow], -1)


def edge_values(
    start: Float[Tensor, " cases"], times: int = 41, places: int = 64
) -> tuple[Float[Tensor, "cases rows"], Float[Tensor, " cases rows"]]:
    """The values that :func:`edge_rows` should have, and by what each row is divided in a misfit.

    Args:
        start: initial concentration of every case, positive.
        times: rows of the grid.
        places: columns of the grid.

    Returns:
        targets, and scales: the initial rows count relative to the initial value, the boundary rows as they are.

    Raises:
        ValueError: if an initial concentration is not positive and finite.
    """
    _check(start)
    inside = start[:, None].double().expand(-1, places - 2)
    ones = torch.ones(len(start), times - 1, dtype=torch.float64)
    return torch.cat([inside, ones, torch.zeros_like(ones)], 1), torch.cat([inside, ones, ones], 1)


def draw_starts(cases: int, seed: int) -> Float[Tensor, " cases"]:
    """Initial concentrations, uniform between 0 and 0.2."""
    if cases < 1:
        raise ValueError(f"cases is {cases}: draw at least one")
    return 0.2 * torch.rand(cases, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_inputs(
    start: Float[Tensor, " cases"], times: int = 41, places: int = 64
) -> Float[Tensor, "cases 3 times places"]:
    """Input channels of an operator: time and place, both rescaled to [0, 1], and the initial concentration times 10.

    Args:
        start: initial concentration of every case.
        times: rows of the grid.
        places: columns of the grid.

    Returns:
        three channels on the grid.

    Raises:
        ValueError: if an initial concentration is not positive and finite.
    """
    _check(start)
    t, x = torch.linspace(0, 1, times, dtype=torch.float64), torch.linspace(0, 1, places, dtype=torch.float64)
    shape = (len(start), times, places)
    channels = [t[:, None].expand(shape), x.expand(shape), 10 * start.double()[:, None, None].expand(shape)]
    return torch.stack(channels, 1)


def reference(
    start: Float[Tensor, " cases"], times: int = 41, places: int = 64, cells: int = 512, tolerance: float = 1e-8
) -> Float[Tensor, "cases times places"]:
    """Solutions by finite volumes in space and an implicit integrator of variable order in time, on a uniform grid.

    Args:
        start: initial concentration of every case, positive.
        times: rows of the grid, the first at time 0.
        places: columns of the grid, both ends included.
        cells: finite volumes.
        tolerance: relative tolerance of the integrator.

    Returns:
        concentrations; the first row is the initial value, also at the ends.

    Raises:
        ValueError: if an initial concentration is not positive and finite.
    """
    _check(start)
    width = 1 / cells
    centres = (np.arange(cells) + 0.5) * width
    faces = np.concatenate([[0.0], centres, [1.0]])
    kept = 1 / (1 + width / (2 * DIFFUSION))  # outlet value over that of the last cell, from u = -D u_x

    def rate(_, u):
        across = np.diff(np.concatenate([[1.0], u, [kept * u[-1]]])) / np.diff(faces)
        slowed = 1 + _STICKING * np.maximum(u, 1e-6) ** (EXPONENT - 1)
        return DIFFUSION / slowed * np.diff(across) / width

    found = []
    for value in start.tolist():
        run = solve_ivp(
            rate, (0, HORIZON), np.full(cells, value), "LSODA", np.linspace(0, HORIZON, times),
            rtol=tolerance, atol=tolerance * 1e-2, lband=1, uband=1,
        )  # fmt: skip
        u = run.y.T
        whole = np.concatenate([np.ones((times, 1)), u, kept * u[:, -1:]], 1)
        whole = CubicSpline(faces, whole, axis=1)(np.linspace(0, 1, places))
        whole[0] = value
        found.append(whole)
    return torch.as_tensor(np.stack(found))


def grid_solution(
    start: Float[Tensor, " cases"], times: int = 41, places: int = 64
) -> Float[Tensor, "cases times places"]:
    """The field on the grid that fulfils all discrete equations at once: what a method that minimises them can reach at best.

    There are as many equations as grid values, the two ends at the first time aside; Newton's method starts from the reference.

    Args:
        start: initial concentration of every case, positive.
        times: rows of the grid.
        places: columns of the grid.

    Returns:
        concentrations on the grid.

    Raises:
        ValueError: if an initial concentration is not positive and finite.
    """
    _check(start)
    targets, scales = edge_values(start, times, places)
    found = reference(start, times, places)
    unit = torch.eye(times * places, dtype=torch.float64).view(-1, times, places)
    operators = [csr_array(part.flatten(1).T.numpy()) for part in derivative_terms(unit).unbind(1)]
    edges = edge_rows(unit).T.numpy()
    corners = csr_array(unit.view(len(unit), -1)[[0, places - 1]].numpy())  # in no equation: they stay as they are
    for case, field in enumerate(found):
        scaled = csr_array(edges / scales[case, :, None].numpy())
        for _ in range(4):
            terms = derivative_terms(field).flatten(-2).requires_grad_()
            residual = equation(terms)
            (slopes,) = torch.autograd.grad(residual.sum(), terms)
            bent = sum(diags_array(slope.numpy()) @ part for slope, part in zip(slopes, operators, strict=True))
            misfit = (edge_rows(field) - targets[case]) / scales[case]
            right = torch.cat([misfit, residual.detach(), torch.zeros(2, dtype=torch.float64)])
            field -= torch.as_tensor(spsolve(vstack([scaled, bent, corners], format="csc"), right.numpy())).view_as(
                field
            )
    return found


def _check(start: Tensor) -> None:
    shaped("start", start, ("cases",))
    finite(start=start)
    if bool((start <= 0).any()):
        raise ValueError(f"start has the value {float(start.min()):g}: initial concentrations must be positive")
