"""What an implicit neural representation is measured against: a grid and a Fourier basis with the same integrator, and space-time networks."""

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_banded
from torch import Tensor

from touchstone.pinns.insr_pde import Siren, known_values, levenberg_marquardt, pointwise_rows

Ends = Callable[[float], tuple[float, float]]


def grid_midpoint(
    start: Float[np.ndarray, " nodes"],
    low: float | int,
    high: float | int,
    dt: float,
    steps: int,
    ends: Ends,
    speed: float | int = 0.0,
    burgers: float = 0.0,
    viscosity: float = 0.0,
) -> Float[np.ndarray, "times nodes"]:
    r"""Implicit midpoint with second-order central differences for :math:`u_t + (c\,u + \tfrac b2u^2)_x = \nu u_{xx}`.

    Args:
        start: initial values on a uniform grid that includes both ends.
        low: position of the first node.
        high: position of the last node.
        dt: time step.
        steps: number of steps.
        ends: values at both ends at a given time.
        speed: the :math:`c`.
        burgers: the :math:`b`.
        viscosity: the :math:`\nu`.

    Returns:
        values at all times, the start included.
    """
    spacing = (high - low) / (len(start) - 1)
    kept, spread = [np.asarray(start, dtype=float)], viscosity / spacing**2
    for number in range(1, steps + 1):
        old, new = kept[-1], kept[-1].copy()
        new[0], new[-1] = ends(number * dt)
        for _ in range(30):  # Newton; a linear equation needs one
            u = (old + new) / 2
            flux, slope = speed * u + burgers / 2 * u**2, speed + burgers * u
            rate = -(flux[2:] - flux[:-2]) / (2 * spacing) + spread * np.diff(u, 2)
            bands = np.zeros((3, len(u) - 2))
            bands[0, 1:] = (slope[2:-1] / (2 * spacing) - spread) * dt / 2
            bands[1] = 1 + dt * spread
            bands[2, :-1] = (-slope[1:-2] / (2 * spacing) - spread) * dt / 2
            change = solve_banded((1, 1), bands, new[1:-1] - old[1:-1] - dt * rate)
            new[1:-1] -= change
            if np.abs(change).max() < 1e-12:
                break
        kept.append(new)
    return np.stack(kept)


def fourier_midpoint(
    start: Float[np.ndarray, " nodes"],
    period: float | int,
    dt: float,
    steps: int,
    speed: float | int = 0.0,
    burgers: float = 0.0,
    viscosity: float = 0.0,
) -> Float[np.ndarray, "times nodes"]:
    """The same integrator and equation in a Fourier basis with as many unknowns as nodes (odd), without dealiasing.

    Args:
        start: initial values on a uniform periodic grid.
        period: its length.
        dt: time step.
        steps: number of steps.
        speed: advection speed.
        burgers: factor of the quadratic flux.
        viscosity: diffusion coefficient.

    Returns:
        values at all times, the start included.

    Raises:
        ValueError: if the number of nodes is even, or the equations of a step cannot be solved.
    """
    nodes = len(start)
    if nodes % 2 == 0:
        raise ValueError(f"start has {nodes} nodes: an odd number is needed, so that every mode has its partner")
    wave = 2j * np.pi / period * np.fft.fftfreq(nodes, 1 / nodes)
    unit = np.fft.fft(np.eye(nodes), axis=0)
    first, second = (np.fft.ifft(factor[:, None] * unit, axis=0).real for factor in (wave, wave**2))
    kept = [np.asarray(start, dtype=float)]
    linear = viscosity * second - speed * first
    for _ in range(steps):
        old, new = kept[-1], kept[-1].copy()
        for _ in range(30):
            u = (old + new) / 2
            misfit = new - old - dt * (linear @ u - burgers / 2 * first @ u**2)
            change = np.linalg.solve(np.eye(nodes) - dt / 2 * (linear - burgers * first * u), misfit)
            new = new - change
            if np.abs(change).max() < 1e-12:
                break
        else:
            raise ValueError("dt is too large: Newton's method did not converge")
        kept.append(new)
    return np.stack(kept)


def at_places(
    values: Float[np.ndarray, " nodes"], nodes: Float[np.ndarray, " nodes"], places: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """A grid function between its nodes, by cubic splines."""
    return CubicSpline(nodes, values)(places)


def space_time_network(
    seed: int,
    seconds: float,
    initial: Callable[[Tensor], Tensor],
    speed: float,
    horizon: float,
    half_width: float,
    optimiser: Literal["Adam", "Levenberg-Marquardt"] = "Adam",
    hidden: tuple[int, ...] = (10, 10, 10),
) -> tuple[Siren, Float[Tensor, " weights"]]:
    """One sine network of time and place for the advection equation, trained for a given computing time.

    Coordinates are rescaled to [-1, 1] in time and kept in place. The initial line counts a hundredfold, both ends once.

    Args:
        seed: of weights and points.
        seconds: computing time to spend.
        initial: the initial values.
        speed: of the advection.
        horizon: last time.
        half_width: the domain is twice as wide, around 0.
        optimiser: ``Adam`` on 800 fresh points (initial rate 5e-3, decaying to a hundredth over the time that there is), or
            ``Levenberg-Marquardt``, eight iterations each on 2000 fresh points.
        hidden: units of the hidden layers.

    Returns:
        the network, whose inputs are rescaled time and place, and its weights.
    """
    generator = torch.Generator().manual_seed(seed)
    field = Siren((2, *hidden, 1), 10.0)
    weights = field.start(generator)
    stretch = 2 / horizon

    def problem(count: int):
        unit = 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
        inside = unit * torch.tensor([1.0, half_width], dtype=torch.float64)
        line = torch.linspace(-half_width, half_width, 400, dtype=torch.float64)[:, None]
        first = torch.cat([-torch.ones_like(line), line], 1)
        sides = torch.cat(
            [torch.tensor([[t, -half_width], [t, half_width]]) for t in torch.linspace(-1, 1, 20).tolist()]
        )
        return inside, first, initial(line), sides.double()

    def equation(streams, _):
        return stretch * streams[1] + speed * streams[2]

    clock = time.process_time()
    if optimiser == "Levenberg-Marquardt":
        while time.process_time() - clock < seconds:
            inside, first, values, sides = problem(2000)
            rows = [
                pointwise_rows(field, inside, equation, (), 1),
                known_values(field, first, values, 100.0),
                known_values(field, sides, torch.zeros(len(sides), 1, dtype=torch.float64)),
            ]
            weights = levenberg_marquardt(weights, rows, iterations=8)
        return field, weights
    weights.requires_grad_()
    adam = torch.optim.Adam([weights], lr=5e-3)
    while (spent := (time.process_time() - clock) / seconds) < 1:
        inside, first, values, sides = problem(800)
        for group in adam.param_groups:
            group["lr"] = 5e-3 * 0.01**spent
        loss = equation(field(weights, inside, 1), inside).square().mean()
        loss = (
            loss + 100 * (field(weights, first)[0] - values).square().mean() + field(weights, sides)[0].square().mean()
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    return field, weights.detach()
